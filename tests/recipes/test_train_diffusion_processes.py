"""Many processes train the same diffusion transformer as one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes/train_diffusion.py"
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
FSDP = ["accelerate.commands.launch", f"--config_file={ROOT / 'recipes/fsdp.yaml'}",
        "--num_processes=2", "--main_process_port=0"]  # fmt: skip


def train(launcher: list[str], data: Path, codec: Path, out: Path, *options: str) -> Path:
    settings = ["--preset=tiny", "--steps=4", "--evaluate-every=4", "--context-seconds=0.4"]
    folders = [f"--data={data}", f"--codec={codec}", f"--out={out}", "--frames-per-batch=60"]
    command = [sys.executable, *launcher, str(RECIPE), *settings, *folders, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out / "model/latents/model.safetensors"


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_with_twice_the_accumulation(
    token_shards: Path, codec_folder: Path, tmp_path: Path
) -> None:
    given = (token_shards, codec_folder)
    expected = load_file(train([], *given, tmp_path / "one", "--accumulation=2"))
    for name, launcher in (("ddp", TORCHRUN), ("fsdp", FSDP)):
        found = load_file(train(["-m", *launcher], *given, tmp_path / name))
        assert found.keys() == expected.keys()
        for weight, value in expected.items():
            assert torch.allclose(found[weight], value, atol=1e-4), (name, weight)
