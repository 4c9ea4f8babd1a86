"""Windows, sources and ends of a stage; cascades whatever the order of work."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.families.audiolm.stages import audiolm
from lm_audio.families.duet.stages import LOOK_AHEAD, duet
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.session import Session
from lm_audio.generation.track import Track
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.sampling import Sampling
from tests.lm_audio.tracks_only import TracksOnly
from tests.lm_audio.tracks_only import finish as finish_tracks

SHAPE = TransformerConfig(dim=32, num_layers=1, num_heads=2, hidden_dim=32, cross_attention=True)
FLAT = replace(SHAPE, cross_attention=False, positions="relative")


def lively(stages: list[LMStage]) -> list[LMStage]:
    for stage in stages:
        for parameter in [*stage.model.parameters(), *stage.conditioners.parameters()]:
            parameter.data *= 2.5
    return stages


@pytest.fixture(scope="module")
def duet_stages() -> list[LMStage]:
    torch.manual_seed(0)
    stages = duet(
        semantic=SHAPE,
        acoustic=SHAPE,
        text=lambda dim: LabelConditioner(["rain", "wind"], dim),
        num_semantic_tokens=30,
        semantic_rate=Fraction(25),
        num_codebooks=3,
        codebook_size=20,
        frame_rate=Fraction(50),
    )
    return lively(stages)


@pytest.fixture(scope="module")
def audiolm_stages() -> list[LMStage]:
    torch.manual_seed(0)
    stages = audiolm(
        FLAT,
        num_semantic_tokens=30,
        semantic_rate=Fraction(20),
        num_coarse=2,
        num_fine=2,
        codebook_size=16,
        frame_rate=Fraction(50),
    )
    return lively(stages)


def new_runs(
    stages: list[LMStage], seconds: float, seed: int = 0, **settings: object
) -> list[Track]:
    runs: dict[str, Track] = {}
    for stage in stages:
        T = round(seconds * stage.frame_rate)
        source = runs.get(stage.source.stage) if stage.source is not None else None
        values = {"text": "rain"} if "text" in stage.conditions else {}
        runs[stage.name] = Track(
            values=torch.full((stage.num_codebooks, T), -1),
            seed=seed,
            sampling=stage.sampling,
            conditions=values,
            source=source,
            **settings,  # type: ignore[arg-type]
        )
    return list(runs.values())


def finish(stages: list[LMStage], runs: list[Track]) -> list[Tensor]:
    finish_tracks(stages, runs)
    return [run.values for run in runs]


@pytest.mark.parametrize(
    ("num_done", "start"), [(0, 0), (99, 0), (100, 60), (159, 60), (160, 120), (10, 0)]
)
def test_windows_lie_on_a_grid_and_keep_what_overlaps(
    duet_stages: list[LMStage], num_done: int, start: int
) -> None:
    stage = replace(duet_stages[1], window_frames=100, overlap_frames=40)
    tokens = torch.full((3, 500), -1)
    tokens[:, :num_done] = 0
    run = Track(values=tokens, seed=0, sampling=Sampling())
    assert stage.window_start(run) == start
    window = stage.window(run)
    assert (window.start, window.stop) == (start, start + 100)
    assert window.step == num_done - start  # of codebook 0, which is not delayed


def test_a_window_is_what_the_model_makes_of_its_own_tokens_alone(
    duet_stages: list[LMStage],
) -> None:
    """The second window equals one made by hand, with the kept frames as its prompt."""
    stage = replace(duet_stages[0], window_frames=30, overlap_frames=10)
    run = new_runs([stage], 2.0)[0]
    (whole,) = finish([stage], [run])
    known = whole[:, :30].clone()
    known[:, :20] = 0  # before the second window: it cannot matter
    second = Track(
        values=torch.cat([known, torch.full((1, 20), -1)], dim=1),
        seed=0,
        sampling=stage.sampling,
        conditions={"text": "rain"},
    )
    assert stage.window_start(second) == 20
    (again,) = finish([stage], [second])
    assert torch.equal(again[:, 20:], whole[:, 20:])
    second.values[:, 20:30] = 0
    changed = replace(second, values=torch.cat([second.values[:, :30], tokens_to_come()], dim=1))
    assert not torch.equal(finish([stage], [changed])[0][:, 30:], whole[:, 30:])


def tokens_to_come() -> Tensor:
    return torch.full((1, 20), -1)


def test_an_aligned_stage_starts_when_the_look_ahead_is_there(duet_stages: list[LMStage]) -> None:
    semantic, acoustic = new_runs(duet_stages, 4.0)
    first, second = (stage.new_batch() for stage in duet_stages)
    first.add(semantic)
    second.add(acoustic)
    assert second.waiting()
    assert not second.step()
    for _ in range(LOOK_AHEAD):
        first.step()
        assert second.waiting()
    first.step()
    assert not second.waiting()
    assert second.step()  # frames 0 and 1 stand on the same semantic token
    assert second.step()
    assert second.waiting()


def test_the_order_of_work_changes_no_token(duet_stages: list[LMStage]) -> None:
    expected = finish(duet_stages, new_runs(duet_stages, 2.0, seed=3))
    semantic, acoustic = new_runs(duet_stages, 2.0, seed=3)
    finish(duet_stages[:1], [semantic])  # the whole first stage before the second
    finish(duet_stages[1:], [acoustic])
    assert torch.equal(semantic.values, expected[0])
    assert torch.equal(acoustic.values, expected[1])


def test_items_that_come_late_and_leave_early_change_no_other(duet_stages: list[LMStage]) -> None:
    expected = finish(duet_stages, new_runs(duet_stages, 1.5, seed=3))
    session = Session(duet_stages)
    other, mine, late = (new_runs(duet_stages, 1.5, seed=seed) for seed in (1, 3, 2))
    unwanted = TracksOnly(other)
    session.add(unwanted)
    for _ in range(9):
        session.step()
    session.add(TracksOnly(mine))
    for _ in range(30):
        session.step()
    session.remove(unwanted)
    session.add(TracksOnly(late))
    while len(session):
        session.step()
    assert not other[1].done
    assert late[1].done
    for run, tokens in zip(mine, expected, strict=True):
        assert torch.equal(run.values, tokens)


def test_no_item_stands_still_while_others_come(audiolm_stages: list[LMStage]) -> None:
    session, first = Session(audiolm_stages), new_runs(audiolm_stages, 1.0, seed=1)
    alone, steps = Session(audiolm_stages), 0
    alone.add(TracksOnly(new_runs(audiolm_stages, 1.0, seed=1)))
    while len(alone):
        alone.step()
        steps += 1
    session.add(TracksOnly(first))
    for step in range(2 * steps):
        if step % 10 == 0:
            session.add(TracksOnly(new_runs(audiolm_stages, 1.0, seed=2 + step)))
        session.step()
        if first[-1].done:
            break
    assert step <= steps


def test_a_schedule_of_guidance_counts_from_the_first_new_frame(duet_stages: list[LMStage]) -> None:
    sampling = Sampling(guidance_schedule=((0.0, 1.0), (1.0, 0.0)))
    for num_given in (0, 30):
        tokens = torch.full((1, 100), -1)
        tokens[:, :num_given] = 0
        run = Track(values=tokens, seed=0, sampling=sampling, conditions={"text": "rain"})
        window = duet_stages[0].window(run)
        duet_stages[0].open(window)
        without, full = window.rows
        assert float(full.weights[num_given]) == 3.0
        assert float(full.weights[num_given + 25]) == 1.0
        assert float(without.weights[num_given + 25]) == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditions": {"text": "hail"}}, "Unknown label 'hail'"),
        ({"negative": {"text": "hail"}}, "Unknown label 'hail'"),
    ],
)
def test_mistakes_are_told_before_any_work(
    duet_stages: list[LMStage], changes: dict[str, Any], message: str
) -> None:
    run = new_runs(duet_stages, 1.0)[0]
    duet_stages[0].check(run)
    with pytest.raises(ValueError, match=message):
        duet_stages[0].check(replace(run, embedded={}, **changes))


def test_every_stage_has_random_numbers_of_its_own(audiolm_stages: list[LMStage]) -> None:
    coarse, fine = (
        stage.window(run).uniforms
        for stage, run in zip(
            audiolm_stages[1:],
            [
                Track(values=torch.full((2, 9), -1), seed=0, sampling=Sampling(), source=source)
                for source in (
                    Track(values=torch.zeros(1, 4).long(), seed=0, sampling=Sampling()),
                    Track(values=torch.zeros(2, 9).long(), seed=0, sampling=Sampling()),
                )
            ],
            strict=True,
        )
    )
    assert coarse.shape == fine.shape
    assert not torch.equal(coarse, fine)


def test_fine_windows_follow_the_coarse_tokens_of_their_own_three_seconds(
    audiolm_stages: list[LMStage],
) -> None:
    fine = audiolm_stages[2]
    coarse = torch.randint(16, (2, 200))
    tokens = []
    for changed in (slice(0, 0), slice(150, 200), slice(0, 150)):
        source = coarse.clone()
        source[:, changed] = (source[:, changed] + 1) % 16
        run = Track(
            values=torch.full((2, 200), -1),
            seed=0,
            sampling=Sampling(temperature=2.0),  # random weights repeat themselves at less
            source=Track(values=source, seed=0, sampling=Sampling()),
        )
        tokens += finish([fine], [run])
    original, later, earlier = tokens
    assert torch.equal(later[:, :150], original[:, :150])
    assert not torch.equal(later[:, 150:], original[:, 150:])
    assert torch.equal(earlier[:, 150:], original[:, 150:])
    assert not torch.equal(earlier[:, :150], original[:, :150])


def test_flattened_tokens_keep_to_the_range_of_their_codebook(
    audiolm_stages: list[LMStage],
) -> None:
    for tokens in finish(audiolm_stages, new_runs(audiolm_stages, 1.0)):
        assert int(tokens.min()) >= 0
    window = audiolm_stages[1].window(
        Track(
            values=torch.full((2, 3), -1),
            seed=0,
            sampling=Sampling(),
            source=Track(values=torch.zeros(1, 1).long(), seed=0, sampling=Sampling()),
        )
    )
    assert window.allowed[0].tolist() == [[0, 16], [16, 32]] * 3


def test_a_stage_that_ends_by_itself_ends_the_run_there(duet_stages: list[LMStage]) -> None:
    stage = replace(duet_stages[0], end_token=29)
    free = finish([duet_stages[0]], new_runs(duet_stages[:1], 8.0, seed=1))[0][0]
    assert (free == 29).any(), "choose a seed that makes the token"
    first = int((free == 29).int().argmax())
    (run,) = new_runs([stage], 8.0, seed=1, open_end=True)
    (tokens,) = finish([stage], [run])
    assert torch.equal(tokens[0], free[:first])


def test_a_later_stage_waits_for_a_source_that_may_end(audiolm_stages: list[LMStage]) -> None:
    semantic, coarse, _ = new_runs(audiolm_stages, 1.0)
    semantic.open_end = True
    window = audiolm_stages[1].window(coarse)
    semantic.learn(torch.zeros(1, 19).long(), start=0, num_done=19)
    assert not audiolm_stages[1].ready(window)
    semantic.end(19)
    assert audiolm_stages[1].ready(window)


def test_likelihood_prefers_what_the_model_would_say(duet_stages: list[LMStage]) -> None:
    stage = replace(duet_stages[0], sampling=Sampling(temperature=0.0, guidance_scale=1.0))
    (tokens,) = finish([stage], new_runs([stage], 1.0))
    run = Track(values=tokens, seed=0, sampling=stage.sampling, conditions={"text": "rain"})
    other = replace(run, values=tokens.clone())
    other.values[:, 15] = (other.values[:, 15] + 1) % 30
    assert stage.likelihood(run, 15, 16) > stage.likelihood(other, 15, 16)
    inputs = torch.cat([torch.tensor([[30]]), tokens[:, :-1]], dim=1)[None]
    with torch.no_grad():
        fused = stage.conditioners({"text": ["rain"]})
        scores = stage.model(inputs, fused=fused)[0, 0].log_softmax(-1)
    expected = float(scores[15, tokens[0, 15]])
    assert stage.likelihood(run, 15, 16) == pytest.approx(expected, abs=1e-4)


def test_a_window_that_keeps_all_of_the_last_one_is_refused(duet_stages: list[LMStage]) -> None:
    with pytest.raises(ValueError, match=r"the semantic stage must be less .*750, got 750"):
        replace(duet_stages[0], overlap_frames=750)


def test_conditions_that_a_user_may_give_do_not_name_the_source(
    duet_stages: list[LMStage],
) -> None:
    assert [stage.conditions for stage in duet_stages] == [("text",), ("text",)]
    assert isinstance(duet_stages[1].conditioners, Conditioners)
    assert isinstance(duet_stages[1].conditioners["semantic"], nn.Module)
