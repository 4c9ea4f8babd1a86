"""The benchmark of masked decoding runs at tiny size."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_three_ways_to_make_tokens_are_compared(tmp_path: Path) -> None:
    output = tmp_path / "masked.md"
    command = ["benchmarks/bench_masked.py", "--preset", "tiny", "--seconds", "0.4"]
    done = subprocess.run(
        [sys.executable, *command, "--dtypes", "float32", "--output", str(output)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [
        [cell.strip() for cell in line.split("|")][1:-1]
        for line in output.read_text().splitlines()
        if line.startswith(("| masked", "| autoregressive", "| transformers"))
    ]
    assert [row[:2] for row in rows] == [
        ["autoregressive", "float32"],
        ["masked", "float32"],
        ["transformers", "float32"],
    ]
    assert all(float(row[2]) > 0 for row in rows)
    assert float(rows[0][5]) == 1
