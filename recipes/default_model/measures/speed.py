"""How long a model takes to generate a clip, to import and to load."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from lm_audio.evaluation.report import Measurement, missing
from measures.start_up import measure_start_up
from measures.targets import TargetResult

THREADS = 2
TIMES = 3


def real_time_result(make: Callable[[int], object], *, seconds: float) -> TargetResult:
    """The real-time factor of a clip of `seconds`; `make` receives a seed."""
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
        note="the interval spans all runs",
    )
    return TargetResult(group="speed", measurement=row, target=0.7, stretch=0.3)


def start_up_results(folder: Path) -> list[TargetResult]:
    """The time and peak memory of `import lm_audio` and loading a model."""
    code = f"import lm_audio; lm_audio.load({str(folder)!r}, device='cpu')"
    started = measure_start_up(code)
    seconds = Measurement(
        metric="import and load (s)",
        implementation=f"in a fresh process: {code}",
        value=started.seconds,
        num_items=1,
        better="lower",
    )
    memory = missing("import and load (GB)", reason="this system does not report the peak")
    if started.peak_bytes is not None:
        memory = Measurement(
            metric="import and load (GB)",
            implementation="peak resident memory of that process",
            value=started.peak_bytes / 1e9,
            num_items=1,
            better="lower",
        )
    return [
        TargetResult(group="speed", measurement=seconds, target=6.0, stretch=3.0),
        TargetResult(
            group="speed", measurement=memory, target=None if memory.value is None else 1.0
        ),
    ]
