"""The time and peak memory of Python code in a separate process."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

_REPORT = """
import json, sys, time
began = time.perf_counter()
exec(sys.argv[1])
seconds = time.perf_counter() - began
try:
    lines = open("/proc/self/status").read().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
except (OSError, StopIteration):
    peak = None
print(json.dumps([seconds, peak]))
"""


@dataclass(frozen=True, kw_only=True)
class StartUp:
    """Args:
    peak_bytes: the peak resident memory of the process; None outside Linux.
    """

    seconds: float
    peak_bytes: int | None


def measure_start_up(code: str) -> StartUp:
    """Runs code in a fresh interpreter; the interpreter's own start is not counted as time.

    The peak is not taken from `getrusage`, in which Linux counts the parent's memory, too.
    """
    path = os.pathsep.join(part for part in sys.path if part)
    done = subprocess.run(
        [sys.executable, "-c", _REPORT, code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"{code!r} failed in a separate process: {reason}")
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return StartUp(seconds=seconds, peak_bytes=peak)
