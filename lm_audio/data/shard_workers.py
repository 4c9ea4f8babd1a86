"""Makes shards side by side: in processes of one machine, or on the machines of a Ray cluster.

Each worker loads the tokenizers once and computes with one thread. So a sum never depends on how
many threads shared it, and the shards are the same however many workers there are.
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
"""That of a process which `make_shards` started."""


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
    """Makes the shards in so many processes and yields each job as it is done.

    There is one for each CPU core by default. With the device "cuda" there is one for each GPU, and
    more share them.
    """
    num_gpus = torch.cuda.device_count() if device == "cuda" else 0
    num_workers = min(num_workers or num_gpus or os.cpu_count() or 1, len(jobs))
    if num_workers < 2:
        tokenizers = Tokenizers(config, device=device)
        worker = Worker(folder=folder, config=config, tokenizers=tokenizers)
        for job in jobs:
            yield job, worker.make(job)
        return
    # A forked process would inherit threads and GPUs in a state that it cannot use.
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
    """Makes the shards in so many actors of a Ray cluster and yields each job as it is done.

    There is one for each of its CPU cores, or GPUs, by default.
    All machines must see the corpus, the tokenizers and `folder` under the same paths. With the
    device "cuda" each actor has a GPU of its own.
    """
    rows = [{"number": number, "job": pickle.dumps(job)} for number, job in enumerate(jobs)]
    args = (str(folder.absolute()), config, device)
    on_gpu = device.startswith("cuda")
    for row in done_on_ray(rows, _Actor, args=args, num_workers=num_workers, on_gpu=on_gpu):
        yield jobs[row["number"]], pickle.loads(row["report"])


class _Actor:
    """A worker as Ray Data wants it: columns in, columns out."""

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
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # else it ends one job and begins the next
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tokenizers = Tokenizers(config, device=devices.get())
    _worker = Worker(folder=folder, config=config, tokenizers=tokenizers)


def _end_with_parent() -> None:
    """Workers of a pool would wait for ever for a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make(job: Job) -> Report:
    assert _worker is not None
    return _worker.make(job)
