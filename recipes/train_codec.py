"""Trains the frame codec: a folder of audio becomes a codec of 0.5 to 4 kb/s at 24 kHz.

    python recipes/train_codec.py --preset tiny                    # under a minute, made-up sounds
    python recipes/train_codec.py --data sounds/ --out runs/codec  # a day's worth of sounds or less

`--data` is a folder of audio files of any format and rate, subfolders by kind (speech, music,
rain ...). Training stops after `--steps` and can be stopped and started again at any time: it
continues from `OUT/training.pt`. `OUT/model.safetensors` and `OUT/config.json` are the codec, the
average of the latest weights; use them as `lm-audio encode --codec OUT`.
A step of 12 x 1.28 s takes about 0.7 s on two CPU cores in bfloat16, and 2 GB of memory beside the
audio, which takes 170 MB an hour. How it learns, and what failed: docs/log.md.
"""

import copy
import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from tqdm import tqdm

from audio_tokenizers.acoustic.frame_codec import (
    FrameCodec,
    FrameCodecConfig,
    save_frame_codec,
    tiny,
)
from audio_tokenizers.atomic import replacing
from lm_audio.data.corpus import Corpus, Recording, SegmentSampler, load_corpus
from lm_audio.data.synthetic import synthetic_clips
from lm_audio.training.spectral_distance import SpectralConfig, distance, energy_score, spectra


@dataclass(frozen=True, kw_only=True)
class Config:
    data: Path | None = None
    """A folder of audio; without it the recipe learns from sounds that it makes up."""
    out: Path = Path("runs/codec")
    preset: Literal["default", "tiny"] = "default"
    steps: int | None = None
    """20,000 by default, 60 for the tiny preset."""
    batch_size: int = 12
    seconds: float = 1.28
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    unquantised_share: float = 0.25
    """The share of steps before the quantiser joins in. Phases are learned slowly and through it
    hardly at all; the codebooks then start from k-means over the latents of 16 batches."""
    average_decay: float = 0.999
    evaluate_every: int = 500
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    device: str | None = None
    """cuda where there is one, else cpu."""
    seed: int = 0


def main(config: Config) -> list[float]:
    """Trains to the end and returns the loss of every step."""
    torch.manual_seed(config.seed)
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    steps = config.steps or (60 if config.preset == "tiny" else 20_000)
    unquantised_steps = round(config.unquantised_share * steps)
    codec_config = tiny() if config.preset == "tiny" else FrameCodecConfig()
    codec = FrameCodec(codec_config).to(device).train()
    average = copy.deepcopy(codec)
    optimizer = torch.optim.AdamW(
        codec.parameters(), lr=config.learning_rate, betas=(0.8, 0.99), weight_decay=0.01
    )
    corpus = read_corpus(config.data, codec_config.sample_rate)
    length = int(config.seconds * codec.frame_rate) * codec.hop_length
    sampler = SegmentSampler(corpus.train, length=length, seed=config.seed)
    measure = SpectralConfig(sample_rate=codec_config.sample_rate)
    # Half the resolutions at each step, in turn, at half the cost.
    measures = [
        dataclasses.replace(measure, window_lengths=measure.window_lengths[i::2]) for i in (0, 1)
    ]

    first_step = 0
    checkpoint = config.out / "training.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        codec.load_state_dict(saved["codec"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        sampler.random.bit_generator.state = saved["sampler"]
        torch.set_rng_state(saved["random"].cpu())
        first_step = saved["step"]

    losses = []
    progress = tqdm(range(first_step, steps), initial=first_step, total=steps)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(step, steps, config)
        quantize = step >= unquantised_steps
        if quantize and not codec.has_codebooks:
            start_codebooks(codec, sampler, config.batch_size, device)
        samples = sampler.batch(config.batch_size).to(device)
        noise_starts = torch.randint(2**30, (2,)).tolist()
        with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bfloat16"):
            output = codec(samples, quantize=quantize, noise_starts=noise_starts)
        first, second = (answer[:, 0] for answer in output.reconstructions)
        score = energy_score(samples[:, 0], (first, second), measures[step % 2])
        loss = score + 0.25 * output.commitment
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"The loss is {loss.item()} at step {step}; the last good state is {checkpoint}."
            )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        update_average(average, codec, decay=min(config.average_decay, (step + 1) / (step + 10)))
        losses.append(loss.item())
        progress.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")

        if (step + 1) % config.evaluate_every == 0 or step + 1 == steps:
            report = evaluate(average, corpus.held_out, measure, device)
            tqdm.write(f"step {step + 1}: {report}")
            save_frame_codec(average, config.out)
            with replacing(checkpoint) as path:
                torch.save(
                    {
                        "codec": codec.state_dict(),
                        "average": average.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "sampler": sampler.random.bit_generator.state,
                        "random": torch.get_rng_state(),
                        "step": step + 1,
                    },
                    path,
                )
    return losses


def read_corpus(folder: Path | None, sample_rate: int) -> Corpus:
    if folder is not None:
        return load_corpus(folder, sample_rate=sample_rate)
    clips = synthetic_clips(num_clips=24, seconds=4.0, sample_rate=sample_rate, seed=0)
    return Corpus(train=clips[4:], held_out=clips[:4])


def schedule(step: int, steps: int, config: Config) -> float:
    """A linear warm-up, then half a cosine down to a hundredth."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def start_codebooks(
    codec: FrameCodec, sampler: SegmentSampler, batch_size: int, device: str
) -> None:
    """Starts each codebook from k-means over many latents: one batch holds too few."""
    batches = [sampler.batch(batch_size).to(device) for _ in range(16)]
    codec.quantizer(torch.cat([codec.encoder(samples) for samples in batches]))


@torch.no_grad()
def update_average(average: FrameCodec, codec: FrameCodec, *, decay: float) -> None:
    """Averages the parameters; the codebooks are averages already, kept in buffers."""
    for mine, latest in zip(average.parameters(), codec.parameters(), strict=True):
        mine.lerp_(latest, 1 - decay)
    for buffer, latest_buffer in zip(average.buffers(), codec.buffers(), strict=True):
        buffer.copy_(latest_buffer)


@torch.no_grad()
def evaluate(
    codec: FrameCodec, clips: list[Recording], measure: SpectralConfig, device: str
) -> str:
    """The distance to held-out clips through all codebooks and half of them, and their use."""
    began = time.monotonic()
    codec.eval()
    totals: dict[str, list[float]] = {}
    used = torch.zeros(codec.num_codebooks, codec.codebook_size, dtype=torch.bool)
    for kind in sorted({clip.kind for clip in clips}):
        for clip in [clip for clip in clips if clip.kind == kind][:12]:
            samples = torch.from_numpy(clip.samples[: 4 * codec.sample_rate]).float() / 32767
            truth = samples.to(device)[None, None]
            tokens = codec.encode(truth)
            for level, codes in enumerate(tokens[0].cpu()):
                used[level, codes] = True
            for books in (codec.num_codebooks // 2, codec.num_codebooks):
                answer = codec.decode(tokens[:, :books], num_samples=truth.shape[2])
                error = distance(spectra(answer[:, 0], measure), spectra(truth[:, 0], measure))
                totals.setdefault(f"{kind}/{books}", []).append(error.item())
    codec.train()
    errors = ", ".join(f"{name} {sum(v) / len(v):.3f}" for name, v in totals.items())
    return f"{errors}; codes used {used.float().mean():.0%} ({time.monotonic() - began:.0f} s)"


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
