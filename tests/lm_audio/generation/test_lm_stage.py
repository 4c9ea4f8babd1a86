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
from lm_audio.generation.cascade import Cascade
from lm_audio.generation.lm_stage import Stage
from lm_audio.generation.track import Run
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.sampling import Sampling

SHAPE = TransformerConfig(dim=32, num_layers=1, num_heads=2, hidden_dim=32, cross_attention=True)
FLAT = replace(SHAPE, cross_attention=False, positions="relative")


def lively(stages: list[Stage]) -> list[Stage]:
    for stage in stages:
        for parameter in [*stage.model.parameters(), *stage.conditioners.parameters()]:
            parameter.data *= 2.5
    return stages


@pytest.fixture(scope="module")
def duet_stages() -> list[Stage]:
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
def audiolm_stages() -> list[Stage]:
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


def new_runs(stages: list[Stage], seconds: float, seed: int = 0, **settings: object) -> list[Run]:
    runs: dict[str, Run] = {}
    for stage in stages:
        T = round(seconds * stage.frame_rate)
        source = runs.get(stage.source.stage) if stage.source is not None else None
        values = {"text": "rain"} if "text" in stage.conditions else {}
        runs[stage.name] = Run(
            tokens=torch.full((stage.num_codebooks, T), -1),
            seed=seed,
            sampling=stage.sampling,
            values=values,
            source=source,
            **settings,  # type: ignore[arg-type]
        )
    return list(runs.values())


def finish(stages: list[Stage], runs: list[Run]) -> list[Tensor]:
    cascade = Cascade(stages)
    cascade.add(runs)
    while cascade.step():
        pass
    assert all(run.done for run in runs)
    return [run.tokens for run in runs]


@pytest.mark.parametrize(
    ("num_done", "start"), [(0, 0), (99, 0), (100, 60), (159, 60), (160, 120), (10, 0)]
)
def test_windows_lie_on_a_grid_and_keep_what_overlaps(
    duet_stages: list[Stage], num_done: int, start: int
) -> None:
    stage = replace(duet_stages[1], context=100, keep=40)
    tokens = torch.full((3, 500), -1)
    tokens[:, :num_done] = 0
    run = Run(tokens=tokens, seed=0, sampling=Sampling())
    assert stage.window_start(run) == start
    window = stage.window(run)
    assert (window.start, window.stop) == (start, start + 100)
    assert window.first_step == num_done - start  # of codebook 0, which is not delayed


def test_a_window_is_what_the_model_makes_of_its_own_tokens_alone(
    duet_stages: list[Stage],
) -> None:
    """The second window equals one made by hand, with the kept frames as its prompt."""
    stage = replace(duet_stages[0], context=30, keep=10)
    run = new_runs([stage], 2.0)[0]
    (whole,) = finish([stage], [run])
    known = whole[:, :30].clone()
    known[:, :20] = 0  # before the second window: it cannot matter
    second = Run(
        tokens=torch.cat([known, torch.full((1, 20), -1)], dim=1),
        seed=0,
        sampling=stage.sampling,
        values={"text": "rain"},
    )
    assert stage.window_start(second) == 20
    (again,) = finish([stage], [second])
    assert torch.equal(again[:, 20:], whole[:, 20:])
    second.tokens[:, 20:30] = 0
    changed = replace(second, tokens=torch.cat([second.tokens[:, :30], tokens_to_come()], dim=1))
    assert not torch.equal(finish([stage], [changed])[0][:, 30:], whole[:, 30:])


def tokens_to_come() -> Tensor:
    return torch.full((1, 20), -1)


def test_an_aligned_stage_starts_when_the_look_ahead_is_there(duet_stages: list[Stage]) -> None:
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


def test_the_order_of_work_changes_no_token(duet_stages: list[Stage]) -> None:
    expected = finish(duet_stages, new_runs(duet_stages, 2.0, seed=3))
    semantic, acoustic = new_runs(duet_stages, 2.0, seed=3)
    finish(duet_stages[:1], [semantic])  # the whole first stage before the second
    finish(duet_stages[1:], [acoustic])
    assert torch.equal(semantic.tokens, expected[0])
    assert torch.equal(acoustic.tokens, expected[1])


