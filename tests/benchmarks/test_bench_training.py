"""The benchmark of training runs at tiny size and writes its tables."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_benchmark_compares_models_of_one_size_and_writes_its_tables(tmp_path: Path) -> None:
    command = ["benchmarks/bench_training.py", "--preset=tiny", "--rounds=1"]
    output = tmp_path / "training.md"
    done = subprocess.run(
        [sys.executable, *command, "--output", str(output)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    text = output.read_text()
    assert "- command: `python benchmarks/bench_training.py" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    steps = [row for row in rows if len(row) == 8][2:]
    assert [row[0] for row in steps] == ["lm-audio", "MusicGen", "MusicGen, default AdamW"] * 2
    assert [row[2] for row in steps] == ["bfloat16"] * 3 + ["float32"] * 3
    assert {row[6] for row in steps if row[0] == "lm-audio"} == {"1.00x"}
    assert all(float(row[7].replace(",", "")) > 0 for row in steps)
    shares = {row[0].split(",")[0]: row[2] for row in rows if len(row) == 3}
    assert int(shares["StageBatches"].rstrip("%")) > 70
