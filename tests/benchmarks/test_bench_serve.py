"""The benchmark of the service runs: under load, and as a soak."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = ["--clients", "2", "--duration", "0.3"]


def run(*arguments: object) -> str:
    command = [sys.executable, "benchmarks/bench_serve.py", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_it_compares_one_batch_with_one_at_a_time(tmp_path: Path) -> None:
    output = tmp_path / "serve.md"
    run(*SHORT, "--rounds", 1, "--requests", 1, "--output", output)
    text = output.read_text()
    assert "- command: `python benchmarks/bench_serve.py" in text
    rows = [line.split("|")[2:] for line in text.splitlines() if line.startswith("| 2 |")]
    assert [row[0].strip() for row in rows] == ["one batch", "one at a time"]
    assert all(float(row[1]) > 0 for row in rows)
    assert float(rows[1][6]) == 1.0


@pytest.mark.slow
def test_a_soak_finds_no_wrong_answer() -> None:
    said = run(*SHORT, "--soak", 0.15)
    assert ", 0 wrong" in said
    assert int(re.findall(r"([\d,]+) right", said)[0].replace(",", "")) > 0
    assert "MB in the last" in said
