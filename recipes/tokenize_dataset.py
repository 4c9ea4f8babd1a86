"""Tokenizes a corpus into shards of tokens, from which language models are trained.

    python recipes/tokenize_dataset.py --preset tiny                    # seconds, synthetic sounds
    python recipes/tokenize_dataset.py --data runs/corpus --out runs/tokens --semantic runs/semantic
    python recipes/tokenize_dataset.py --data runs/corpus --codec none --samples 24000  # sound only

`--data` is a corpus from one of the prepare_... recipes, a folder with one Shar per split, or a
plain folder of audio without captions. Shards hold up to three streams: acoustic tokens
(`--codec`), semantic tokens (`--semantic`) and 16-bit samples (`--samples`). `--mix N` also mixes
each training clip and its captions with N others, as AudioGen does.

Run the same command again to resume: existing shards are kept. The number of workers does not
change the shards. `--engine ray` distributes the work over a Ray cluster with a shared file system.
Unusable clips are listed in OUT/skipped.txt with the reason.
A CPU core tokenizes about 70 s of sound per second with the default codec. A worker takes 0.5 GB
plus twice the size of its shard. An hour of sound takes 3 MB as tokens of the default codec and
170 MB as samples at 24 kHz.
"""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from audio_tokenizers.atomic import replacing
from audio_tokenizers.audio_files import audio_info, find_audio
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.semantic.features import FAIRSEQ2_PREFIX
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.corpus import recording_of
from lm_audio.data.manifest import SPLITS, Split, make_cut, write_cuts
from lm_audio.data.shard_jobs import Report, claim_folder, plan_jobs, read_report
from lm_audio.data.shard_workers import make_shards, make_shards_on_ray
from lm_audio.data.shards import Conditions, Shards
from lm_audio.data.synthetic import synthetic_clips
from lm_audio.data.tokenizing import Tokenizers, TokenizingConfig
from lm_audio.pretrained import CODEC_FOLDER


@dataclass(frozen=True, kw_only=True)
class Config:
    data: Path | None = None
    """A prepared corpus, a Shar or a folder of audio; the tiny preset defaults to synthetic
    sounds."""
    out: Path = Path("runs/tokens")
    """Folder for the shards."""
    preset: Literal["default", "tiny"] = "default"
    codec: str = "default"
    """Codec name, folder or hub id; "default" is the bundled codec, "none" writes no acoustic
    tokens."""
    num_codebooks: int | None = None
    """Number of codebooks to keep, coarsest first; all by default."""
    semantic: Path | None = None
    """Folder of a semantic tokenizer from recipes/train_semantic_codebook.py. "fairseq2:FOLDER"
    requires that its model runs on fairseq2 (pip install 'lm-audio[parity]')."""
    cache: Path | None = None
    """Token cache folder, shared between runs; audio that the same tokenizer has encoded before is
    not encoded again. No cache by default."""
    samples: int | None = None
    """Also store samples, at this sample rate in Hz."""
    channels: int | None = None
    """Number of channels; defaults to the codec's. 2 also works with a mono codec."""
    max_seconds: float = 60.0
    """Maximum length of an example in seconds; longer recordings are cut into equal parts."""
    mix: int = 0
    """Number of mixtures with other clips to add for each training clip."""
    passages: float | None = None
    """Join training clips of one speaker into passages of this many seconds, with short pauses.
    Otherwise a stage learns that silence follows each sentence."""
    fill: float | None = None
    """Repeat training clips that end in silence until they last at least this many seconds.
    Otherwise a stage learns that sounds are mostly silence."""
    examples_per_shard: int | None = None
    """Clips per shard, not counting mixtures; default 500, or 4 with the tiny preset. For a Shar,
    each of its parts becomes one shard."""
    engine: Literal["processes", "ray"] = "processes"
    num_workers: int | None = None
    """Number of workers; defaults to one per GPU, or per CPU core without GPUs."""
    device: str | None = None
    """Torch device; defaults to cuda if available, else cpu."""
    seed: int = 0


def main(config: Config) -> dict[Split, Shards]:
    """Writes the missing shards and returns the shards of each split."""
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    codec = {"default": str(CODEC_FOLDER), "none": None}.get(config.codec, config.codec)
    examples_per_shard = config.examples_per_shard
    if examples_per_shard is None:
        examples_per_shard = 4 if config.preset == "tiny" else 500
    if config.num_workers is not None and config.num_workers < 1:
        raise ValueError(f"--num-workers must be at least 1, got {config.num_workers}.")
    tokenizing = TokenizingConfig(
        # Workers may run in another folder.
        codec=str(Path(codec).absolute()) if codec and Path(codec).exists() else codec,
        num_codebooks=config.num_codebooks,
        semantic=None if config.semantic is None else absolute(config.semantic),
        sample_rate=config.samples,
        num_channels=config.channels,
        max_seconds=config.max_seconds,
        num_mixed=config.mix,
        passage_seconds=config.passages,
        fill_seconds=config.fill,
        examples_per_shard=examples_per_shard,
        seed=config.seed,
        cache=None if config.cache is None else str(config.cache.absolute()),
    )
    corpus, unreadable = find_corpus(config)
    jobs = plan_jobs(corpus.absolute(), tokenizing)
    streams = Tokenizers(tokenizing).streams
    claim_folder(config.out, config=tokenizing, streams=streams, jobs=jobs)

    reports = {job: report for job in jobs if (report := read_report(config.out, job))}
    waiting = [job for job in jobs if job not in reports]
    make = make_shards_on_ray if config.engine == "ray" else make_shards
    made = make(
        waiting, config.out, config=tokenizing, num_workers=config.num_workers, device=device
    )
    total, left = (sum(job.seconds for job in some) for some in (jobs, waiting))
    progress = tqdm(
        total=round(total), initial=round(total - left), unit="s", desc="tokenizing", smoothing=0
    )
    with closing(made), progress:
        for job, report in made:
            reports[job] = report
            left -= job.seconds
            progress.update(round(total - left) - progress.n)
            progress.set_postfix(shards=f"{len(reports)}/{len(jobs)}")

    skipped = unreadable + [line for job in jobs for line in reports[job].skipped]
    with replacing(config.out / "skipped.txt") as file:
        file.write_text("".join(f"{name}\t{why}\n" for name, why in skipped), encoding="utf-8")
    if not any(report.num_examples for report in reports.values()):
        raise ValueError(
            f"None of the {len(skipped)} clips of {corpus} can be used; see "
            f"{config.out / 'skipped.txt'} for the reasons."
        )
    shards = {
        split: Shards(config.out, split)
        for split in SPLITS
        if any(job.split == split and reports[job].num_examples for job in jobs)
    }
    summarise(shards, config, reports.values())
    return shards


