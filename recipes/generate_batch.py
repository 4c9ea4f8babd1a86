"""Generates clips for a prompt file of any size, on this machine or on a Ray cluster.

    python recipes/generate_batch.py --preset tiny                       # seconds, two prompts
    python recipes/generate_batch.py --prompts prompts.txt --out runs/clips --duration 5
    python recipes/generate_batch.py --prompts prompts.txt --out /shared/clips --engine ray

The file has one prompt per line. Line N, counted from 0, uses the seed SEED + N. Clips are saved as
OUT/00000/0000000.flac, 1,000 per folder, with a manifest (JSON Lines) of their settings. Run the
same command again to resume, on any number of machines: finished jobs are skipped, and no clip
depends on the others in its batch. `--engine ray` distributes the jobs over a Ray cluster with a
shared file system; each worker loads the model once. With the bundled model, a CPU core generates
about 1 s of sound per second.
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
    """Text file with one prompt per line; uses three example prompts by default."""
    out: Path = Path("runs/clips")
    """Folder for the clips and their manifests."""
    preset: Literal["default", "tiny"] = "default"
    model: str | None = None
    """A folder, a name from `lm-audio models`, or a hub id; the bundled model by default."""
    duration: float = 5.0
    """Duration of each clip in seconds."""
    seed: int = 0
    """Seed of the first clip; each next line adds one."""
    format: Literal["wav", "flac", "ogg", "opus", "mp3"] = "flac"
    batch_size: int = 20
    """Clips per batch and job; must divide 1,000."""
    engine: Literal["local", "ray"] = "local"
    num_workers: int | None = None
    """Number of Ray workers; defaults to one per GPU, or per CPU core without GPUs."""
    device: str | None = None
    """Torch device; defaults to cuda if available, else cpu."""
    dtype: str = "float32"


PRESETS = {
    "tiny": Config(preset="tiny", duration=0.3, batch_size=2),
    "default": Config(),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """Consecutive lines of the file.

    Args:
        first: the number of its first line, counted from 0.
    """

    first: int
    prompts: tuple[str, ...]

    def folder(self, out: Path) -> Path:
        return out / f"{self.first // CLIPS_PER_FOLDER:05d}"

    def manifest(self, out: Path) -> Path:
        return self.folder(out) / f"{self.first:07d}.jsonl"


class Worker:
    """Runs jobs with a model that it loads once; on Ray it is an actor of Ray Data."""

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
        """Generates the clips of a job, then writes its manifest, which marks it as finished."""
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
    """Generates the missing clips and returns the number of all clips."""
    if config.batch_size < 1 or CLIPS_PER_FOLDER % config.batch_size:
        raise ValueError(
            f"--batch-size must be a divisor of 1,000, such as 20, got {config.batch_size}."
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
        f"{config.out}: {len(prompts):,} clips, {left:,} of them new. Settings of each clip: "
        f"{config.out}/*/*.jsonl."
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
    """Runs the jobs with one actor per GPU, or per core, of the cluster."""
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
        raise ValueError(f"{config.prompts} is not UTF-8 text; pass a text file.") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"{config.prompts} has no prompts; expected one per line.")
    return prompts


def claim_folder(config: Config, prompts: list[str]) -> None:
    """Raises ValueError if the folder has clips with other settings."""
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16]
    shared = of_all_clips(config)
    settings = {"prompts": digest, "seed": config.seed, "batch_size": config.batch_size, **shared}
    path = config.out / SETTINGS
    if path.exists() and (known := json.loads(path.read_text())) != settings:
        others = [key for key in settings if known.get(key) != settings[key]]
        raise ValueError(
            f"{config.out} has clips with different settings ({', '.join(others)}); choose another "
            "--out."
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
