"""Bark's three stages against transformers, token by token."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    BarkCoarseConfig,
    BarkCoarseModel,
    BarkFineConfig,
    BarkFineModel,
    BarkSemanticConfig,
    BarkSemanticModel,
    EncodecConfig,
    EncodecModel,
    PreTrainedTokenizerFast,
)
from transformers.models.bark.generation_configuration_bark import (
    BarkCoarseGenerationConfig,
    BarkFineGenerationConfig,
    BarkSemanticGenerationConfig,
)

from audio_tokenizers.acoustic.encodec import EncodecTokenizer
from lm_audio.families.bark.parts import (
    BarkParts,
    BarkSettings,
    Shape,
    build_coarse,
    build_fine_model,
    build_semantic,
    voices_of,
)
from lm_audio.families.bark.stages import bark
from lm_audio.generation.session import Session
from lm_audio.generation.track import Track
from lm_audio.model import Model
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling
from tests.lm_audio.tracks_only import TracksOnly
from tests.lm_audio.tracks_only import finish as finish_tracks

GREEDY = Sampling(temperature=0, top_k=0, guidance_scale=1.0)
SETTINGS = BarkSettings(
    codebook_size=16, text_offset=48, text_pad=90, text_length=8, semantic_size=40,
    semantic_pad=40, semantic_start=94, semantic_length=24, semantic_rate=Fraction(499, 10),
    coarse_pad=72, coarse_start=74, coarse_context=12, coarse_history=21, coarse_window=6,
    fine_window=16, fine_hop=8, semantic=GREEDY, coarse=GREEDY, fine=GREEDY,
)  # fmt: skip
WORDS = ["[PAD]", "[UNK]", "a", "dog", "says", "hello", "and", "barks"]
TEXTS = ["a dog barks and says hello", "a dog and a dog and a dog says hello and barks"]


class Reference:
    """transformers' three models, run one after the other."""

    def __init__(self, seed: int) -> None:
        shape = {"num_layers": 2, "num_heads": 2, "hidden_size": 16, "block_size": 64}
        self.semantic = BarkSemanticModel(
            BarkSemanticConfig(**shape, input_vocab_size=96, output_vocab_size=48)
        ).eval()
        self.coarse = BarkCoarseModel(
            BarkCoarseConfig(**shape, input_vocab_size=76, output_vocab_size=76)
        ).eval()
        self.fine = BarkFineModel(
            BarkFineConfig(**shape, input_vocab_size=18, output_vocab_size=18)
        ).eval()
        seeds = {self.semantic: seed, self.coarse: 2, self.fine: 2}
        for model, seed in seeds.items():
            torch.manual_seed(seed)
            for name, weight in model.named_parameters():
                is_scale = "norm" in name and name.endswith("weight")
                torch.nn.init.normal_(weight, float(is_scale), 3.0 if "position" in name else 0.6)
        with torch.no_grad():
            self.semantic.lm_head.weight[40] *= 1.5  # some speeches end before the limit
            # transformers does not forbid tokens beyond the last codebook: let none of them win
            self.coarse.lm_head.weight[72:] = self.coarse.lm_head.weight[56]
        self.semantic_config = BarkSemanticGenerationConfig(
            eos_token_id=40, semantic_vocab_size=40, text_encoding_offset=48, text_pad_token=90,
            semantic_infer_token=94, max_input_semantic_length=8, max_new_tokens=24,
        )  # fmt: skip
        self.coarse_config = BarkCoarseGenerationConfig(
            coarse_semantic_pad_token=72, coarse_infer_token=74, max_coarse_input_length=12,
            max_coarse_history=21, sliding_window_len=6,
        )  # fmt: skip
        self.fine_config = BarkFineGenerationConfig(
            max_fine_input_length=16, max_fine_history_length=8, temperature=None
        )

    @torch.no_grad()
    def __call__(self, text: str, voice: dict[str, Any] | None) -> list[Tensor]:
        """The tokens [K, T] of each stage."""
        ids = [WORDS.index(word) for word in text.split()][:8]
        mask = [1] * len(ids) + [0] * (8 - len(ids))
        prompt = None if voice is None else {k: torch.as_tensor(x) for k, x in voice.items()}
        semantic = self.semantic.generate(
            torch.tensor([ids + [0] * (8 - len(ids))]),
            semantic_generation_config=self.semantic_config,
            history_prompt=prompt,
            attention_mask=torch.tensor([mask]),
        )
        coarse = self.coarse.generate(
            semantic.clone(),
            semantic_generation_config=self.semantic_config,
            coarse_generation_config=self.coarse_config,
            codebook_size=16,
            history_prompt=prompt,
        )
        fine = self.fine.generate(
            coarse,
            semantic_generation_config=self.semantic_config,
            coarse_generation_config=self.coarse_config,
            fine_generation_config=self.fine_config,
            codebook_size=16,
            history_prompt=prompt,
        )
        flat = coarse[0].view(-1, 2).T - 40
        return [semantic[:, semantic[0] != 40], flat - torch.tensor([[0], [16]]), fine[0].long()]


