"""Many processes learn what one does: DDP, FSDP, and one with more accumulation."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from audio_tokenizers.acoustic.registry import load_codec
from lm_audio.data.batches import seed_of
from lm_audio.data.shards import Shards
from lm_audio.data.synthetic_shards import make_up_shards
from lm_audio.generation.lm_stage import LMStage
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.training.checkpoints import Checkpoints
from lm_audio.training.objective import StageObjective
from lm_audio.training.optimization import EMA, adamw
from lm_audio.training.processes import Processes
from lm_audio.training.stage_batches import Dropout, StageBatches

ROOT = Path(__file__).parents[3]
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
FSDP = ["accelerate.commands.launch", f"--config_file={ROOT / 'recipes/fsdp.yaml'}",
        "--num_processes=2", "--main_process_port=0"]  # fmt: skip
RUN = """
import json, os, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from test_processes import train
losses = train(Path(sys.argv[2]), Path(sys.argv[3]), steps=int(sys.argv[4]), accumulation=1)
if os.environ["RANK"] == "0":
    Path(sys.argv[3], "losses.json").write_text(json.dumps(losses))
"""


def train(data: Path, out: Path, *, steps: int, accumulation: int) -> list[float]:
    """Some of the six steps of a run of the recipe: its losses."""
    recipe = load_recipe()
    config = replace(
        recipe.PRESETS["duet"]["acoustic"]["tiny"],
        data=(data,),
        out=out,
        steps=6,
        tokens_per_batch=800,
        save_every=3,
        evaluate_every=6,
        accumulation=accumulation,
    )
    if steps == 6:
        return recipe.main(config)

    check = recipe.check_finite

    def kill(loss: float, norm: float, *, step: int, checkpoints: Any) -> None:
        check(loss, norm, step=step, checkpoints=checkpoints)
        if step == steps:
            raise InterruptedError

    recipe.check_finite = kill
    with suppress(InterruptedError):
        recipe.main(config)
    return []


def load_recipe() -> ModuleType:
    path = ROOT / "recipes/train_stage.py"
    spec = importlib.util.spec_from_file_location("recipe_in_processes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))  # as `python recipes/train_stage.py` does
    spec.loader.exec_module(module)
    return module


def train_in_two(launcher: list[str], data: Path, out: Path, *, steps: int = 6) -> list[float]:
    """The same run in two processes, each with half of the batches."""
    out.mkdir()
    script = out / "run.py"
    script.write_text(RUN)
    here = str(Path(__file__).parent)
    command = [sys.executable, "-m", *launcher, str(script), here, str(data), str(out), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "losses.json").read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    codec = load_codec(CODEC_FOLDER)
    return make_up_shards(tmp_path_factory.mktemp("data"), codec, num_clips=6)


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], Path]:
    """The losses of one process, and its folder."""
    out = tmp_path_factory.mktemp("alone")
    return train(data, out, steps=6, accumulation=2), out


def check_equal_stages(out: Path, expected: Path) -> None:
    weights, right = (
        load_file(folder / "stage/acoustic/model.safetensors") for folder in (out, expected)
    )
    assert weights.keys() == right.keys()
    for name, weight in right.items():
        assert torch.allclose(weights[name], weight, atol=1e-4), name


def test_two_processes_learn_what_one_learns_with_twice_the_accumulation(
    data: Path, alone: tuple[list[float], Path], tmp_path: Path
) -> None:
    expected, folder = alone
    assert len(expected) == 6
    assert expected[-1] < expected[0]
    out = tmp_path / "two"
    assert train_in_two(TORCHRUN, data, out) == pytest.approx(expected, abs=1e-4)
    check_equal_stages(out, folder)


@pytest.mark.slow
def test_sharded_processes_learn_what_one_learns(
    data: Path, alone: tuple[list[float], Path], tmp_path: Path
) -> None:
    expected, folder = alone
    out = tmp_path / "two"
    assert train_in_two(FSDP, data, out) == pytest.approx(expected, abs=1e-4)
    check_equal_stages(out, folder)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, FSDP], ids=["ddp", "fsdp"])
def test_one_process_goes_on_where_two_were_killed(
    launcher: list[str], data: Path, alone: tuple[list[float], Path], tmp_path: Path
) -> None:
    expected, folder = alone
    out = tmp_path / "two"
    assert train_in_two(launcher, data, out, steps=4) == []
    rest = train(data, out, steps=6, accumulation=2)
    assert rest == pytest.approx(expected[3:], abs=1e-4)
    check_equal_stages(out, folder)


def test_a_killed_run_goes_on_with_the_losses_that_it_would_have_had(
    data: Path, alone: tuple[list[float], Path], tmp_path: Path
) -> None:
    expected, _ = alone
    assert train(data, tmp_path, steps=4, accumulation=2) == []  # after the checkpoint of step 3
    assert train(data, tmp_path, steps=6, accumulation=2) == expected[3:]


def learn(
    processes: Processes, stage: LMStage, batches: StageBatches, *, steps: range, state: Any = None
) -> tuple[dict[str, Any], list[float]]:
    """Trains for some steps, from a state if there is one: the state then, and the norms."""
    objective = StageObjective(stage).train()
    optimizer = adamw(objective, learning_rate=0.01, weight_decay=0.1)
    module, optimizer = processes.prepare(objective, optimizer)
    average = EMA(module, decay=0.9)
    if state is not None:
        processes.restore(state, module, optimizer, average)
    norms = []
    for step, numbered in zip(steps, processes.batches(batches, steps=steps), strict=True):
        assert [number for number, _ in numbered] == [step]
        for number, batch in numbered:
            torch.manual_seed(seed_of(0, number))
            processes.backward(module, module(batch).sum() / batch.counts(4).sum(), is_last=True)
        norms.append(processes.step(module, optimizer, max_norm=1.0))
        average.update(step)
    return processes.state(module, optimizer, average), norms


def test_a_restored_state_is_exact_to_the_bit(
    make_shards: Callable[..., Shards], duet_stages: Callable[..., list[LMStage]], tmp_path: Path
) -> None:
    def fresh() -> tuple[LMStage, StageBatches]:
        source, stage = duet_stages()
        shards = make_shards([60, 80, 70])
        dropout = Dropout(joint=0.3)
        return stage, StageBatches(
            stage, shards, source=source, tokens=400, seed=0, dropout=dropout
        )

    processes = Processes(precision="float32")
    whole, norms = learn(processes, *fresh(), steps=range(6))
    first, _ = learn(processes, *fresh(), steps=range(3))
    torch.save(first, tmp_path / "state.pt")
    read = torch.load(tmp_path / "state.pt", weights_only=True)
    other, batches = fresh()
    for weight in other.model.parameters():
        weight.data.normal_()  # whatever it begins with
    resumed, later = learn(processes, other, batches, steps=range(3, 6), state=read)
    assert later == norms[3:]
    assert whole.keys() == resumed.keys() == {"weights", "average", "optimizer"}
    assert "exp_avg_sq" in str(whole["optimizer"])
    groups, expected = (state["optimizer"].pop("param_groups") for state in (resumed, whole))
    assert json.dumps(groups) == json.dumps(expected)
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
    assert not torch.equal(
        whole["weights"]["model.heads.weight"], whole["average"]["model.heads.weight"]
    )


def test_a_gradient_that_is_not_finite_changes_nothing(duet_stages: Callable[..., Any]) -> None:
    stage = duet_stages()[1]
    objective = StageObjective(stage)
    optimizer = adamw(objective, learning_rate=0.01, weight_decay=0.1)
    processes = Processes(precision="float32")
    module, optimizer = processes.prepare(objective, optimizer)
    before = [weight.detach().clone() for weight in module.parameters()]
    for weight in module.parameters():
        weight.grad = torch.full_like(weight, torch.nan)
    norm = processes.step(module, optimizer, max_norm=1.0)
    assert norm != norm
    for weight, was in zip(module.parameters(), before, strict=True):
        assert torch.equal(weight, was)
        assert weight.grad is None


def test_the_held_out_loss_is_the_mean_over_the_first_batches(
    make_shards: Callable[..., Shards], duet_stages: Callable[..., list[LMStage]]
) -> None:
    source, stage = duet_stages()
    batches = StageBatches(
        stage, make_shards([60, 80, 70]), source=source, tokens=400, seed=0, dropout=None
    )
    objective = StageObjective(stage).train()
    found = Processes(precision="float32").mean_loss(objective, batches, num_batches=3)
    assert objective.model.training
    objective.eval()
    with torch.no_grad():
        losses = sum(objective(batches[number]) for number in range(3))
    counts = sum(batches[number].counts(4) for number in range(3))
    assert torch.allclose(found, losses / counts)


def test_accumulated_gradients_are_those_of_the_mean_over_all_targets(
    make_shards: Callable[..., Shards], duet_stages: Callable[..., list[LMStage]]
) -> None:
    source, stage = duet_stages()
    batches = StageBatches(
        stage, make_shards([60, 80, 70]), source=source, tokens=400, seed=0, dropout=None
    )
    objective, numbered = StageObjective(stage).train(), [(n, batches[n]) for n in (4, 5, 6)]
    counts = sum(batch.counts(4) for _, batch in numbered)
    sums = torch.zeros(4)
    for number, batch in numbered:
        torch.manual_seed(seed_of(7, number))
        sums = sums + objective(batch)
    mean = sums.sum() / counts.sum()
    mean.backward()
    expected = [weight.grad for weight in objective.parameters()]
    objective.zero_grad()
    loss = Processes(precision="float32", accumulation=3).accumulate(
        objective, numbered, num_codebooks=4, seed=7
    )
    for weight, gradient in zip(objective.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)
    assert loss.mean == pytest.approx(mean.item())
    assert loss.by_codebook == pytest.approx((sums / counts).tolist())


def test_a_run_without_checkpoints_begins_at_step_0_and_one_with_them_continues(
    make_shards: Callable[..., Shards], duet_stages: Callable[..., list[LMStage]], tmp_path: Path
) -> None:
    source, stage = duet_stages()
    batches = StageBatches(
        stage, make_shards([60, 80, 70]), source=source, tokens=400, seed=0, dropout=None
    )
    processes, checkpoints = Processes(precision="float32"), Checkpoints(tmp_path)
    state, _ = learn(processes, stage, batches, steps=range(2))
    objective = StageObjective(duet_stages()[1])
    optimizer = adamw(objective, learning_rate=0.01, weight_decay=0.1)
    average = EMA(objective, decay=0.9)
    assert processes.resume(checkpoints, {"seed": 0}, objective, optimizer, average) == 0
    checkpoints.save({**state, "settings": {"seed": 0}}, step=2)
    with pytest.raises(ValueError, match="was made with seed=0, got 1"):
        processes.resume(checkpoints, {"seed": 1}, objective, optimizer, average)
    assert processes.resume(checkpoints, {"seed": 0}, objective, optimizer, average) == 2
    for name, weight in objective.state_dict().items():
        assert torch.equal(weight, state["weights"][name]), name
