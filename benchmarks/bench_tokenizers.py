"""Speed, size and memory of the codecs, with random weights, on one thread.

    python benchmarks/bench_tokenizers.py
    python benchmarks/bench_tokenizers.py --output benchmarks/results/tokenizers.md
    python benchmarks/bench_tokenizers.py --live    # RAVE in blocks, as an audio callback calls it

Times are seconds per second of audio, medians over rounds that visit the codecs in turn in one
process; the ratios are more stable than the times. Peak memory is what a round trip adds to a
fresh process that has the codec loaded. Parameters are without codebooks that are not trained by
gradients.
"""

import gc
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro

from audio_tokenizers.acoustic.dac import DacTokenizer
from audio_tokenizers.acoustic.encodec import EncodecTokenizer
from audio_tokenizers.acoustic.frame_codec import FrameCodec, FrameCodecConfig
from audio_tokenizers.acoustic.mimi import MimiTokenizer
from audio_tokenizers.acoustic.rave import VARIANTS, RaveCodec
from audio_tokenizers.atomic import replacing


@dataclass(frozen=True, kw_only=True)
class Config:
    seconds: float = 5.0
    """Seconds of audio per call."""
    rounds: int = 5
    output: Path | None = None
    """Markdown file for the table, in addition to stdout."""
    live: bool = False
    """Measure RAVE models in blocks instead: latency, time per block, and its jitter."""
    blocks: int = 400
    """Blocks per row of the live table."""
    memory_of: str | None = None
    """Internal: print the peak memory of one codec, in MB."""


def main(config: Config) -> None:
    torch.set_num_threads(1)
    if config.memory_of is not None:
        print(measure_memory(CODECS[config.memory_of](), config.seconds))
        return
    if config.live:
        print(live_table(config))
        return
    codecs = {name: build() for name, build in CODECS.items()}
    times = measure_times(codecs, config)
    rows = []
    for name, codec in codecs.items():
        encode, decode = times[name]
        bits = codec.num_codebooks * codec.frame_rate * (codec.codebook_size - 1).bit_length()
        size = sum(p.numel() for p in module_of(codec).parameters()) / 1e6
        rows.append(
            f"| {name} | {codec.sample_rate / 1000:g} | {codec.frame_rate:g} | "
            f"{codec.num_codebooks} x {codec.codebook_size} | {bits / 1000:.1f} | {size:.1f} | "
            f"{encode:.4f} | {decode:.4f} | {memory_in_fresh_process(name, config):.0f} |"
        )
    table = "\n".join([HEADER, *rows])
    print(table)
    if config.output is not None:
        with replacing(config.output) as path:
            path.write_text(f"{preamble(config)}\n\n{table}\n")


HEADER = (
    "| codec | kHz | frames/s | codebooks | kb/s | M parameters | encode, s/s | decode, s/s | "
    "peak memory, MB |\n|---|---|---|---|---|---|---|---|---|"
)


def measure_times(codecs: dict[str, Any], config: Config) -> dict[str, tuple[float, float]]:
    """Medians of encoding and decoding, in seconds per second of audio."""
    taken: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in codecs}
    for number in range(config.rounds + 1):
        for name, codec in codecs.items():
            samples = noise(codec, config.seconds)
            began = time.perf_counter()
            tokens = codec.encode(samples)
            encoded = time.perf_counter()
            codec.decode(tokens)
            done = time.perf_counter()
            if number:  # the first round warms up
                taken[name][0].append((encoded - began) / config.seconds)
                taken[name][1].append((done - encoded) / config.seconds)
        print(f"round {number} of {config.rounds}", file=sys.stderr)
    return {
        name: (statistics.median(encode), statistics.median(decode))
        for name, (encode, decode) in taken.items()
    }


