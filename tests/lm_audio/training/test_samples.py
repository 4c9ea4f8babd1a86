"""Samples are what a stage generates, in its windows, of the prompt and the source."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lm_audio.data.shards import Shards
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.track import Track
from lm_audio.sampling import Sampling
from lm_audio.training.samples import log_samples, sample_tokens
from lm_audio.training.stage_batches import StageBatches
from lm_audio.training.tracking import Tracker


def test_samples_are_those_of_a_whole_cascade(duet_stages: Callable[..., list[LMStage]]) -> None:
    semantic, acoustic = duet_stages(window_frames=40)
    runs = [
        Track(
            values=torch.full((stage.num_codebooks, frames), -1),
            seed=3,
            sampling=stage.sampling,
            conditions={"text": "rain"},
        )
        for stage, frames in [(semantic, 50), (acoustic, 100)]
    ]
    runs[1].source = runs[0]
    for stage, run in zip([semantic, acoustic], runs, strict=True):
        batch = stage.new_batch()
        batch.add(run)
        while batch.step():
            pass
    rain = {"text": "rain"}
    first = sample_tokens(semantic, num_frames=50, seed=3, conditions=rain)
    assert torch.equal(first, runs[0].values)
    tokens = sample_tokens(
        acoustic, num_frames=100, seed=3, conditions=rain, source=first.to(torch.int16)
    )
    assert torch.equal(tokens, runs[1].values)
    other = sample_tokens(acoustic, num_frames=100, seed=4, conditions=rain, source=first)
    assert not torch.equal(tokens, other)


def test_a_prompt_is_kept_and_continued(audiogen_stage: LMStage) -> None:
    greedy = Sampling(temperature=0.0, guidance_scale=1.0)
    stage = replace(audiogen_stage, sampling=greedy)
    whole = sample_tokens(stage, num_frames=30, seed=0)
    again = sample_tokens(stage, num_frames=30, seed=1, prompt=whole[:, :11])
    assert whole.shape == (4, 30)
    assert torch.equal(again, whole)
    prompt = (whole[:, :11] + 1) % 16
    assert torch.equal(sample_tokens(stage, num_frames=30, seed=0, prompt=prompt)[:, :11], prompt)


class Log(Tracker):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.sounds: list[Tensor] = []
        self.texts: list[str] = []

    def sound(self, _name: str, samples: Tensor, _rate: int, **_: int) -> None:
        self.sounds.append(samples)

    def text(self, _name: str, text: str, **_: int) -> None:
        self.texts.append(text)


class AsSound:
    """A renderer whose samples are the tokens."""

    sample_rate = 50

    def render(self, tokens: Tensor) -> Tensor:
        return tokens


def held_out_batches(stage: LMStage, shards: Shards, source: LMStage | None = None) -> StageBatches:
    return StageBatches(stage, shards, source=source, tokens=800, seed=0, dropout=None)


def test_a_stage_is_heard_after_the_source_tokens_of_an_example(
    duet_stages: Callable[..., list[LMStage]], make_shards: Callable[..., Shards]
) -> None:
    source, stage = duet_stages(window_frames=60)
    shards, log = make_shards([40, 100]), Log()
    batches = held_out_batches(stage, shards, source)
    log_samples(stage, batches, log, step=1, renderer=AsSound())  # type: ignore[arg-type]
    assert [sound.shape for sound in log.sounds] == [(4, 40), (4, 60)]
    for index, sound in enumerate(log.sounds):
        given = {"conditions": {"text": "rain"}, "source": shards.read(index, "semantic")}
        expected = sample_tokens(stage, num_frames=sound.shape[1], seed=index, **given)
        assert torch.equal(sound, expected)


def test_a_semantic_stage_is_logged_as_text_and_heard_through_the_next(
    duet_stages: Callable[..., list[LMStage]], make_shards: Callable[..., Shards]
) -> None:
    semantic, acoustic = duet_stages(window_frames=60)
    stage = replace(semantic, window_frames=20, overlap_frames=0)
    batches, log = held_out_batches(stage, make_shards([40])), Log()
    log_samples(stage, batches, log, step=1, renderer=AsSound())  # type: ignore[arg-type]
    tokens = sample_tokens(stage, num_frames=20, seed=0, conditions={"text": "rain"})
    assert (log.texts, log.sounds) == ([" ".join(map(str, tokens[0].tolist()))], [])
    log_samples(stage, batches, log, step=1, renderer=AsSound(), following=acoustic)  # type: ignore[arg-type]
    given = {"conditions": {"text": "rain"}, "source": tokens}
    assert torch.equal(log.sounds[0], sample_tokens(acoustic, num_frames=40, seed=0, **given))


def test_fine_codebooks_are_heard_with_the_coarse_ones(
    audiolm_stages: list[LMStage], make_shards: Callable[..., Shards]
) -> None:
    _, coarse, fine = audiolm_stages
    shards, log = make_shards([40]), Log()
    batches = held_out_batches(fine, shards, coarse)
    log_samples(fine, batches, log, step=1, renderer=AsSound())  # type: ignore[arg-type]
    (sound,) = log.sounds
    known = shards.read(0, "acoustic", 0, sound.shape[1])[: coarse.num_codebooks]
    assert sound.shape[0] == 4
    assert torch.equal(sound[: coarse.num_codebooks], known.long())
