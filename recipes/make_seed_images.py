"""Makes spectrogram images of rhythms, to vary with Riffusion.

    python recipes/make_seed_images.py --out seeds
    lm-audio vary seeds/beat.png --text "funky synth solo" --model riffusion-model-v1

Each image is a loop of 5.12 s, Riffusion's window, so that variations of one image share their
beat: clips of different prompts can follow each other. Everything is synthesised: no samples, no
licence. Images are written like those of `Clip.save`, and any command that takes audio reads them.
Takes seconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from audio_tokenizers.atomic import replacing
from audio_tokenizers.image_files import encode_image
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.synthetic import pluck

SAMPLE_RATE = 44_100
SECONDS = 5.12
KINDS = ("beat", "march", "pulse", "arpeggio", "drone")


@dataclass(frozen=True, kw_only=True)
class Config:
    out: Path = Path("runs/seeds")
    """Folder for the images."""
    preset: Literal["default", "tiny"] = "default"
    """tiny: images of 0.64 s."""
    beats: int = 8
    """Beats per image: 8 in 5.12 s are 94 per minute."""
    seed: int = 0


PRESETS = {"default": Config(), "tiny": Config(preset="tiny")}


def main(config: Config) -> list[Path]:
    """The images that were written."""
    if config.beats < 1:
        raise ValueError(f"beats must be at least 1, got {config.beats}.")
    seconds = SECONDS / 8 if config.preset == "tiny" else SECONDS
    beats = max(1, config.beats // 8) if config.preset == "tiny" else config.beats
    config.out.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in KINDS:
        samples = rhythm(kind, seconds=seconds, beats=beats, seed=config.seed)
        image = encode_image(torch.from_numpy(samples)[None], SAMPLE_RATE)
        paths.append(config.out / f"{kind}.png")
        with replacing(paths[-1]) as temporary:
            temporary.write_bytes(image)
        print(f"{paths[-1]}: {seconds:g} s, {60 * beats / seconds:.0f} beats per minute")
    return paths


def rhythm(kind: str, *, seconds: float, beats: int, seed: int = 0) -> np.ndarray:
    """A loop: [N], float32, peak 0.8. What sounds beyond its end goes on at its beginning."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    N = round(seconds * SAMPLE_RATE)
    loop = np.zeros(N, dtype=np.float64)
    beat = N / beats

    def add(sound: np.ndarray, at: float, level: float = 1.0) -> None:
        places = (round(at * beat) + np.arange(len(sound))) % N
        np.add.at(loop, places, level * sound)

    if kind == "beat":
        for i in range(beats):
            add(kick() if i % 2 == 0 else snare(rng), i)
            for half in (0, 0.5):
                add(hat(rng), i + half, 0.3)
    elif kind == "march":
        for i in range(beats):
            add(kick(), i, 1.0 if i % 4 == 0 else 0.6)
            for third in (0.5, 0.75):
                add(snare(rng), i + third, 0.5)
    elif kind == "pulse":
        for i in range(2 * beats):
            frequency = 55 * 2 ** ((0, 0, 7, 3)[i // 4 % 4] / 12)
            note = pluck(frequency, seconds=0.5, sample_rate=SAMPLE_RATE, rng=rng)
            add(note, i / 2, 1.0 if i % 2 == 0 else 0.6)
    elif kind == "arpeggio":
        for i in range(4 * beats):
            frequency = 220 * 2 ** ((0, 4, 7, 12, 16, 12, 7, 4)[i % 8] / 12)
            add(pluck(frequency, seconds=0.8, sample_rate=SAMPLE_RATE, rng=rng), i / 4, 0.6)
    else:
        time = np.arange(N) / N
        for number in range(1, 13):  # whole periods, so that it loops
            cycles = round(110 * number * seconds)
            swell = 1 + 0.5 * np.cos(2 * np.pi * (time * -(-beats // 4) + rng.uniform()))
            loop += swell * np.sin(2 * np.pi * (cycles * time + rng.uniform())) / number
    return (0.8 * loop / np.abs(loop).max()).astype(np.float32)


def kick() -> np.ndarray:
    """A falling tone."""
    time = np.arange(round(0.3 * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * (50 * time + 8 * (1 - np.exp(-time / 0.04)) * 0.5)
    return np.sin(phase) * np.exp(-time / 0.1)


def snare(rng: np.random.Generator) -> np.ndarray:
    """A tone in noise."""
    time = np.arange(round(0.2 * SAMPLE_RATE)) / SAMPLE_RATE
    noise = rng.standard_normal(len(time))
    return (0.4 * noise + 0.6 * np.sin(2 * np.pi * 190 * time)) * np.exp(-time / 0.06)


def hat(rng: np.random.Generator) -> np.ndarray:
    """High noise."""
    time = np.arange(round(0.08 * SAMPLE_RATE)) / SAMPLE_RATE
    return np.diff(rng.standard_normal(len(time) + 1)) * np.exp(-time / 0.02)


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
