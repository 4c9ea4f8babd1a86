"""The benchmark of Make-An-Audio runs at tiny size."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_clips_are_compared_and_written(tmp_path: Path) -> None:
    output = tmp_path / "clips.md"
    shape = ["--preset", "tiny", "--steps", "2", "--duration", "0.03", "--threads", "1"]
    command = [sys.executable, "benchmarks/bench_make_an_audio.py", *shape, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split("|")[1:-1] for line in output.read_text().splitlines() if line[:1] == "|"]
    assert [row[0].strip() for row in rows[2:]] == ["diffusers", "float32"]
    assert [float(x) for x in rows[2][5:]] == [1, 1]
    assert all(float(row[2]) > 0 and float(row[4]) > 0 for row in rows[2:])