@pytest.fixture(scope="module")
def references() -> dict[str, Reference]:
    """One whose speeches end before their limit, and one whose speeches do not."""
    return {"ends early": Reference(0), "goes on": Reference(4)}


@pytest.fixture(scope="module")
def parts(references: dict[str, Reference]) -> BarkParts:
    return make_parts(references["goes on"])


def make_parts(reference: Reference) -> BarkParts:
    def shape(model: Any) -> Shape:
        config = model.config
        return Shape(
            dim=16, num_layers=2, num_heads=2, num_positions=64, bias=True,
            num_inputs=config.input_vocab_size, vocab_size=config.output_vocab_size,
        )  # fmt: skip

    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    codec = EncodecModel(EncodecConfig(num_filters=4, hidden_size=8, codebook_size=16))
    for layer in codec.quantizer.layers:
        torch.nn.init.normal_(layer.codebook.embed)
    return BarkParts(
        semantic=build_semantic(
            reference.semantic.state_dict(), shape(reference.semantic), source="test"
        ),
        coarse=build_coarse(
            reference.coarse.state_dict(),
            shape(reference.coarse),
            settings=SETTINGS,
            source="test",
        ),
        fine=build_fine_model(reference.fine.state_dict(), shape(reference.fine), source="test"),
        codec=EncodecTokenizer(codec),
        text_tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"),
        voices=voices_of(SETTINGS, Path("no folder")),
        settings=SETTINGS,
    )


