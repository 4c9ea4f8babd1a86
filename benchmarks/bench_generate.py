"""Time per decode step, compared with transformers' MusicGen on the same random weights.

    python benchmarks/bench_generate.py                                   # minutes, 6 GB
    python benchmarks/bench_generate.py --preset tiny --rounds 1          # smoke test, seconds
    python benchmarks/bench_generate.py --batches 1 --positions 100 --dtypes int8
    python benchmarks/bench_generate.py --device cuda --preset medium --batches 1 64 --positions 750

A step decides one frame of each item with guidance 3 (two rows per item), sampling included: in
transformers' `generate` the time between two calls of a logits processor, in lm-audio that of
`DecodingBatch.step`. The contenders take turns in one process. The table shows the median and the
20th percentile over all steps, and the ratio of the latter. There is one round where a position
takes minutes to reach. The floor is the time needed to read the weights, keys and values of a step
at the measured memory bandwidth.
"""

import gc
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from transformers import (
    EncodecConfig,
    EncodecModel,
    LogitsProcessor,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

from audio_tokenizers.acoustic.encodec import EncodecTokenizer
from audio_tokenizers.atomic import replacing
from lm_audio.families.audiocraft.parts import convert_weights
from lm_audio.generation.decoding import DecodingBatch
from lm_audio.generation.step import Row, Sequence
from lm_audio.networks import presets
from lm_audio.networks.condition import Condition, Fused
from lm_audio.networks.packing import pack
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.sampling import Sampling, uniforms

Preset = Literal["tiny", "small", "medium", "large"]
Dtype = Literal["float32", "bfloat16", "int8"]
TEXT_LENGTH = 16
SCALE = 3.0
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
PEER = "transformers"
MUCH = 2000  # items x positions from which on there is only one round


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Preset = "small"
    batches: tuple[int, ...] = (1, 4, 8)
    positions: tuple[int, ...] = (100, 500, 1500)
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16", "int8")
    """Precisions of lm-audio; int8 needs a CPU. transformers uses float32 on CPU, bfloat16 on
    CUDA."""
    device: str = "cpu"
    rounds: int = 3
    steps: int = 12
    """Steps per round and implementation."""
    threads: int = 2
    """CPU threads."""
    peer: bool = True
    """Also measure transformers."""
    clip: float = 10.0
    """Duration in seconds of a complete clip, with the T5 and codec of musicgen-small; 0 skips
    it."""
    output: Path | None = None
    """Markdown file for the tables, in addition to stdout."""
    seed: int = 0


Steps = Callable[[int, int], list[float]]
"""Takes the number of items and the first position; returns the seconds of each step."""


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    if config.device != "cpu":
        config = replace(config, dtypes=tuple(x for x in config.dtypes if x != "int8"))
    with torch.inference_mode():
        lines = report(config)
    print("\n".join(lines))
    if config.output is not None:
        with replacing(config.output) as path:
            path.write_text("\n".join([*preamble(config), "", *lines]) + "\n")


def report(config: Config) -> list[str]:
    shape = SHAPES[config.preset]
    peer = new_peer(shape).to(config.device).eval()
    peers_dtype = torch.bfloat16 if config.device.startswith("cuda") else torch.float32
    weights = {name: weight.clone() for name, weight in peer.state_dict().items()}
    ours = {dtype: new_model(shape, weights, dtype, config.device) for dtype in config.dtypes}
    near = [exactness(peer, model, dtype, config) for dtype, model in ours.items()]
    racers: dict[str, Steps] = {}
    bytes_each: dict[str, tuple[int, int]] = {
        dtype: (BYTES[dtype], kept_bytes(model)) for dtype, model in ours.items()
    }
    if config.peer:
        peer = peer.to(peers_dtype)
        racers[PEER] = lambda items, position: peer_steps(peer, items, position, config)
        bytes_each[PEER] = (peers_dtype.itemsize, peers_dtype.itemsize)
    for dtype, model in ours.items():
        racers[dtype] = own_steps(model, config)
    bandwidth = read_bandwidth(config.device)
    head = [
        f"Memory bandwidth: {bandwidth / 1e9:.1f} GB/s. Weights per step: "
        f"{step_weights(shape) / 1e6:.0f} million.",
        *near,
        "",
    ]
    lines = [
        "| items | position | engine | ms/step, p50 | 20th percentile | x transformers | x floor |",
        "|---|---|---|---|---|---|---|",
    ]
    best: dict[tuple[int, int, str], float] = {}
    for items in config.batches:
        for position in config.positions:
            taken: dict[str, list[float]] = {name: [] for name in racers}
            for _ in range(1 if items * position >= MUCH else config.rounds):
                for name, steps in racers.items():
                    taken[name] += steps(items, position)
                    gc.collect()
            for name, times in taken.items():
                at = best[items, position, name] = percentile(times)
                floor = step_bytes(shape, items, position, *bytes_each[name]) / bandwidth
                other = best.get((items, position, PEER))
                ratio = "" if other is None else f"{other / at:.2f}"
                lines.append(
                    f"| {items} | {position} | {name} | {1e3 * statistics.median(times):.1f} | "
                    f"{1e3 * at:.1f} | {ratio} | {at / floor:.1f} |"
                )
            print("\n".join(lines[-len(racers) :]), file=sys.stderr)
    lines += ["", *growth(best, config)]
    for dtype, model in ours.items():
        lines.append(guidance_cost(model, dtype, config))
        if config.clip:
            lines.append(whole_clip(model, dtype, config))
    if config.device.startswith("cuda"):
        lines.append(f"Peak memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB.")
    return [*head, *lines]


def growth(best: dict[tuple[int, int, str], float], config: Config) -> list[str]:
    """How many times longer a step takes at the last position than at the first."""
    first, last = config.positions[0], config.positions[-1]
    return [
        f"- {name}, batch of {items}: a step at position {last} takes "
        f"{best[items, last, name] / best[items, first, name]:.2f} times one at {first}."
        for items in config.batches
        for name in config.dtypes
    ]


def guidance_cost(model: TokenLM, dtype: str, config: Config) -> str:
    """The throughput with guidance (two rows per item) relative to that without."""
    items, position = config.batches[-1], config.positions[0]
    racers = {rows: own_steps(model, config, rows=rows) for rows in (1, 2)}
    taken: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(config.rounds):
        for rows, steps in racers.items():
            taken[rows] += steps(items, position)
    share = percentile(taken[1]) / percentile(taken[2])
    return f"- {dtype}, batch of {items}: guided items reach {share:.2f} of the unguided speed."


def whole_clip(model: TokenLM, dtype: str, config: Config) -> str:
    """The real-time factor of a clip, text encoder and codec included."""
    text: Any = T5EncoderModel(
        T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12) if config.preset != "tiny"
        else T5Config(d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
    )  # fmt: skip
    text = text.to(config.device).eval()
    decoder: Any = EncodecModel(
        EncodecConfig(
            sampling_rate=32_000, upsampling_ratios=[8, 5, 4, 4], target_bandwidths=[2.2],
            codebook_size=2048, use_causal_conv=False, norm_type="weight_norm",
        )
    )  # fmt: skip
    codec = EncodecTokenizer(decoder.to(config.device))
    frames = round(config.clip * 50)
    sequence = new_sequence(model, 0, 0, config, num_steps=frames + 3)
    batch = DecodingBatch[Sequence](model)
    began = now(config.device)
    text(torch.zeros(1, TEXT_LENGTH, dtype=torch.int64, device=config.device))
    batch.join(sequence)
    while not sequence.done:
        batch.decode()
    steps = now(config.device) - began
    K = codec.num_codebooks
    tokens = batch.tokens(sequence)[:K, :frames].clamp(max=codec.codebook_size - 1)
    codec.decode(tokens[None])
    took = now(config.device) - began
    return (
        f"- {dtype}: {config.clip:g} s of sound in {took:.2f} s, of which the codec took "
        f"{took - steps:.2f} s: a real-time factor of {took / config.clip:.2f}."
    )


def percentile(times: list[float], share: float = 0.2) -> float:
    return sorted(times)[int(share * len(times))]


def new_peer(shape: TokenLMConfig) -> Any:
    """MusicGen of this shape, with a T5 and a codec that take no time."""
    transformer = shape.transformer
    text = T5Config(
        vocab_size=64, d_model=transformer.dim, d_kv=8, d_ff=8, num_layers=1, num_heads=1
    )
    codec = EncodecConfig(
        sampling_rate=32_000, upsampling_ratios=[8, 5, 4, 4], num_filters=4, hidden_size=16,
        codebook_size=shape.vocab_size, norm_type="weight_norm",
        target_bandwidths=[0.05 * shape.num_streams * math.log2(shape.vocab_size)],
    )  # fmt: skip
    decoder = MusicgenDecoderConfig(
        vocab_size=shape.vocab_size,
        num_codebooks=shape.num_streams,
        hidden_size=transformer.dim,
        num_hidden_layers=transformer.num_layers,
        num_attention_heads=transformer.num_heads,
        ffn_dim=transformer.hidden_dim,
        max_position_embeddings=4096,
        pad_token_id=shape.vocab_size,
        bos_token_id=shape.vocab_size,
    )
    model: Any = MusicgenForConditionalGeneration(
        MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder)
    )
    model.generation_config.update(
        decoder_start_token_id=shape.vocab_size,
        pad_token_id=shape.vocab_size,
        bos_token_id=shape.vocab_size,
    )
    return model


