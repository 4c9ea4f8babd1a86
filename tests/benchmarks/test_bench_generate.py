"""The benchmarks of decoding and of loading run at tiny size."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_steps_are_compared_and_written(tmp_path: Path) -> None:
    output = tmp_path / "generate.md"
    shape = ["--preset", "tiny", "--batches", 1, 2, "--positions", 10, 20, "--clip", 0.2]
    run("benchmarks/bench_generate.py", *shape, "--rounds", 1, "--steps", 4, "--output", output)
    text = output.read_text()
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    rows = [row[1:-1] for row in rows if len(row) == 9 and row[1].isdigit()]
    assert len(rows) == 2 * 2 * 4
    assert all(float(row[5]) == 1 for row in rows if row[2] == "transformers")
    assert all(float(row[4]) > 0 and float(row[5]) > 0 for row in rows)
    exact = next(line for line in text.splitlines() if line.startswith("- float32: logits"))
    assert float(exact.split("at most ")[1].split()[0]) < 1e-4
    assert text.count("a real-time factor of") == 3
    assert text.count("of the unguided speed") == 3


@pytest.mark.slow
def test_memory_of_loading_is_weighed() -> None:
    text = run("benchmarks/bench_load.py", "--preset", "tiny", "--dtypes", "float32", "int8")
    assert text.count("| ours |") == text.count("| transformers |") == 2