def test_items_that_come_late_and_leave_early_change_no_other(duet_stages: list[Stage]) -> None:
    expected = finish(duet_stages, new_runs(duet_stages, 1.5, seed=3))
    cascade = Cascade(duet_stages)
    other, mine, late = (new_runs(duet_stages, 1.5, seed=seed) for seed in (1, 3, 2))
    cascade.add(other)
    for _ in range(9):
        cascade.step()
    cascade.add(mine)
    for _ in range(30):
        cascade.step()
    cascade.remove(other)
    cascade.add(late)
    while cascade.step():
        pass
    assert not other[1].done
    assert late[1].done
    for run, tokens in zip(mine, expected, strict=True):
        assert torch.equal(run.tokens, tokens)


def test_no_item_stands_still_while_others_come(audiolm_stages: list[Stage]) -> None:
    cascade, first = Cascade(audiolm_stages), new_runs(audiolm_stages, 1.0, seed=1)
    alone, steps = Cascade(audiolm_stages), 0
    alone.add(new_runs(audiolm_stages, 1.0, seed=1))
    while alone.step():
        steps += 1
    cascade.add(first)
    for step in range(2 * steps):
        if step % 10 == 0:
            cascade.add(new_runs(audiolm_stages, 1.0, seed=2 + step))
        cascade.step()
        if first[-1].done:
            break
    assert step <= steps


def test_a_schedule_of_guidance_counts_from_the_first_new_frame(duet_stages: list[Stage]) -> None:
    sampling = Sampling(guidance_schedule=((0.0, 1.0), (1.0, 0.0)))
    for num_given in (0, 30):
        tokens = torch.full((1, 100), -1)
        tokens[:, :num_given] = 0
        run = Run(tokens=tokens, seed=0, sampling=sampling, values={"text": "rain"})
        without, full = duet_stages[0].window(run).sequence().rows
        assert float(full.weights[num_given]) == 3.0
        assert float(full.weights[num_given + 25]) == 1.0
        assert float(without.weights[num_given + 25]) == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "Got a seed of -1"),
        ({"values": {"text": "hail"}}, "Unknown label 'hail'"),
        ({"negative": {"text": "hail"}}, "Unknown label 'hail'"),
        ({"sampling": Sampling(temperature=(1.0, 0.5))}, "Got 2 temperatures for the semantic"),
    ],
)
def test_mistakes_are_told_before_any_work(
    duet_stages: list[Stage], changes: dict[str, Any], message: str
) -> None:
    run = new_runs(duet_stages, 1.0)[0]
    duet_stages[0].check(run)
    with pytest.raises(ValueError, match=message):
        duet_stages[0].check(replace(run, **changes))


def test_every_stage_has_random_numbers_of_its_own(audiolm_stages: list[Stage]) -> None:
    coarse, fine = (
        stage.window(run).sequence().uniforms
        for stage, run in zip(
            audiolm_stages[1:],
            [
                Run(tokens=torch.full((2, 9), -1), seed=0, sampling=Sampling(), source=source)
                for source in (
                    Run(tokens=torch.zeros(1, 4).long(), seed=0, sampling=Sampling()),
                    Run(tokens=torch.zeros(2, 9).long(), seed=0, sampling=Sampling()),
                )
            ],
            strict=True,
        )
    )
    assert coarse.shape == fine.shape
    assert not torch.equal(coarse, fine)