class Clock(LogitsProcessor):
    """Records the times of its calls."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        self.times.append(now(self.device))
        return scores


def peer_steps(peer: Any, items: int, position: int, config: Config) -> list[float]:
    """Times steps of transformers; the first call follows the prompt, which is not a step."""
    clock = Clock(config.device)
    K, V = peer.decoder.num_codebooks, peer.config.decoder.vocab_size
    peer.generate(
        input_ids=torch.randint(64, (items, TEXT_LENGTH), device=config.device),
        decoder_input_ids=torch.randint(V, (items * K, position), device=config.device),
        guidance_scale=SCALE,
        do_sample=True,
        top_k=250,
        max_new_tokens=config.steps + 1 + K,
        logits_processor=[clock],
    )
    times = clock.times[: config.steps + 1]
    return [after - before for before, after in pairwise(times)]


def new_model(shape: TokenLMConfig, weights: dict[str, Any], dtype: Dtype, device: str) -> TokenLM:
    with torch.device("meta"):
        model = TokenLM(shape).eval()
    rows = {name: len(weight) for name, weight in model.state_dict().items()}
    named = convert_weights(dict(weights), shape, "transformers", "lm-audio", rows=rows)
    model.load_state_dict(named, assign=True)
    model.to(device, torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    if device == "cpu":
        pack(model, "int8" if dtype == "int8" else "same")
    return model


def own_steps(model: TokenLM, config: Config, *, rows: int = 2) -> Steps:
    """Times steps of an lm-audio model; the first step after the prompts is not timed.

    All rounds of a setting share one batch, since its prompts take longer than its steps.
    """
    batches: dict[tuple[int, int], DecodingBatch[Sequence]] = {}

    def steps(items: int, position: int) -> list[float]:
        batch = batches.get((items, position))
        if batch is None:
            batches.clear()
            gc.collect()
            batch = batches[items, position] = DecodingBatch(model)
            batch.join(*(new_sequence(model, i, position, config, rows) for i in range(items)))
            batch.decode()
        taken = []
        for _ in range(config.steps):
            began = now(config.device)
            batch.decode()
            taken.append(now(config.device) - began)
        return taken

    return steps


def new_sequence(
    model: TokenLM,
    number: int,
    position: int,
    config: Config,
    num_rows: int = 2,
    *,
    num_steps: int | None = None,
) -> Sequence:
    """Random tokens up to a position, and room for the steps of all rounds after it."""
    J, V = model.config.num_streams, model.config.vocab_size
    device, dtype = config.device, model.embedding.weight.dtype
    S = position + (config.rounds * config.steps + 2 if num_steps is None else num_steps)
    tokens = torch.full((J, S), -1, device=device)
    tokens[:, :position] = torch.randint(V, (J, position), device=device)
    shape = (1, TEXT_LENGTH, model.config.transformer.dim)
    mask = torch.ones(1, TEXT_LENGTH, dtype=torch.bool, device=device)
    rows = []
    texts = ((SCALE, torch.randn(shape)), (1 - SCALE, torch.zeros(shape)))
    for weight, text in texts[:num_rows]:
        cross = Condition(embeddings=text.to(device, dtype), mask=mask)
        fused = Fused(cross=cross, prepend=None, sum=None)
        rows.append(Row(fused=fused, weights=torch.full((S,), weight, device=device)))
    return Sequence(
        start_token=V,
        tokens=tokens,
        rows=tuple(rows),
        uniforms=uniforms(number, "benchmark", 0, S, J).to(device),
        temperature=torch.ones(J, S, device=device),
        allowed=torch.tensor([0, V], device=device).expand(J, S, 2),
        sampling=Sampling(),
    )


def exactness(peer: Any, model: TokenLM, dtype: str, config: Config) -> str:
    """The difference between lm-audio's logits and those of transformers in float32."""
    J, V, D = model.config.num_streams, model.config.vocab_size, model.config.transformer.dim
    tokens = torch.randint(V, (1, J, 20), device=config.device)
    text = torch.randn(1, TEXT_LENGTH, D, device=config.device)
    mask = torch.ones(1, TEXT_LENGTH, dtype=torch.bool, device=config.device)
    expected = peer.decoder(tokens[0], encoder_hidden_states=text).logits
    cross = Condition(embeddings=text, mask=mask)
    found = model(tokens, fused=Fused(cross=cross, prepend=None, sum=None))[0].float()
    largest = (found - expected).abs().max().item()
    relative = ((found - expected).norm() / expected.norm()).item()
    return (
        f"- {dtype}: logits differ from {PEER} by at most {largest:.1e} (standard deviation "
        f"{expected.std().item():.2f}), relative RMS {100 * relative:.2g} %."
    )


