"""A batch is what a naive loop makes of its crops, and what generation would have been given."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lm_audio.conditioners.label import LabelConditioner
from lm_audio.data.shards import Shards
from lm_audio.families.soundstorm.stages import soundstorm
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.track import Track
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import coarse_first
from lm_audio.sampling import Sampling
from lm_audio.training.objective import StageObjective
from lm_audio.training.stage_batches import IGNORED, Dropout, StageBatches, TrainingBatch

SHAPE = TransformerConfig(dim=32, num_layers=1, num_heads=2, hidden_dim=32)
MakeShards = Callable[..., Shards]
LENGTHS = [40, 150, 333, 90, 61, 280, 120]


def naive(tokens: Tensor, steps: dict[tuple[int, int], tuple[int, int]], J: int) -> Tensor:
    """Targets [J, S] of tokens [K, T], given the stream and step of each codebook and frame."""
    S = 1 + max(step for _, step in steps.values())
    targets = torch.full((J, S), IGNORED)
    for (k, t), (stream, step) in steps.items():
        targets[stream, step] = tokens[k, t]
    return targets


def check_rows(batch: TrainingBatch, expected: list[Tensor], *, start_token: int) -> None:
    """The targets are these, and the inputs are what stood a step before."""
    S = max(row.shape[1] for row in expected)
    assert batch.targets.shape == batch.inputs.shape == (len(expected), len(expected[0]), S)
    for b, row in enumerate(expected):
        J, length = row.shape
        assert torch.equal(batch.targets[b, :, :length], row)
        assert (batch.targets[b, :, length:] == IGNORED).all()
        for j in range(J):
            for s in range(S):
                before = row[j, s - 1] if 0 < s < length else IGNORED
                assert batch.inputs[b, j, s] == (start_token if before == IGNORED else before)
        filled = batch.targets[b] != IGNORED
        assert torch.equal(batch.codebook[b] >= 0, filled)


def read(batches: StageBatches, number: int, rows: slice) -> list[Tensor]:
    return [
        batches.shards[crop.index]
        .streams[batches.stage.token_kind]
        .long()[rows, crop.start : crop.stop]
        for crop in batches.crops[number]
    ]


def test_delayed_codebooks_are_laid_out_as_by_hand(
    make_shards: MakeShards, duet_stages: Callable[..., list[LMStage]]
) -> None:
    source, stage = duet_stages()
    batches = StageBatches(
        stage, make_shards(LENGTHS), source=source, tokens=1500, seed=0, dropout=None
    )
    for number in range(len(batches)):
        batch, expected = batches[number], []
        for tokens in read(batches, number, slice(0, 4)):
            T = tokens.shape[1]
            where = {(k, t): (k, t + k) for k in range(4) for t in range(T)}
            expected.append(naive(tokens, where, 4))
        check_rows(batch, expected, start_token=16)
        for b, crop in enumerate(batches.crops[number]):
            odd = crop.start % 2  # a semantic token begins with every other frame
            latest = [odd + min(s, crop.length - 1) for s in range(crop.length + 3)]
            assert batch.frames[b, : len(latest)].tolist() == latest
        assert batch.counts(4).tolist() == [sum(c.length for c in batches.crops[number])] * 4


def test_all_frames_of_the_first_codebook_can_go_first(
    make_shards: MakeShards, audiogen_stage: LMStage
) -> None:
    stage = replace(audiogen_stage, pattern=coarse_first(4, delays=[0, 1, 2]))
    batches = StageBatches(stage, make_shards(LENGTHS), tokens=1500, seed=0, dropout=None)
    expected = []
    for tokens in read(batches, 0, slice(0, 4)):
        T = tokens.shape[1]
        where = {(k, t): (k, T + t + k - 1 if k else t) for k in range(4) for t in range(T)}
        expected.append(naive(tokens, where, 4))
    check_rows(batches[0], expected, start_token=16)


@pytest.mark.parametrize(("index", "rows"), [(1, slice(0, 2)), (2, slice(2, 4))])
def test_flattened_codebooks_are_laid_out_as_by_hand(
    index: int, rows: slice, make_shards: MakeShards, audiolm_stages: list[LMStage]
) -> None:
    batches = StageBatches(
        audiolm_stages[index],
        make_shards(LENGTHS),
        source=audiolm_stages[index - 1],
        tokens=700,
        seed=0,
        dropout=None,
    )
    for number in range(len(batches)):
        expected = []
        for tokens in read(batches, number, rows):
            T = tokens.shape[1]
            own = tokens + torch.tensor([[0], [16]])  # each codebook has tokens of its own
            where = {(k, t): (0, 2 * t + k) for k in range(2) for t in range(T)}
            expected.append(naive(own, where, 1))
        check_rows(batches[number], expected, start_token=32)


def test_tokens_that_repeat_are_left_out_for_a_stage_without_repeats(
    make_shards: MakeShards, audiolm_stages: list[LMStage]
) -> None:
    stage = replace(audiolm_stages[0], window_frames=60, overlap_frames=10)
    batches = StageBatches(stage, make_shards(LENGTHS), tokens=300, seed=0, dropout=None)
    assert max(crop.length for number in range(4) for crop in batches.crops[number]) == 75
    for number in range(len(batches)):
        expected = []
        for tokens in read(batches, number, slice(0, 1)):
            kept: list[int] = []
            for token in tokens[0].tolist():
                if not kept or kept[-1] != token:
                    kept.append(token)
            expected.append(torch.tensor([kept[:60]]))
        check_rows(batches[number], expected, start_token=16)


@pytest.mark.parametrize("rate", [Fraction(50), Fraction(11025, 128), Fraction(75, 2)])
def test_aligned_tokens_are_those_that_generation_adds_to_the_same_frames(
    rate: Fraction, make_shards: MakeShards, duet_stages: Callable[..., list[LMStage]]
) -> None:
    source, stage = duet_stages(rate=rate)
    shards = make_shards([2000, 150, 333, 700], rate=rate)
    batches = StageBatches(stage, shards, source=source, tokens=1500, seed=0, dropout=None)
    aligned, starts = stage.aligned, set()
    assert aligned is not None
    for number in range(40):
        batch = batches[number]
        for b, crop in enumerate(batches.crops[number]):
            starts.add(crop.start)
            given = batch.conditions["semantic"][b]
            run = run_of(shards, crop.index, with_starts=False)
            window = stage._window(run, crop.start, crop.stop)
            row = stage._row(window, frozenset(), torch.ones(len(window.frames)))
            for step in range(window.layout.num_steps):
                found = aligned.lookahead(given[0], int(batch.frames[b, step]))
                assert torch.equal(found, row.row_lookahead(step))
    assert len(starts) > 30


@pytest.mark.parametrize("with_starts", [False, True])
@pytest.mark.parametrize("index", [1, 2])
def test_a_prefix_is_the_one_that_generation_puts_before_the_same_frames(
    index: int, with_starts: bool, make_shards: MakeShards, audiolm_stages: list[LMStage]
) -> None:
    source, stage = audiolm_stages[index - 1 : index + 1]
    shards = make_shards([1000, 150, 334, 700])
    batches = StageBatches(
        replace(stage, window_frames=75, overlap_frames=0),
        shards,
        source=source,
        tokens=600,
        seed=0,
        dropout=None,
    )
    for number in range(12):
        values = batches[number].conditions[source.name]
        for crop, given in zip(batches.crops[number], values, strict=True):
            run = run_of(shards, crop.index, with_starts=with_starts and index == 1)
            assert run.source is not None
            if index == 2:
                run.source = replace_tokens(run.source, shards[crop.index].streams["acoustic"][:2])
            first, last = stage.source_span(run, crop.start, crop.stop)
            assert torch.equal(given, run.source.values[:, first:last])


def run_of(shards: Shards, index: int, *, with_starts: bool) -> Track:
    """An example as generation would have it, all of it known."""
    streams = shards[index].streams
    semantic = streams["semantic"].long()
    starts = [frame / 25 for frame in range(semantic.shape[1])] if with_starts else None
    source = Track(values=semantic, seed=0, sampling=Sampling(), starts=starts)
    return Track(values=streams["acoustic"].long(), seed=0, sampling=Sampling(), source=source)


def replace_tokens(run: Track, tokens: Tensor) -> Track:
    return Track(values=tokens.long(), seed=run.seed, sampling=run.sampling)


def test_for_measuring_nothing_is_forgotten_and_the_first_caption_taken(
    make_shards: MakeShards, duet_stages: Callable[..., list[LMStage]]
) -> None:
    source, stage = duet_stages()
    batches = StageBatches(
        stage, make_shards(LENGTHS), source=source, tokens=1500, seed=0, dropout=None
    )
    for number in range(10):
        values = batches[number].conditions
        assert set(values["text"]) == {"rain"}
        assert all(tokens is not None for tokens in values["semantic"])


def test_in_training_captions_are_drawn(make_shards: MakeShards, audiogen_stage: LMStage) -> None:
    shards = make_shards([50] * 30)
    batches = StageBatches(audiogen_stage, shards, tokens=1000, seed=0, dropout=Dropout(joint=0.0))
    texts = [text for number in range(60) for text in batches[number].conditions["text"]]
    for caption in ("rain", "wind", "hail"):
        assert 0.25 < texts.count(caption) / len(texts) < 0.42
    for number in range(6):
        found = batches[number].conditions["label"]
        assert found == [shards.conditions[c.index]["label"] for c in batches.crops[number]]


def forgotten(batches: StageBatches, name: str) -> list[bool]:
    return [value is None for number in range(100) for value in batches[number].conditions[name]]


def test_what_a_user_gives_is_forgotten_at_once_and_the_source_on_its_own(
    make_shards: MakeShards,
    duet_stages: Callable[..., list[LMStage]],
    audiogen_stage: LMStage,
) -> None:
    shards = make_shards([50] * 30)
    at_once = StageBatches(audiogen_stage, shards, tokens=1000, seed=0, dropout=Dropout(joint=0.3))
    text, label = forgotten(at_once, "text"), forgotten(at_once, "label")
    assert text == label
    assert 0.24 < sum(text) / len(text) < 0.36
    each = Dropout(joint=0.0, each={"text": 0.3, "label": 0.6})
    alone = StageBatches(audiogen_stage, shards, tokens=1000, seed=0, dropout=each)
    text, label = forgotten(alone, "text"), forgotten(alone, "label")
    assert 0.24 < sum(text) / len(text) < 0.36
    assert 0.53 < sum(label) / len(label) < 0.67
    both = sum(a and b for a, b in zip(text, label, strict=True)) / len(text)
    assert 0.12 < both < 0.24
    source, stage = duet_stages()
    for dropout, dropped, kept in [
        (Dropout(joint=1.0), "text", "semantic"),
        (Dropout(joint=0.0, each={"semantic": 1.0}), "semantic", "text"),
    ]:
        batches = StageBatches(stage, shards, source=source, tokens=1000, seed=0, dropout=dropout)
        assert all(forgotten(batches, dropped))
        assert not any(forgotten(batches, kept))


def test_a_clip_too_short_for_a_token_of_its_source_has_none(
    make_shards: MakeShards, duet_stages: Callable[..., list[LMStage]]
) -> None:
    source, stage = duet_stages()
    batches = StageBatches(stage, make_shards([1]), source=source, tokens=400, seed=0, dropout=None)
    assert batches[0].conditions["semantic"] == [None]


def equal(a: TrainingBatch, b: TrainingBatch) -> bool:
    tensors = ("inputs", "targets", "codebook", "frames")
    sources = zip(a.conditions["semantic"], b.conditions["semantic"], strict=True)
    return (
        all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)
        and a.conditions["text"] == b.conditions["text"]
        and all(x is y is None or torch.equal(x, y) for x, y in sources)
    )


def test_a_batch_is_the_same_in_any_process(
    make_shards: MakeShards, duet_stages: Callable[..., list[LMStage]]
) -> None:
    source, stage = duet_stages()
    dropout = Dropout(joint=0.3, each={"semantic": 0.3})
    batches = StageBatches(
        stage, make_shards(LENGTHS), source=source, tokens=1500, seed=0, dropout=dropout
    )
    numbers = [5, 0, 3, 2]
    loader = DataLoader(batches, sampler=numbers, batch_size=None, num_workers=2)
    for number, read_ahead in zip(numbers, loader, strict=True):
        assert equal(read_ahead, batches[number])
    sent = pickle.loads(pickle.dumps(batches))
    assert equal(sent[7], batches[7])
    assert not equal(batches[7], batches[8])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tokens": 396},
            "A crop of 100 frames and 4 codebooks exceeds a batch of 396 tokens. Use at least 400",
        ),
        ({"source": None}, "The acoustic stage needs source"),
        (
            {"dropout": Dropout(each={"txet": 0.1})},
            "Unknown condition 'txet' to drop. The acoustic stage has: text, semantic",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(
    changes: dict[str, object],
    message: str,
    make_shards: MakeShards,
    duet_stages: Callable[..., list[LMStage]],
) -> None:
    source, stage = duet_stages()
    settings = {"source": source, "tokens": 1500, "seed": 0, "dropout": None} | changes
    with pytest.raises(ValueError, match=message):
        StageBatches(stage, make_shards(LENGTHS), **settings)  # type: ignore[arg-type]


def test_shards_of_other_tokens_are_refused(
    make_shards: MakeShards,
    audiogen_stage: LMStage,
    audiolm_stages: list[LMStage],
) -> None:
    def batches(stage: LMStage, shards: Shards, source: LMStage | None = None) -> StageBatches:
        return StageBatches(stage, shards, source=source, tokens=1500, seed=0, dropout=None)

    shards = make_shards(LENGTHS)
    with pytest.raises(ValueError, match="has no source"):
        batches(audiogen_stage, shards, audiogen_stage)
    with pytest.raises(ValueError, match="6 codebooks of 16 tokens, but the shards have 4 of 16"):
        batches(replace(audiolm_stages[2], first_codebook=4), shards, audiolm_stages[1])
    with pytest.raises(ValueError, match=r"has 75 frames per second, but the shards have 50"):
        batches(replace(audiogen_stage, frame_rate=Fraction(75)), shards)
    shards.streams.pop("acoustic")
    with pytest.raises(
        ValueError, match="needs acoustic tokens, but the shards only have semantic"
    ):
        batches(audiogen_stage, shards)
    with pytest.raises(ValueError, match="The acoustic stage has an end token"):
        batches(replace(audiogen_stage, end_token=16), shards)


def test_a_masked_stage_learns_the_tokens_that_are_hidden(
    make_shards: Callable[..., Shards], duet_stages: Callable[..., list[LMStage]]
) -> None:
    semantic, _ = duet_stages()
    stage = replace(
        soundstorm(
            replace(SHAPE, causal=False, cross_attention=True),
            text=lambda dim: LabelConditioner(["rain", "wind", "hail"], dim),
            num_semantic_tokens=16,
            semantic_rate=Fraction(25),
            num_codebooks=4,
            codebook_size=16,
            frame_rate=Fraction(50),
        ),
        window_frames=100,
        overlap_frames=30,
        reach=5,
    )
    shards = make_shards([80, 150, 60])
    batches = StageBatches(
        stage, shards, source=semantic, tokens=800, seed=0, dropout=Dropout(joint=0.1)
    )
    objective = StageObjective(stage)
    codebooks = []
    for number in range(8):
        batch = batches[number]
        assert torch.equal(batch.inputs, batches[number].inputs)
        judged = batch.codebook >= 0
        assert torch.equal(judged, batch.targets >= 0)
        assert (batch.inputs[judged] == stage.mask_token).all()
        assert batch.inputs.max() <= stage.mask_token
        for row, reach in zip(batch.codebook, batch.reach, strict=True):
            (codebook,) = row[row >= 0].unique().tolist()
            assert int(reach) == (5 if codebook else 100)
            codebooks.append(codebook)
        loss = objective(batch)
        assert ((loss > 0) == (batch.counts(4) > 0)).all()
        rows = [objective(_row(batch, b)) for b in range(len(batch.inputs))]
        torch.testing.assert_close(loss, torch.stack(rows).sum(dim=0))  # padding has no effect
    assert set(codebooks) == {0, 1, 2, 3}


def _row(batch: TrainingBatch, b: int) -> TrainingBatch:
    """One item of a batch, without its padding."""
    length = int(batch.mask[b].sum())
    tensors = {name: x[b : b + 1] for name, x in vars(batch).items() if isinstance(x, Tensor)}
    cut = {name: x[..., :length] for name, x in tensors.items() if name != "reach"}
    values = {name: [given[b]] for name, given in batch.conditions.items()}
    return replace(batch, **tensors | cut, conditions=values)