def test_fine_windows_follow_the_coarse_tokens_of_their_own_three_seconds(
    audiolm_stages: list[Stage],
) -> None:
    fine = audiolm_stages[2]
    coarse = torch.randint(16, (2, 200))
    tokens = []
    for changed in (slice(0, 0), slice(150, 200), slice(0, 150)):
        source = coarse.clone()
        source[:, changed] = (source[:, changed] + 1) % 16
        run = Run(
            tokens=torch.full((2, 200), -1),
            seed=0,
            sampling=Sampling(temperature=2.0),  # random weights repeat themselves at less
            source=Run(tokens=source, seed=0, sampling=Sampling()),
        )
        tokens += finish([fine], [run])
    original, later, earlier = tokens
    assert torch.equal(later[:, :150], original[:, :150])
    assert not torch.equal(later[:, 150:], original[:, 150:])
    assert torch.equal(earlier[:, 150:], original[:, 150:])
    assert not torch.equal(earlier[:, :150], original[:, :150])


def test_flattened_tokens_keep_to_the_range_of_their_codebook(
    audiolm_stages: list[Stage],
) -> None:
    for tokens in finish(audiolm_stages, new_runs(audiolm_stages, 1.0)):
        assert int(tokens.min()) >= 0
    window = audiolm_stages[1].window(
        Run(
            tokens=torch.full((2, 3), -1),
            seed=0,
            sampling=Sampling(),
            source=Run(tokens=torch.zeros(1, 1).long(), seed=0, sampling=Sampling()),
        )
    )
    assert window.allowed()[0].tolist() == [[0, 16], [16, 32]] * 3


def test_a_stage_that_ends_by_itself_ends_the_run_there(duet_stages: list[Stage]) -> None:
    stage = replace(duet_stages[0], end_token=29)
    free = finish([duet_stages[0]], new_runs(duet_stages[:1], 8.0, seed=1))[0][0]
    assert (free == 29).any(), "choose a seed that makes the token"
    first = int((free == 29).int().argmax())
    (run,) = new_runs([stage], 8.0, seed=1, open_end=True)
    (tokens,) = finish([stage], [run])
    assert torch.equal(tokens[0], free[:first])


def test_a_later_stage_waits_for_a_source_that_may_end(audiolm_stages: list[Stage]) -> None:
    semantic, coarse, _ = new_runs(audiolm_stages, 1.0)
    semantic.open_end = True
    window = audiolm_stages[1].window(coarse)
    semantic.learn(torch.zeros(1, 19).long(), start=0, num_done=19)
    assert not window.ready(0)
    semantic.end(19)
    assert window.ready(0)


def test_likelihood_prefers_what_the_model_would_say(duet_stages: list[Stage]) -> None:
    stage = replace(duet_stages[0], sampling=Sampling(temperature=0.0, guidance_scale=1.0))
    (tokens,) = finish([stage], new_runs([stage], 1.0))
    run = Run(tokens=tokens, seed=0, sampling=stage.sampling, values={"text": "rain"})
    other = replace(run, tokens=tokens.clone())
    other.tokens[:, 15] = (other.tokens[:, 15] + 1) % 30
    assert stage.likelihood(run, 15, 16) > stage.likelihood(other, 15, 16)
    inputs = torch.cat([torch.tensor([[30]]), tokens[:, :-1]], dim=1)[None]
    with torch.no_grad():
        fused = stage.conditioners({"text": ["rain"]})
        scores = stage.model(inputs, fused=fused)[0, 0].log_softmax(-1)
    expected = float(scores[15, tokens[0, 15]])
    assert stage.likelihood(run, 15, 16) == pytest.approx(expected, abs=1e-4)


def test_a_window_that_keeps_all_of_the_last_one_is_refused(duet_stages: list[Stage]) -> None:
    with pytest.raises(ValueError, match="The semantic stage keeps 750 of 750 frames; keep fewer"):
        replace(duet_stages[0], keep=750)


def test_conditions_that_a_user_may_give_do_not_name_the_source(
    duet_stages: list[Stage],
) -> None:
    assert [stage.conditions for stage in duet_stages] == [("text",), ("text",)]
    assert isinstance(duet_stages[1].conditioners, Conditioners)
    assert isinstance(duet_stages[1].conditioners["semantic"], nn.Module)
