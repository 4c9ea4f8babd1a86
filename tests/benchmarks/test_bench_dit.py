"""The benchmark of the diffusion transformer runs at tiny size and writes its table."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_benchmark_measures_network_and_codec(tmp_path: Path) -> None:
    output = tmp_path / "dit.md"
    command = [
        "benchmarks/bench_dit.py",
        "--preset=tiny",
        "--seconds=0.4",
        "--rounds=1",
        "--threads=1",
    ]
    done = subprocess.run(
        [sys.executable, *command, "--output", str(output)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split("|")[1:-1] for line in output.read_text().splitlines() if "|" in line]
    assert [(row[1].strip(), row[2].strip()) for row in rows[2:]] == [
        ("1", "float32"),
        ("1", "bfloat16"),
        ("2", "float32"),
        ("2", "bfloat16"),
    ]
    assert all(float(cell) > 0 for row in rows[2:] for cell in row[3:])
