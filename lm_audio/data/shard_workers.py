"""Makes shards in parallel: in processes on one machine, or on a Ray cluster.

Each worker loads the tokenizers once and uses one thread, so that results do not depend on the
number of threads or workers.
"""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lm_audio.data.on_ray import done_on_ray
from lm_audio.data.shard_jobs import Job, Report, make_shard
from lm_audio.data.tokenizing import Tokenizers, TokenizingConfig

_worker: "Worker | None" = None
"""The worker of a process started by `make_shards`."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Makes shards in one process."""

    folder: Path
    config: TokenizingConfig
    tokenizers: Tokenizers

    def make(self, job: Job) -> Report:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return make_shard(job, self.folder, config=self.config, tokenizers=self.tokenizers)
        finally:
            torch.set_num_threads(before)


def make_shards(
    jobs: Sequence[Job],
    folder: Path,
    *,
    config: TokenizingConfig,
    num_workers: int | None = None,
    device: str = "cpu",
) -> Generator[tuple[Job, Report], None, None]:
    """Makes the shards in `num_workers` processes and yields each completed job.

    Defaults to one per CPU core, or with the device "cuda" one per GPU; more share the GPUs.
    """
    num_gpus = torch.cuda.device_count() if device == "cuda" else 0
    num_workers = min(num_workers or num_gpus or os.cpu_count() or 1, len(jobs))
    if num_workers < 2:
        tokenizers = Tokenizers(config, device=device)
        worker = Worker(folder=folder, config=config, tokenizers=tokenizers)
        for job in jobs:
            yield job, worker.make(job)
        return
    # Forked processes would inherit threads and CUDA contexts in an unusable state.
    context = multiprocessing.get_context("spawn")
    devices = context.Queue()
    for number in range(num_workers):
        devices.put(f"cuda:{number % num_gpus}" if num_gpus else device)
    pool = ProcessPoolExecutor(
        num_workers, context, initializer=_start, initargs=(folder, config, devices)
    )
    try:
        futures = {pool.submit(_make, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def make_shards_on_ray(
    jobs: Sequence[Job],
    folder: Path,
    *,
    config: TokenizingConfig,
    num_workers: int | None = None,
    device: str = "cpu",
) -> Generator[tuple[Job, Report], None, None]:
    """Makes the shards in `num_workers` actors of a Ray cluster and yields each completed job.

    Defaults to one per CPU core, or GPU. With the device "cuda" each actor has its own GPU. The
    corpus, the tokenizers and `folder` need the same paths on all machines.
    """
    rows = [{"number": number, "job": pickle.dumps(job)} for number, job in enumerate(jobs)]
    args = (str(folder.absolute()), config, device)
    on_gpu = device.startswith("cuda")
    for row in done_on_ray(rows, _Actor, args=args, num_workers=num_workers, on_gpu=on_gpu):
        yield jobs[row["number"]], pickle.loads(row["report"])


class _Actor:
    """A worker with Ray Data's interface: columns in, columns out."""

    def __init__(self, folder: str, config: TokenizingConfig, device: str) -> None:
        self.worker = Worker(
            folder=Path(folder), config=config, tokenizers=Tokenizers(config, device=device)
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        reports = [self.worker.make(pickle.loads(job)) for job in batch["job"]]
        return {
            "number": list(batch["number"]),
            "report": [pickle.dumps(report) for report in reports],
        }


def _start(folder: Path, config: TokenizingConfig, devices: Any) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # otherwise Ctrl-C only ends the current job
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tokenizers = Tokenizers(config, device=devices.get())
    _worker = Worker(folder=folder, config=config, tokenizers=tokenizers)


def _end_with_parent() -> None:
    """Exits with the parent: workers of a pool would otherwise wait forever for a killed one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make(job: Job) -> Report:
    assert _worker is not None
    return _worker.make(job)
