"""The tokens of one clip: masked decoding, our autoregressive loop, and transformers' MusicGen.

    python benchmarks/bench_masked.py --output benchmarks/results/masked.md   # minutes, 6 GB
    python benchmarks/bench_masked.py --preset tiny --seconds 0.4             # smoke test, seconds
    python benchmarks/bench_masked.py --device cuda --dtypes bfloat16

All have the shape of musicgen-small, random weights, guidance and sampling, without text encoder
and codec. The masked model takes 20 + 10 + 10 + 10 passes over all frames, as MAGNeT does by
default; the others take one step per frame, and three for the delay of the codebooks. The number of
operations is that of the linear layers. Each contender runs once per round, in turn.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from bench_generate import (  # type: ignore[import-not-found]  # beside this file
    SCALE,
    SHAPES,
    TEXT_LENGTH,
    machine,
    new_model,
    new_peer,
    now,
)

from audio_tokenizers.atomic import replacing
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.families.audiocraft.stages import audiogen, magnet
from lm_audio.generation.track import Stage, Track, unknown_values
from lm_audio.networks.packing import pack
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.patterns import delayed
from lm_audio.sampling import Sampling, Unmasking

Preset = Literal["tiny", "small", "medium", "large"]
Dtype = Literal["float32", "bfloat16", "int8"]
FRAME_RATE = 50
STEPS = (20, 10, 10, 10)
PEER = "transformers"


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Preset = "small"
    seconds: float = 10.0
    """Duration of the clip."""
    dtypes: tuple[Dtype, ...] = ("bfloat16", "int8")
    """Precisions of lm-audio; int8 needs a CPU. transformers uses float32 on CPU, bfloat16 on
    CUDA."""
    items: int = 1
    """Clips at once."""
    device: str = "cpu"
    rounds: int = 1
    threads: int = 2
    """CPU threads."""
    peer: bool = True
    """Also measure transformers."""
    output: Path | None = None
    """Markdown file for the table, in addition to stdout."""
    seed: int = 0


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    shape = SHAPES[config.preset]
    peer = new_peer(shape).to(config.device).eval()
    weights = {name: weight.clone() for name, weight in peer.state_dict().items()}
    racers: dict[tuple[str, str], Callable[[], None]] = {}
    for dtype in config.dtypes:
        causal = new_model(shape, weights, dtype, config.device)
        racers["autoregressive", dtype] = own_clip(autoregressive(causal, config), config)
        racers["masked", dtype] = own_clip(masked(shape, causal, dtype, config), config)
    if config.peer:
        on_cuda = config.device.startswith("cuda")
        peer = peer.to(torch.bfloat16 if on_cuda else torch.float32)
        racers[PEER, "bfloat16" if on_cuda else "float32"] = lambda: peer_clip(peer, config)
    taken: dict[tuple[str, str], list[float]] = {name: [] for name in racers}
    with torch.inference_mode():
        for _ in range(config.rounds):
            for name, make in racers.items():
                began = now(config.device)
                make()
                taken[name].append(now(config.device) - began)
    lines = table(taken, config, shape)
    print("\n".join(lines))
    if config.output is not None:
        with replacing(config.output) as path:
            path.write_text("\n".join([*preamble(config), "", *lines]) + "\n")


def table(
    taken: dict[tuple[str, str], list[float]], config: Config, shape: TokenLMConfig
) -> list[str]:
    """The best time of each contender."""
    frames = round(config.seconds * FRAME_RATE)
    with torch.device("meta"):
        size = sum(weight.numel() for weight in TokenLM(shape).heads.parameters())
        size += sum(weight.numel() for weight in TokenLM(shape).transformer.parameters())
    rows = {"masked": 2 * sum(STEPS) * frames}
    lines = [
        "| tokens | precision | s | real-time factor | TFLOP | x autoregressive |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for (name, dtype), times in taken.items():
        base = min(taken.get(("autoregressive", dtype), [float("nan")]))
        work = 2 * size * rows.get(name, 2 * (frames + 3)) * config.items / 1e12
        lines.append(
            f"| {name} | {dtype} | {min(times):.2f} | {min(times) / config.seconds:.2f} | "
            f"{work:.1f} | {base / min(times):.2f} |"
        )
    return lines


def autoregressive(model: TokenLM, config: Config) -> Stage:
    (stage,) = audiogen(
        model,
        pattern=delayed(range(model.config.num_streams)),
        conditioners=conditioners(model, config),
        sampling=Sampling(guidance_scale=SCALE),
        **windows(config),
    )
    return stage


def masked(shape: TokenLMConfig, causal: TokenLM, dtype: Dtype, config: Config) -> Stage:
    """A masked model of the same shape."""
    two_sided = replace(shape, transformer=replace(shape.transformer, causal=False))
    model = TokenLM(two_sided).eval().requires_grad_(False)
    model.load_state_dict(causal_weights(causal, dtype, model))
    model.to(config.device, torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    if config.device == "cpu":
        pack(model, "int8" if dtype == "int8" else "same")
    (stage,) = magnet(
        model,
        conditioners=conditioners(model, config),
        span=3,
        reach=5,
        sampling=Unmasking(
            steps=STEPS[: shape.num_streams], temperature=3.0, top_p=0.9, guidance_scale=SCALE
        ),
        **windows(config),
    )
    return stage


def causal_weights(causal: TokenLM, dtype: Dtype, new: TokenLM) -> dict[str, Any]:
    """The weights of the causal model; those of an int8 model cannot be read, so new ones."""
    return new.state_dict() if dtype == "int8" else causal.state_dict()


def windows(config: Config) -> dict[str, Any]:
    frames = round(config.seconds * FRAME_RATE)
    return {"frame_rate": Fraction(FRAME_RATE), "window_frames": frames, "overlap_frames": 0}


def conditioners(model: TokenLM, config: Config) -> Conditioners:
    """A prompt of several words, which takes no time."""
    dim = model.config.transformer.dim
    names = [f"text {number}" for number in range(TEXT_LENGTH)]
    labels = {name: LabelConditioner(["word"], dim) for name in names}
    made = Conditioners(labels, dict.fromkeys(names, "cross"))
    return made.to(config.device).requires_grad_(False)


def own_clip(stage: Stage, config: Config) -> Callable[[], None]:
    """Makes the tokens of all items."""

    def make() -> None:
        batch, frames = stage.new_batch(), round(config.seconds * FRAME_RATE)
        for item in range(config.items):
            values = unknown_values(stage.makes, frames, stage.device)
            prompt = dict.fromkeys(stage.conditions, "word")
            batch.add(Track(values=values, seed=item, sampling=stage.sampling, conditions=prompt))
        while batch.step():
            pass

    return make


def peer_clip(peer: Any, config: Config) -> None:
    K = peer.decoder.num_codebooks
    peer.generate(
        input_ids=torch.randint(64, (config.items, TEXT_LENGTH), device=config.device),
        guidance_scale=SCALE,
        do_sample=True,
        top_k=250,
        max_new_tokens=round(config.seconds * FRAME_RATE) + K - 1,
    )


def preamble(config: Config) -> list[str]:
    import transformers

    return [
        "# Masked decoding",
        "",
        (__doc__ or "").split("\n\n")[2].strip(),
        "",
        f"- command: `python {' '.join(sys.argv)}`",
        f"- torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{config.threads} threads, {machine(config.device)}",
    ]


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