def step_weights(shape: TokenLMConfig) -> int:
    """Number of weights that a step reads: all except the embeddings and the key and value
    projections of the text."""
    t = shape.transformer
    attention = 4 * t.dim**2 + (2 * t.dim**2 if t.cross_attention else 0)
    layer = attention + 2 * t.dim * t.hidden_dim
    return t.num_layers * layer + t.dim * shape.num_streams * shape.vocab_size


def step_bytes(
    shape: TokenLMConfig, items: int, position: int, of_weight: int, of_kept: int
) -> float:
    """Bytes that a step reads: weights, keys and values."""
    t = shape.transformer
    kept = 2 * t.num_layers * t.dim * (position + TEXT_LENGTH) * 2 * items
    return step_weights(shape) * of_weight + kept * of_kept


def kept_bytes(model: TokenLM) -> int:
    """Bytes of an element of a cached key or value."""
    keys, _ = model.transformer.new_cache().all(0, slice(0, 0))
    return keys.dtype.itemsize


def read_bandwidth(device: str) -> float:
    """The memory bandwidth in bytes per second, with all threads reading."""
    x = torch.ones(2**28, device=device)  # 1 GiB
    times = []
    for _ in range(8):
        began = now(device)
        x.sum()
        times.append(now(device) - began)
    return x.numel() * 4 / percentile(times)


def now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def preamble(config: Config) -> Iterator[str]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    import transformers

    yield "# Steps of the decode loop"
    yield ""
    yield __doc__.split("\n\n")[2].strip()
    yield ""
    yield f"- command: `python {' '.join(sys.argv)}`"
    yield (
        f"- commit {commit}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}, {config.threads} threads, {machine(config.device)}"
    )


def machine(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = [x for x in info.read_text().splitlines() if "model name" in x] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


def tiny() -> TokenLMConfig:
    shape = presets.small(vocab_size=64)
    return replace(
        shape,
        transformer=replace(shape.transformer, dim=64, num_layers=2, num_heads=2, hidden_dim=128),
    )


SHAPES = {
    "tiny": tiny(),
    "small": presets.small(),
    "medium": presets.medium(),
    "large": presets.large(),
}


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
