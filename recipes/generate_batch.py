"""Generates clips for a file of prompts, however long: on this machine, or on a Ray cluster.

    python recipes/generate_batch.py --preset tiny                       # seconds, two prompts
    python recipes/generate_batch.py --prompts prompts.txt --out runs/clips --duration 5
    python recipes/generate_batch.py --prompts prompts.txt --out /shared/clips --engine ray

The file has a prompt on each line. The clip of line N, counted from 0, has the seed SEED + N and
lies in OUT/00000/0000000.flac, a folder for each thousand; beside it a manifest has the settings of
each clip, a line for each. It can be stopped and started again at any time, on as many machines as
there are then: jobs that are done are left out, and clips depend on nobody's company.
`--engine ray` spreads the jobs over a Ray cluster whose machines share the file system; each worker
loads the model once. With the model in the package a CPU core makes about 1 s of sound in a second.
"""

import hashlib
import itertools
import json
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from audio_tokenizers.atomic import replacing
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.on_ray import done_on_ray
from lm_audio.loading import find_device, load
from lm_audio.pipeline import AudioPipeline
from lm_audio.version import __version__

SETTINGS = "settings.json"
CLIPS_PER_FOLDER = 1000


@dataclass(frozen=True, kw_only=True)
class Config:
    prompts: Path | None = None
    """A file with a prompt on each line; without it the recipe makes two up."""
    out: Path = Path("runs/clips")
    preset: Literal["default", "tiny"] = "default"
    model: str | None = None
    """A folder, a name that `lm-audio models` lists, or a hub id; else the one in the package."""
    duration: float = 5.0
    seed: int = 0
    format: Literal["wav", "flac", "ogg", "opus", "mp3"] = "flac"
    batch_size: int = 20
    """Clips that are made together: a job. A thousand must be a multiple of it."""
    engine: Literal["local", "ray"] = "local"
    num_workers: int | None = None
    """Of Ray; one for each CPU core, or each GPU, by default."""
    device: str | None = None
    """cuda where there is one, else cpu."""
    dtype: str = "float32"


PRESETS = {
    "tiny": Config(preset="tiny", duration=0.3, batch_size=2),
    "default": Config(),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """Consecutive lines of the file.

    Args:
        first: the number of its first line.
    """

    first: int
    prompts: tuple[str, ...]

    def folder(self, out: Path) -> Path:
        return out / f"{self.first // CLIPS_PER_FOLDER:05d}"

    def manifest(self, out: Path) -> Path:
        return self.folder(out) / f"{self.first:07d}.jsonl"


class Worker:
    """Does jobs with a model that it loads once; on Ray it is an actor of Ray Data."""

    def __init__(self, config: Config, device: str, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.config = config
        self.model: AudioPipeline = load(config.model, device=device, dtype=config.dtype)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        for first, prompts in zip(batch["first"], batch["prompts"], strict=True):
            self.do(Job(first=int(first), prompts=tuple(prompts)))
        return {"done": [len(prompts) for prompts in batch["prompts"]]}

    def do(self, job: Job) -> None:
        """Makes the clips of a job, and then its manifest, which says that it is done."""
        config = self.config
        numbers = range(job.first, job.first + len(job.prompts))
        seeds = [config.seed + number for number in numbers]
        clips = self.model.generate(list(job.prompts), duration=config.duration, seed=seeds)
        job.folder(config.out).mkdir(parents=True, exist_ok=True)
        rows = []
        for number, clip in zip(numbers, clips, strict=True):
            name = f"{number:07d}.{config.format}"
            clip.save(job.folder(config.out) / name)
            row = {"file": name, "prompt": clip.prompt, "seed": clip.seed, **of_all_clips(config)}
            rows.append(json.dumps(row, ensure_ascii=False) + "\n")
        with replacing(job.manifest(config.out)) as path:
            path.write_text("".join(rows), encoding="utf-8")


def main(config: Config) -> int:
    """Makes the clips that are not there yet and returns how many there are."""
    if config.batch_size < 1 or CLIPS_PER_FOLDER % config.batch_size:
        raise ValueError(
            f"batch_size is {config.batch_size}; use one of which 1,000 is a multiple, such as 20."
        )
    config = replace(config, out=config.out.absolute())
    prompts = read_prompts(config)
    claim_folder(config, prompts)
    jobs = [
        Job(first=first, prompts=tuple(some))
        for first, some in zip(
            itertools.count(step=config.batch_size),
            batched(prompts, config.batch_size),
            strict=False,
        )
    ]
    waiting = [job for job in jobs if not job.manifest(config.out).exists()]
    left = sum(len(job.prompts) for job in waiting)
    do = do_on_ray if config.engine == "ray" else do_here
    bar = tqdm(total=len(prompts), initial=len(prompts) - left, unit="clip", desc="generating")
    with closing(do(config, waiting)) as done, bar:
        for count in done:
            bar.update(count)
    print(
        f"{len(prompts):,} clips are in {config.out}, {left:,} of them new. The settings of each: "
        f"{config.out}/00000/*.jsonl."
    )
    return len(prompts)


def do_here(config: Config, jobs: list[Job]) -> Generator[int]:
    if not jobs:
        return
    worker = Worker(config, find_device(config.device))
    for job in jobs:
        worker.do(job)
        yield len(job.prompts)


def do_on_ray(config: Config, jobs: list[Job]) -> Generator[int]:
    """An actor for each core, or GPU, of the cluster."""
    on_gpu = find_device(config.device).startswith("cuda")
    rows = [{"first": job.first, "prompts": list(job.prompts)} for job in jobs]
    args = (config, "cuda" if on_gpu else "cpu", None if on_gpu else 1)
    for row in done_on_ray(rows, Worker, args=args, num_workers=config.num_workers, on_gpu=on_gpu):
        yield row["done"]


def read_prompts(config: Config) -> list[str]:
    if config.prompts is None:
        return ["a dog barking", "rain on a roof", "waves on a beach"]
    try:
        lines = config.prompts.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{config.prompts} is not text; give a file of prompts.") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"{config.prompts} holds no prompt; give a file with one on each line.")
    return prompts


def claim_folder(config: Config, prompts: list[str]) -> None:
    """Refuses a folder with clips of other settings."""
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16]
    shared = of_all_clips(config)
    settings = {"prompts": digest, "seed": config.seed, "batch_size": config.batch_size, **shared}
    path = config.out / SETTINGS
    if path.exists() and (known := json.loads(path.read_text())) != settings:
        others = [key for key in settings if known.get(key) != settings[key]]
        raise ValueError(
            f"{config.out} has clips with another {', '.join(others)}; give another --out."
        )
    config.out.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write_text(json.dumps(settings, indent=2) + "\n")


def of_all_clips(config: Config) -> dict[str, Any]:
    """The settings that all clips share."""
    shared = {key: asdict(config)[key] for key in ("model", "duration", "format", "dtype")}
    return {**shared, "model": config.model or "default", "lm-audio": __version__}


def batched(prompts: list[str], size: int) -> Iterator[list[str]]:
    for first in range(0, len(prompts), size):
        yield prompts[first : first + size]


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