def absolute(semantic: Path) -> str:
    """An absolute path to the tokenizer, since workers may run in another folder."""
    folder = str(semantic).removeprefix(FAIRSEQ2_PREFIX)
    prefix = FAIRSEQ2_PREFIX if folder != str(semantic) else ""
    return f"{prefix}{Path(folder).absolute()}"


def find_corpus(config: Config) -> tuple[Path, list[tuple[str, str]]]:
    """The prepared corpus or Shar, created from plain audio if needed, and the unusable files."""
    if config.data is None:
        if config.preset != "tiny":
            raise ValueError("No data; pass a corpus as --data, or try --preset tiny.")
        return make_up_corpus(config.out / "corpus"), []
    if not config.data.is_dir():
        raise ValueError(f"{config.data} is not a folder; pass a corpus or a folder of audio.")
    is_prepared = (config.data / "train.jsonl.gz").exists() or any(
        (config.data / "train").glob("cuts.*.jsonl*")
    )
    if is_prepared:
        return config.data, []
    paths = find_audio(config.data)
    if not paths:
        raise ValueError(f"No audio files found in {config.data}; pass another --data.")
    cuts, skipped = [], []
    for path in tqdm(paths, desc="reading headers", unit="file"):
        relative = path.relative_to(config.data)
        name, group = relative.as_posix(), recording_of(relative)  # held out as in other recipes
        try:
            cuts.append(make_cut(name, path, info=audio_info(path), conditions={}, group=group))
        except ValueError as error:
            skipped.append((name, str(error)))
    if not cuts:
        raise ValueError(
            f"None of the {len(paths)} audio files in {config.data} can be read; first error: "
            f"{skipped[0][1]}"
        )
    write_cuts(config.out / "corpus", cuts, seed=config.seed)
    return config.out / "corpus", skipped


def make_up_corpus(folder: Path) -> Path:
    """Writes twelve short sounds with captions and labels; at least two are held out."""
    cuts = []
    for clip in synthetic_clips(num_clips=12, seconds=1.0, sample_rate=24_000, seed=0):
        path = folder / "audio" / f"{clip.name}.flac"
        write_audio(path, torch.from_numpy(clip.samples)[None].float() / 2**15, 24_000)
        captions = [f"the sound of {clip.kind}", clip.kind]
        conditions: Conditions = {"text": captions, "label": clip.kind}
        cuts.append(make_cut(clip.name, path, info=audio_info(path), conditions=conditions))
    write_cuts(folder, cuts, held_out=0.2)
    return folder


def summarise(shards: dict[Split, Shards], config: Config, reports: Iterable[Report]) -> None:
    """Prints the sizes of the shards, the number of skipped clips, and the next command."""
    lines = []
    for split, part in shards.items():
        name, stream = next(iter(part.streams.items()))
        hours = float(part.lengths(name).sum() / stream.rate) / 3600
        size = sum(path.stat().st_size for path in config.out.glob(f"{split}-*.safetensors"))
        lines.append(f"{split}: {len(part):,} examples, {hours:.3f} h, {size / 1e6:,.1f} MB")
    for name, stream in part.streams.items():
        K, rate = stream.num_codebooks, float(stream.rate)
        lines.append(f"{name}: {K} x {rate:g} = {K * rate:,g} per second, {stream.identity}")
    num_skipped = len((config.out / "skipped.txt").read_text(encoding="utf-8").splitlines())
    if num_skipped:
        lines.append(f"{num_skipped:,} unusable clips; see skipped.txt")
    if num_clipped := sum(report.num_clipped for report in reports):
        lines.append(f"{num_clipped:,} clips exceed full scale; their samples were limited")
    command = "train_codec.py"
    if part.streams.keys() & {"acoustic", "semantic"}:
        family = "duet" if "semantic" in part.streams else "audiocraft"
        command = f"train_stage.py --family {family}"
    lines.append(f"Next: python recipes/{command} --data {config.out}")
    tqdm.write(f"{config.out}:\n  " + "\n  ".join(lines))


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