def memory_in_fresh_process(name: str, config: Config) -> float:
    command = [sys.executable, __file__, "--memory-of", name, "--seconds", str(config.seconds)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_memory(codec: Any, seconds: float) -> float:
    """MB by which the resident memory of this process peaks during a round trip."""
    codec.decode(codec.encode(noise(codec, 0.5)))  # what the first call allocates for good
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak; Linux only
    before = memory_status("VmRSS")
    codec.decode(codec.encode(noise(codec, seconds)))
    return memory_status("VmHWM") - before


def memory_status(field: str) -> float:
    """A field of this process's memory status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def noise(codec: Any, seconds: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    length = round(seconds * codec.sample_rate)
    return 0.1 * torch.randn(1, codec.num_channels, length, generator=generator)


def module_of(codec: Any) -> torch.nn.Module:
    return codec if isinstance(codec, torch.nn.Module) else codec.model


def preamble(config: Config) -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    return (
        "# Codecs: speed, size, memory\n\nRandom weights, one thread, "
        f"{config.seconds:g} s of audio a call, medians of {config.rounds} interleaved rounds. "
        "The ratios are more stable than the times.\n\n"
        f"- command: `python benchmarks/bench_tokenizers.py --output {config.output}`\n"
        f"- commit {commit}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{cpu_name()}"
    )


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def frame_codec() -> FrameCodec:
    torch.manual_seed(0)
    codec = FrameCodec(FrameCodecConfig()).eval()
    for layer in codec.quantizer.layers:
        layer._codebook.embed.normal_()
        layer._codebook.initted.fill_(True)
    return codec


def encodec_24khz() -> EncodecTokenizer:
    from transformers import EncodecConfig, EncodecModel

    return EncodecTokenizer(filled(EncodecModel(EncodecConfig())))


def encodec_32khz() -> EncodecTokenizer:
    from transformers import EncodecConfig, EncodecModel

    settings = EncodecConfig(
        target_bandwidths=[2.2],
        sampling_rate=32_000,
        num_filters=64,
        upsampling_ratios=[8, 5, 4, 4],
        use_causal_conv=False,
        use_conv_shortcut=False,
        codebook_size=2048,
    )
    return EncodecTokenizer(filled(EncodecModel(settings)))


def filled(model: Any) -> Any:
    """Fills the codebooks of a new EnCodec, which are zeros and would make the search trivial."""
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    return model


def dac_44khz() -> DacTokenizer:
    from transformers import DacConfig, DacModel

    settings = DacConfig(sampling_rate=44_100, downsampling_ratios=[2, 4, 8, 8])
    return DacTokenizer(DacModel(settings))


def mimi() -> MimiTokenizer:
    from transformers import MimiConfig, MimiModel

    return MimiTokenizer(MimiModel(MimiConfig()))


def rave(variant: str, *, dtype: torch.dtype = torch.float32, **changes: Any) -> RaveCodec:
    torch.manual_seed(0)
    shape = VARIANTS[variant](**changes)
    codec = RaveCodec(shape, trainable=False).eval().requires_grad_(False)
    dims = shape.quantised_dims or 16
    codec.set_codebooks(torch.randn(shape.num_codebooks, shape.codebook_size, dims))
    return codec.use_dtype(dtype)


def live_table(config: Config) -> str:
    """Time per block of each size, and what a listener waits for."""
    rows = []
    for name, build in LIVE.items():
        codec = build()
        for size in (512, 1024, 2048):
            taken = block_times(codec, size, config.blocks)
            length = 1000 * size / codec.sample_rate
            median, p99 = (1000 * float(torch.quantile(taken, share)) for share in (0.5, 0.99))
            latency = 1000 * codec.live_stream(size).latency / codec.sample_rate
            rows.append(
                f"| {name} | {size} | {length:.1f} | {latency:.1f} | "
                f"{1000 * float(taken.mean()):.1f} | {median:.1f} | {p99:.1f} | "
                f"{p99 - median:.1f} | {length / (1000 * float(taken.mean())):.1f} |"
            )
    return "\n".join([LIVE_HEADER, *rows])


def block_times(codec: RaveCodec, size: int, blocks: int) -> torch.Tensor:
    """Seconds that each block takes."""
    stream, taken = codec.live_stream(size), []
    for number in range(blocks + 8):
        block = 0.1 * torch.randn(codec.num_channels, size)
        began = time.perf_counter()
        stream.push(block)
        if number >= 8:  # the first ones warm up
            taken.append(time.perf_counter() - began)
    return torch.tensor(taken)


LIVE_HEADER = (
    "| model | block, samples | block, ms | latency, ms | mean, ms | median, ms | p99, ms | "
    "jitter (p99 - median), ms | times real time |\n|---|---|---|---|---|---|---|---|---|"
)
LIVE: dict[str, Callable[[], RaveCodec]] = {
    "RAVE causal": partial(rave, "causal"),
    "RAVE causal, hop 512, capacity 48": partial(rave, "causal", capacity=48, ratios=(4, 2, 2, 2)),
    "RAVE causal, hop 512, capacity 32": partial(rave, "causal", capacity=32, ratios=(4, 2, 2, 2)),
}
CODECS: dict[str, Callable[[], Any]] = {
    "frame codec (ours)": frame_codec,
    "EnCodec 24 kHz": encodec_24khz,
    "EnCodec 32 kHz": encodec_32khz,
    "DAC 44.1 kHz": dac_44khz,
    "Mimi": mimi,
    "RAVE v2": partial(rave, "v2"),
    "RAVE v2, bfloat16": partial(rave, "v2", dtype=torch.bfloat16),
    "RAVE v2_small": partial(rave, "v2_small"),
    "RAVE v2_small without noise": partial(rave, "v2_small", noise_amplitudes=0),
    "RAVE discrete": partial(rave, "discrete"),
    "RAVE v2, capacity 32": partial(rave, "v2", capacity=32),
}


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
