"""Fillings of gaps: a masked model, which sees both sides, against one that sees the left only.

    python benchmarks/bench_inpainting.py --masked runs/soundstorm/model \\
        --causal runs/acoustic/model --data held_out_sounds

Each gap of a recording is filled by both models with the same seed. A filling is judged by what
comes after it: the mean log-likelihood per token of the true tokens in the second after the gap,
given all tokens before them, filling included. The causal model is a judge that already chose its
own filling by this measure, among its candidates; the masked model judges its first round. Both
models need the same codec, and their names of stages must agree.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

import lm_audio
from audio_tokenizers.atomic import replacing
from audio_tokenizers.audio_files import read_audio
from lm_audio.clip import Clip
from lm_audio.generation.token_stage import TokenStage
from lm_audio.generation.track import Track
from lm_audio.pipeline import AudioPipeline

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True, kw_only=True)
class Config:
    masked: Path
    """Folder of a model whose acoustic stage is masked."""
    causal: Path
    """Folder of a model with a language model in its place."""
    data: Path
    """Folder of recordings that neither was trained on."""
    num_gaps: int = 100
    gap: float = 0.6
    """Duration of each gap in seconds."""
    judged: float = 1.0
    """Seconds after the gap that are judged."""
    seconds: float = 6.0
    """Duration of the excerpt around each gap, at most the models' windows."""
    candidates: int = 4
    """Fillings that the causal model chooses from."""
    output: Path | None = None
    """Markdown file for the table, in addition to stdout."""
    seed: int = 0


def main(config: Config) -> None:
    masked = lm_audio.load(config.masked)
    causal = lm_audio.load(config.causal)
    if masked.renderer.identity != causal.renderer.identity:
        raise SystemExit("The models have different codecs, so their tokens cannot be compared.")
    judges = {"causal": causal, "masked": masked}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in judges}
    for number, (samples, start) in enumerate(excerpts(config, masked.sample_rate)):
        clips = [
            model.inpaint(
                (samples, model.sample_rate),
                start=start,
                end=start + config.gap,
                seed=config.seed + number,
                num_candidates=config.candidates,
                raw=True,
            )
            for model in (masked, causal)
        ]
        for name, judge in judges.items():
            scores = [likelihood(judge, clip, start + config.gap, config.judged) for clip in clips]
            found[name].append((scores[0], scores[1]))
        print(f"{number + 1} of {config.num_gaps} gaps", end="\r", file=sys.stderr)
    lines = table(found)
    print("\n".join(lines))
    if config.output is not None:
        with replacing(config.output) as path:
            command = f"- command: `python {' '.join(sys.argv)}`"
            about = (__doc__ or "").split("\n\n")[2].strip()
            path.write_text("\n\n".join(["# Inpainting", about, command, "\n".join(lines)]) + "\n")


def excerpts(config: Config, sample_rate: int) -> list[tuple[Tensor, float]]:
    """Excerpts [1, N] of recordings in turn, and the start of the gap in each."""
    paths = [path for path in sorted(config.data.rglob("*")) if path.suffix.lower() in SUFFIXES]
    random = np.random.default_rng(config.seed)
    margin = config.judged + config.gap
    made: list[tuple[Tensor, float]] = []
    for path in paths * (config.num_gaps // max(1, len(paths)) + 1):
        samples = read_audio(path, sample_rate=sample_rate, num_channels=1).samples
        longest = round(config.seconds * sample_rate)
        first = int(random.integers(max(1, samples.shape[1] - longest)))
        samples = samples[:, first : first + longest]
        seconds = samples.shape[1] / sample_rate
        if seconds > 2 * margin and len(made) < config.num_gaps:
            made.append((samples, float(random.uniform(margin, seconds - margin))))
    if not made:
        raise SystemExit(f"{config.data} has no recording of more than {2 * margin:g} s.")
    return made


def likelihood(judge: AudioPipeline, clip: Clip, end: float, seconds: float) -> float:
    """The mean log-likelihood of the tokens of a filled clip after the gap, in its last stage."""
    stage = judge.stages[judge.model.output_stages[-1]]
    assert isinstance(stage, TokenStage)
    first = judge.renderer.num_frames(round(end * judge.sample_rate))
    last = first + round(seconds * stage.frame_rate)
    track = track_of(stage, clip.stage_values)
    return float(stage.likelihoods(track, first, last).mean())


def track_of(stage: TokenStage, values: Mapping[str, Tensor]) -> Track:
    """The track of a stage whose values, and those of its source, are all known."""
    source = None
    if stage.source is not None:
        given = values[stage.source.stage]
        source = Track(values=given.to(stage.device), seed=0, sampling=stage.sampling)
    return Track(
        values=values[stage.name].to(stage.device), seed=0, sampling=stage.sampling, source=source
    )


def table(found: Mapping[str, list[tuple[float, float]]]) -> list[str]:
    lines = [
        "| judge | gaps | masked, nats per token | causal | masked is better in |",
        "|---|---:|---:|---:|---:|",
    ]
    for judge, pairs in found.items():
        masked, causal = torch.tensor(pairs).T
        share = float((masked > causal).float().mean())
        lines.append(
            f"| {judge} | {len(pairs)} | {float(masked.mean()):.3f} | {float(causal.mean()):.3f} | "
            f"{share:.0%} |"
        )
    return lines


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
