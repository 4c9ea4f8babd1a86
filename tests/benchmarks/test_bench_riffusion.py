"""The benchmark of Riffusion runs at tiny size."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_clips_are_compared_and_written(tmp_path: Path) -> None:
    output = tmp_path / "riffusion.md"
    shape = ["--preset", "tiny", "--steps", "2", "--duration", "0.2", "--threads", "1"]
    command = [sys.executable, "benchmarks/bench_riffusion.py", *shape, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    text = output.read_text()
    assert text.startswith("# Clips of Riffusion\n")
    assert "`python benchmarks/bench_riffusion.py --preset tiny" in text
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line[:1] == "|"]
    assert [row[0].strip() for row in rows[2:]] == ["diffusers", "float32"]
    assert all(float(row[2]) > 0 and float(row[4]) > 0 for row in rows[2:])
