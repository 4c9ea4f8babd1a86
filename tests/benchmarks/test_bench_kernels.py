"""The benchmark of the CPU kernels runs at tiny size and writes its table."""

import subprocess
import sys
from pathlib import Path

import pytest

from lm_audio.networks.cpu import kernels

ROOT = Path(__file__).parents[2]


def test_the_benchmark_measures_both_ways(tmp_path: Path) -> None:
    if not kernels.available():
        pytest.skip("the CPU kernels cannot be compiled here")
    output = tmp_path / "kernels.md"
    command = ["benchmarks/bench_kernels.py", "--layers=1", "--rounds=1", "--steps=1"]
    done = subprocess.run(
        [sys.executable, *command, "--dtypes", "int8", "--rows", "2", "--output", str(output)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split("|")[1:-1] for line in output.read_text().splitlines() if "|" in line]
    assert {row[1].strip() for row in rows[2:]} == {"int8"}
    assert all(float(cell) > 0 for row in rows[2:] for cell in row[2:])
