"""The linear layers of a decode step by our CPU kernels and by torch, also as on a CPU with AVX2.

    python benchmarks/bench_kernels.py --output benchmarks/results/kernels.md     # 2 minutes, 3 GB
    python benchmarks/bench_kernels.py --layers 1 --rounds 2                      # smoke test

The layers have the shapes of musicgen-small's 24 blocks, random weights, one thread. Each contender
is a process of its own, and they take turns. Times are CPU time, the shortest of all rounds. For
AVX2 the kernels are compiled for x86-64-v3, and torch, oneDNN and MKL are limited to AVX2. torch's
path is that of a machine without a compiler: packed float32 and int8, and plain bfloat16 where
packing needs AVX-512.
"""

import itertools
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import nn

from audio_tokenizers.atomic import replacing
from lm_audio.networks.cpu import kernels
from lm_audio.networks.cpu.linear import Linear
from lm_audio.networks.packing import pack

Dtype = Literal["float32", "bfloat16", "int8"]
WIDTH = 1024
SHAPES = ((WIDTH, 3 * WIDTH), *[(WIDTH, WIDTH)] * 3, (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
PATHS = {"kernels": dict[str, str](), "torch": {"LM_AUDIO_KERNELS": "0"}}


@dataclass(frozen=True, kw_only=True)
class Config:
    layers: int = 24
    """Blocks of the model."""
    rows: tuple[int, ...] = (1, 2, 16)
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16", "int8")
    rounds: int = 3
    """Processes of each contender."""
    steps: int = 6
    """Steps in each process."""
    output: Path | None = None
    """Markdown file for the table, in addition to stdout."""
    run: Dtype | None = None
    """Measure one precision and print the times as JSON; used by the benchmark itself."""


def main(config: Config) -> None:
    if config.run is not None:
        print(json.dumps(measure(config, config.run)))
        return
    found: dict[tuple[str, str, str], list[float]] = {}
    levels = ["AVX512", "AVX2"] if torch.backends.cpu.get_cpu_capability() == "AVX512" else ["AVX2"]
    for _ in range(config.rounds):
        for key in itertools.product(levels, config.dtypes, PATHS):
            times = in_own_process(config, *key)
            found[key] = [min(pair) for pair in zip(found.get(key, times), times, strict=True)]
    lines = table(found, config)
    print("\n".join(lines))
    if config.output is not None:
        with replacing(config.output) as path:
            path.write_text("\n".join([*preamble(), "", *lines]) + "\n")


def table(found: dict[tuple[str, str, str], list[float]], config: Config) -> list[str]:
    titles = [f"{rows} row{'s' * (rows > 1)}" for rows in config.rows]
    lines = [
        f"| vectors | weights | {' | '.join(f'{x}: ours, ms | torch, ms | x' for x in titles)} |",
        "|---|---|" + "---:|---:|---:|" * len(titles),
    ]
    for level, dtype in dict.fromkeys(key[:2] for key in found):
        ours, torchs = (found[level, dtype, path] for path in PATHS)
        cells = [
            f"{own:.1f} | {other:.1f} | {other / own:.2f}"
            for own, other in zip(ours, torchs, strict=True)
        ]
        lines.append(f"| {level} | {dtype} | {' | '.join(cells)} |")
    return lines


def in_own_process(config: Config, level: str, dtype: str, path: str) -> list[float]:
    command = [
        sys.executable, __file__, "--run", dtype, "--layers", str(config.layers),
        "--steps", str(config.steps), "--rows", *map(str, config.rows),
    ]  # fmt: skip
    limits = AVX2 if level == "AVX2" else {}
    done = subprocess.run(
        command,
        env={**os.environ, **limits, **PATHS[path]},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    times: list[float] = json.loads(done.stdout.splitlines()[-1])
    return times


@torch.inference_mode()
def measure(config: Config, dtype: Dtype) -> list[float]:
    """The shortest CPU time of a step in ms, for each number of rows."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    blocks = nn.ModuleList(
        Linear(*shape, bias=False) for _ in range(config.layers) for shape in SHAPES
    ).eval()
    if dtype == "bfloat16":
        blocks.to(torch.bfloat16)
    pack(blocks, "int8" if dtype == "int8" else "same")
    by_torch = dtype == "bfloat16" and not kernels.available()
    given = torch.bfloat16 if by_torch else torch.float32
    times = []
    for rows in config.rows:
        inputs = {n: torch.randn(rows, n).to(given) for n in (WIDTH, 4 * WIDTH)}
        times.append(min(step(blocks, inputs) for _ in range(config.steps)) * 1e3)
    return times


def step(layers: nn.ModuleList, inputs: dict[int, torch.Tensor]) -> float:
    begin = time.process_time()
    for layer in layers:
        one: Any = layer
        one(inputs[one.in_features])
    return time.process_time() - begin


def preamble() -> list[str]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return [
        "# Linear layers of a decode step",
        "",
        *(__doc__ or "").split("\n\n")[-1].strip().splitlines(),
        "",
        f"- command: `python {' '.join(sys.argv)}`",
        f"- commit {commit}, torch {torch.__version__}, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}",
    ]


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