def make_voice(seed: int, num_semantic: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    num_frames = int(num_semantic * 75 / 49.9)
    fine = random.integers(0, 16, (8, num_frames))
    return {
        "semantic_prompt": random.integers(0, 40, num_semantic),
        "coarse_prompt": fine[:2],
        "fine_prompt": fine,
    }


VOICES: list[Any] = [None, make_voice(0, 5), make_voice(1, 12), make_voice(2, 31)]


def make_runs(
    text: str | None, voice: Any, sampling: Sampling = GREEDY, seed: int = 0, length: int = 24
) -> list[Track]:
    values = {"text": text, "voice": voice}
    runs: list[Track] = []
    for num_codebooks, num_frames in ((1, length), (2, length * 3 // 2), (8, length * 3 // 2)):
        runs.append(
            Track(
                values=torch.full((num_codebooks, num_frames), -1),
                seed=seed,
                sampling=sampling,
                conditions=values,
                source=runs[-1] if runs else None,
                open_end=True,
            )
        )
    return runs


def finish(parts: BarkParts, *items: list[Track]) -> None:
    finish_tracks(bark(parts), *items)


@pytest.mark.parametrize("voice", VOICES, ids=["no voice", "short", "middle", "long"])
@pytest.mark.parametrize("text", TEXTS, ids=["fits", "too long"])
@pytest.mark.parametrize("kind", ["ends early", "goes on"])
def test_greedy_tokens_of_all_stages_equal_those_of_transformers(
    references: dict[str, Reference], kind: str, text: str, voice: Any
) -> None:
    expected = references[kind](text, voice)
    runs = make_runs(text, voice)
    finish(make_parts(references[kind]), runs)
    for run, tokens in zip(runs, expected, strict=True):
        assert torch.equal(run.values, tokens)


def test_stages_at_work_together_make_what_they_make_in_turn(parts: BarkParts) -> None:
    together, in_turn = make_runs(TEXTS[0], VOICES[2]), make_runs(TEXTS[0], VOICES[2])
    finish(parts, together)
    for stage, run in zip(bark(parts), in_turn, strict=True):
        batch = stage.new_batch()
        batch.add(run)
        while batch.step():
            pass
        assert run.done
    for one, other in zip(together, in_turn, strict=True):
        assert torch.equal(one.values, other.values)


def test_sampled_tokens_do_not_depend_on_the_company(parts: BarkParts) -> None:
    sampling = Sampling(temperature=0.8, top_k=12, guidance_scale=1.0)
    items = [(TEXTS[0], VOICES[1], 24), (None, VOICES[3], 11), (TEXTS[1], None, 17)]

    def make(i: int) -> list[Track]:
        text, voice, length = items[i]
        return make_runs(text, voice, sampling, seed=i, length=length)

    batch = [make(i) for i in range(3)]
    finish(parts, *batch)
    for i, runs in enumerate(batch):
        alone = make(i)
        finish(parts, alone)
        assert all(torch.equal(a.values, b.values) for a, b in zip(alone, runs, strict=True))
    other = make_runs(*items[0][:2], sampling, seed=5)
    finish(parts, other)
    assert not torch.equal(other[2].values, batch[0][2].values)


def test_fine_tokens_are_sampled_as_the_temperature_says(parts: BarkParts) -> None:
    def fine(temperature: Any) -> Tensor:
        runs = make_runs(TEXTS[0], VOICES[2])
        runs[2].sampling = Sampling(temperature=temperature, top_k=0, guidance_scale=1.0)
        finish(parts, runs)
        return runs[2].values

    greedy = fine(0)
    assert not torch.equal(fine(1.0), greedy)
    half = fine((0.0,) * 4 + (1.0,) * 4)
    assert torch.equal(half[:3], greedy[:3])
    assert not torch.equal(half[4:], greedy[4:])
    with pytest.raises(ValueError, match="or 8, one per codebook, got 2"):
        fine((0.0, 1.0))


def test_fine_frames_are_final_before_the_coarse_ones_are_all_there(parts: BarkParts) -> None:
    runs = make_runs(TEXTS[0], VOICES[2])
    session = Session(bark(parts))
    session.add(TracksOnly(runs))
    seen: dict[int, Tensor] = {}
    while len(session):
        session.step()
        seen.setdefault(runs[2].num_done, runs[2].values[:, : runs[2].num_done].clone())
    early = [count for count in seen if 0 < count < runs[2].num_frames]
    assert early
    for count in early:
        assert torch.equal(seen[count], runs[2].values[:, :count])


def test_a_speech_may_end_before_it_begins(parts: BarkParts) -> None:
    runs = make_runs(TEXTS[0], None)
    runs[0].end(0)
    finish(parts, runs)
    assert [run.values.shape for run in runs] == [(1, 0), (2, 0), (8, 0)]


def test_a_speech_that_reaches_the_limit_ends_with_a_warning(
    parts: BarkParts, caplog: pytest.LogCaptureFixture
) -> None:
    runs = make_runs(TEXTS[0], VOICES[1], length=40)
    finish(parts, runs)
    assert (runs[0].num_frames, runs[2].num_frames) == (24, 36)
    assert "The speech is cut at 0.5 s" in caplog.text


def test_a_text_that_is_too_long_is_cut_with_a_warning(
    parts: BarkParts, caplog: pytest.LogCaptureFixture
) -> None:
    finish(parts, make_runs(TEXTS[1], None, length=3))
    assert "The text has 12 tokens and is truncated to 8" in caplog.text


def test_no_text_is_an_empty_text(parts: BarkParts) -> None:
    one, other = make_runs(None, VOICES[2]), make_runs("", VOICES[2])
    finish(parts, one, other)
    assert torch.equal(one[2].values, other[2].values)


def test_what_bark_cannot_use_is_refused(parts: BarkParts) -> None:
    def attempt(**changes: Any) -> None:
        runs = make_runs(TEXTS[0], None)
        for name, value in changes.items():
            setattr(runs[0], name, value)
        for stage, run in zip(bark(parts), runs, strict=True):
            stage.check(run)

    with pytest.raises(ValueError, match="Bark does not support guidance"):
        attempt(negative={"text": "rain"})
    with pytest.raises(ValueError, match="Bark does not support guidance"):
        attempt(sampling=Sampling(guidance_scale=2.0))
    with pytest.raises(ValueError, match="A text prompt must be a string, got 7"):
        attempt(conditions={"text": 7})
    with pytest.raises(ValueError, match="Unknown voice 'nobody'"):
        attempt(conditions={"voice": "nobody"})


@pytest.fixture(scope="module")
def pipeline(parts: BarkParts) -> AudioPipeline:
    return AudioPipeline(Model(bark(parts), CodecRenderer(parts.codec, num_codebooks=8)))


def test_a_streamed_speech_equals_the_whole_one(pipeline: AudioPipeline) -> None:
    request: dict[str, Any] = {"duration": 0.45, "seed": 3, "conditions": {"voice": VOICES[2]}}
    clip = pipeline.generate(TEXTS[0], **request)
    pieces = list(pipeline.stream(TEXTS[0], **request))
    assert clip.samples.shape == (1, 10_800)
    assert torch.equal(torch.cat(pieces, dim=1), clip.samples)


def test_a_speech_that_ends_is_followed_by_silence(references: dict[str, Reference]) -> None:
    parts = make_parts(references["ends early"])
    pipeline = AudioPipeline(Model(bark(parts), CodecRenderer(parts.codec, num_codebooks=8)))
    clip = pipeline.generate(TEXTS[0], duration=0.6, seed=3, conditions={"voice": VOICES[2]})
    [num_tokens] = clip.stage_values["semantic"][0].shape
    num_samples = int(num_tokens * 75 / 49.9) * 320
    assert num_tokens < 24
    assert clip.samples.shape == (1, 14_400)
    assert clip.samples[:, num_samples - 320 : num_samples].any()
    assert not clip.samples[:, num_samples:].any()


def test_without_semantic_tokenizer_bark_continues_no_audio(pipeline: AudioPipeline) -> None:
    with pytest.raises(ValueError, match="no semantic tokenizer, so it does not accept audio"):
        pipeline.continue_from((torch.zeros(1, 2400), 24_000), duration=0.1)
