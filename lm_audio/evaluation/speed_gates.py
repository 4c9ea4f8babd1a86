"""How long a model takes to make a clip, and to be there."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from lm_audio.evaluation.gates import GatedMeasurement
from lm_audio.evaluation.report import Measurement, missing
from lm_audio.evaluation.start_up import measure_start_up

THREADS = 2
TIMES = 3


def real_time_gate(make: Callable[[int], object], *, seconds: float) -> GatedMeasurement:
    """How long a clip of so many seconds takes, in its own length; `make` gets the seed."""
    threads, times = torch.get_num_threads(), []
    torch.set_num_threads(THREADS)
    try:
        for seed in range(TIMES):
            start = time.perf_counter()
            make(seed)
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    row = Measurement(
        metric=f"real-time factor of a clip of {seconds:.2g} s",
        implementation=f"median of {TIMES}, {THREADS} threads, guidance on, after loading",
        value=median(times) / seconds,
        num_items=TIMES,
        interval=(min(times) / seconds, max(times) / seconds),
        better="lower",
        note="the interval is that of all",
    )
    return GatedMeasurement(group="speed", measurement=row, gate=0.7, goal=0.3)


def start_up_gates(folder: Path) -> list[GatedMeasurement]:
    """How long `import lm_audio` and loading a model take, and how much memory."""
    code = f"import lm_audio; lm_audio.load({str(folder)!r}, device='cpu')"
    started = measure_start_up(code)
    seconds = Measurement(
        metric="import and load (s)",
        implementation=f"in a fresh process: {code}",
        value=started.seconds,
        num_items=1,
        better="lower",
    )
    memory = missing("import and load (GB)", reason="this system does not tell the peak")
    if started.peak_bytes is not None:
        memory = Measurement(
            metric="import and load (GB)",
            implementation="peak resident memory of that process",
            value=started.peak_bytes / 1e9,
            num_items=1,
            better="lower",
        )
    return [
        GatedMeasurement(group="speed", measurement=seconds, gate=6.0, goal=3.0),
        GatedMeasurement(
            group="speed", measurement=memory, gate=None if memory.value is None else 1.0
        ),
    ]
