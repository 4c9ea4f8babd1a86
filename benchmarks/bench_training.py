"""Speed and memory of a training step, compared with transformers' MusicGen; speed of the data.

    python benchmarks/bench_training.py                                  # about two minutes
    python benchmarks/bench_training.py --output benchmarks/results/training.md
    python benchmarks/bench_training.py --preset tiny                    # seconds

Both models have the same shape and number of weights, read the same delayed tokens, attend to the
same text states, clip their gradients and take a step of AdamW: ours by `StageObjective` and
`adamw`, theirs by `MusicgenForCausalLM`, with the fused AdamW that transformers' Trainer takes and
with torch's default one. They take turns in one process, and medians are reported; the ratios are
more stable than the times. Peak memory is what two steps add to a new process.
"""

import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
import tyro
from torch import Tensor, nn
from tqdm import tqdm
from transformers import MusicgenForCausalLM
from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

from audio_tokenizers.atomic import replacing
from lm_audio.conditioners.condition import Null
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.data.corpus import SegmentSampler, load_corpus
from lm_audio.data.shards import Example, Shards, Stream, shard_path, write_shard
from lm_audio.families.audiocraft.stages import audiogen
from lm_audio.generation.lm_stage import LMStage
from lm_audio.networks.condition import Condition, stack
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import delayed
from lm_audio.sampling import Sampling
from lm_audio.training.objective import StageObjective
from lm_audio.training.optimization import adamw
from lm_audio.training.stage_batches import Dropout, StageBatches, TrainingBatch

Precision = Literal["bfloat16", "float32"]
Contestant = Literal["lm-audio", "MusicGen", "MusicGen, default AdamW"]
CONTESTANTS: tuple[Contestant, ...] = ("lm-audio", "MusicGen", "MusicGen, default AdamW")
PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float32")
NUM_CODEBOOKS, FRAME_RATE, SAMPLE_RATE = 4, 50, 24_000
TEXT_TOKENS = 20


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["tiny", "default"] = "default"
    rounds: int = 4
    threads: int = 1
    output: Path | None = None
    """Markdown file for the tables, in addition to stdout."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    dim: int
    num_layers: int
    codebook_size: int
    rows: int
    frames: int
    num_clips: int
    """Of the data."""

    def model(self) -> TokenLMConfig:
        """That of musicgen-small, with fewer layers."""
        transformer = TransformerConfig(
            dim=self.dim,
            num_layers=self.num_layers,
            num_heads=self.dim // 64,
            hidden_dim=4 * self.dim,
            positions="sinusoidal",
            norm="layer",
            activation="gelu",
            cross_attention=True,
        )
        return TokenLMConfig(
            transformer=transformer, num_streams=NUM_CODEBOOKS, vocab_size=self.codebook_size
        )


SHAPES = {
    "tiny": [Shape(dim=64, num_layers=1, codebook_size=64, rows=2, frames=20, num_clips=50)],
    "default": [
        Shape(dim=1024, num_layers=2, codebook_size=2048, rows=4, frames=250, num_clips=2000),
        Shape(dim=256, num_layers=4, codebook_size=1024, rows=8, frames=100, num_clips=2000),
    ],
}


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    shapes = SHAPES[config.preset]
    runs = [*product(CONTESTANTS, PRECISIONS, shapes)]
    # First, while this process has no threads that a fork would lose, nor memory to spare.
    memory = {run: memory_in_new_process(*run) for run in runs}
    steps = [row for shape in shapes for row in step_rows(config, shape, memory)]
    with tempfile.TemporaryDirectory() as folder:
        data = [*data_rows(Path(folder), shapes[0])]
    tables = "\n".join([STEP_HEADER, *steps, "", DATA_HEADER, *data])
    print(tables)
    if config.output is not None:
        with replacing(config.output) as path:
            path.write_text(f"{preamble(config)}\n\n{tables}\n")


STEP_HEADER = (
    "| training step | shape | precision | M weights | step, s | tokens/s | lm-audio is faster by "
    "| peak memory, MB |\n|---|---|---|---|---|---|---|---|"
)
DATA_HEADER = "| data, one process | per second | share that is not padding |\n|---|---|---|"


def step_rows(config: Config, shape: Shape, memory: Mapping[Any, float]) -> list[str]:
    """The table of training steps; the implementations take turns.

    Args:
        memory: MB by implementation, precision and shape.
    """
    rows = []
    size = f"{shape.num_layers} x {shape.dim}, {shape.rows} x {shape.frames} frames"
    for precision in PRECISIONS:
        made = {name: make(name, shape) for name in CONTESTANTS}
        weights, *others = (sum(w.numel() for w in m.parameters()) for m, _ in made.values())
        assert set(others) == {weights}, f"The models differ: {weights}, {others} weights."
        taken: dict[Contestant, list[float]] = {name: [] for name in CONTESTANTS}
        for number in tqdm(range(config.rounds + 1), desc=precision):
            for name, (_, step) in made.items():
                began = time.perf_counter()
                step(precision)
                if number:  # the first round warms up
                    taken[name].append(time.perf_counter() - began)
        ours = taken["lm-audio"]
        for name, seconds in taken.items():
            median = statistics.median(seconds)
            faster = statistics.median(b / a for a, b in zip(ours, seconds, strict=True))
            tokens = shape.rows * shape.frames * NUM_CODEBOOKS / median
            rows.append(
                f"| {name} | {size} | {precision} | {weights / 1e6:.1f} | {median:.3f} | "
                f"{tokens:,.0f} | {faster:.2f}x | {memory[name, precision, shape]:,.0f} |"
            )
    return rows


def data_rows(folder: Path, shape: Shape) -> list[str]:
    """The table of data loading: batches of tokens, and segments of audio."""
    write_clips(folder, shape)
    stage = make_stage(shape, window_frames=10 * FRAME_RATE, states=torch.zeros(1, shape.dim))
    shards = Shards(folder)
    batches = StageBatches(stage, shards, tokens=30_000, seed=0, dropout=Dropout())
    crops = cells = real = 0
    began = time.perf_counter()
    for number in range(len(batches)):
        batch = batches[number]
        crops, cells = crops + len(batch.inputs), cells + batch.inputs.numel()
        real += int((batch.codebook >= 0).sum())
    seconds = time.perf_counter() - began
    lengths = np.random.default_rng(0).permutation(shards.lengths("acoustic"))
    in_turn = np.array_split(lengths, len(batches))
    naive = lengths.sum() / sum(part.max() * len(part) for part in in_turn)
    sampler = SegmentSampler(
        load_corpus(folder, sample_rate=SAMPLE_RATE).train,
        length=SAMPLE_RATE,
        batch_size=16,
        seed=0,
    )
    began, num_batches = time.perf_counter(), 20
    for number in range(num_batches):
        sampler.batch(number)
    segments = num_batches * sampler.batch_size / (time.perf_counter() - began)
    return [
        f"| StageBatches, clips of 1 to 10 s | {crops / seconds:,.0f} crops, "
        f"{real / seconds:,.0f} tokens | {real / cells:.0%} |",
        f"| batches of the same number of clips, lengths mixed | | {naive:.0%} |",
        f"| SegmentSampler, 1 s at {SAMPLE_RATE // 1000} kHz from shards | "
        f"{segments:,.0f} segments | |",
    ]


def make(name: Contestant, shape: Shape) -> tuple[nn.Module, Callable[[Precision], None]]:
    """An implementation, and a function that takes one training step with it."""
    torch.manual_seed(0)
    batch, states = training_batch(shape)
    if name == "lm-audio":
        stage = make_stage(shape, window_frames=shape.frames, states=states)
        module: nn.Module = StageObjective(stage).train()
        optimizer: torch.optim.Optimizer = adamw(module, learning_rate=1e-4, weight_decay=0.1)
        num_targets = float(batch.counts(NUM_CODEBOOKS).sum())

        def loss() -> Tensor:
            return module(batch).sum() / num_targets
    else:
        module = musicgen(shape)
        fused = True if name == "MusicGen" else None
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=fused
        )
        given: dict[str, Any] = {
            "encoder_hidden_states": states.expand(shape.rows, -1, -1),
            "encoder_attention_mask": torch.ones(shape.rows, TEXT_TOKENS, dtype=torch.int64),
            "labels": batch.targets.transpose(1, 2),  # [B, S, K]
        }

        def loss() -> Tensor:
            return module(**given).loss

    def step(precision: Precision) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return module, step


def training_batch(shape: Shape) -> tuple[TrainingBatch, Tensor]:
    """Delayed tokens as `StageBatches` lays them out, and the states [L, D] of a text."""
    random = torch.Generator().manual_seed(0)
    layout = delayed(range(NUM_CODEBOOKS)).layout(shape.frames)
    tokens = torch.randint(
        shape.codebook_size, (shape.rows, NUM_CODEBOOKS, shape.frames), generator=random
    )
    sequence = layout.build(tokens, empty=shape.codebook_size)  # [B, K, S]
    codebook = layout.codebook.expand_as(sequence)
    return TrainingBatch(
        inputs=nn.functional.pad(sequence[..., :-1], (1, 0), value=shape.codebook_size),
        targets=sequence.masked_fill(codebook < 0, -100),
        codebook=codebook,
        frames=layout.latest_frames().expand(shape.rows, -1),
        conditions={"text": ["a text"] * shape.rows},
    ), torch.randn(TEXT_TOKENS, shape.dim, generator=random)


class GivenStates(nn.Module):
    """A text conditioner with precomputed encoder states.

    Args:
        states: [L, D], of every text.
    """

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states, self.dim = states, states.shape[1]
        self.null = Null("zero", self.dim)

    def forward(self, values: Sequence[Any | None]) -> Condition:
        return stack([self.null.embedding if v is None else self.states for v in values])


def make_stage(shape: Shape, *, window_frames: int, states: Tensor) -> LMStage:
    (stage,) = audiogen(
        TokenLM(shape.model()),
        pattern=delayed(range(NUM_CODEBOOKS)),
        conditioners=Conditioners({"text": GivenStates(states)}, {"text": "cross"}),
        frame_rate=Fraction(FRAME_RATE),
        window_frames=window_frames,
        overlap_frames=0,
        sampling=Sampling(),
    )
    return stage


def musicgen(shape: Shape) -> nn.Module:
    config = shape.model().transformer
    settings = MusicgenDecoderConfig(
        vocab_size=shape.codebook_size,
        num_hidden_layers=config.num_layers,
        ffn_dim=config.hidden_dim,
        num_attention_heads=config.num_heads,
        hidden_size=config.dim,
        num_codebooks=NUM_CODEBOOKS,
        dropout=0.0,
        pad_token_id=shape.codebook_size,
        bos_token_id=shape.codebook_size,
    )
    model: Any = MusicgenForCausalLM
    return model._from_config(settings, attn_implementation="sdpa").train()


def write_clips(folder: Path, shape: Shape) -> None:
    """Shards of clips of 1 to 10 s: tokens, and sound."""
    random = np.random.default_rng(0)
    streams = {
        "acoustic": Stream(
            rate=Fraction(FRAME_RATE),
            num_codebooks=NUM_CODEBOOKS,
            num_tokens=shape.codebook_size,
            identity="random",
        ),
        "samples": Stream(
            rate=Fraction(SAMPLE_RATE), num_codebooks=1, num_tokens=None, identity="noise"
        ),
    }
    examples = []
    for number in range(shape.num_clips):
        length = int(random.integers(FRAME_RATE, 10 * FRAME_RATE))
        tokens = random.integers(shape.codebook_size, size=(NUM_CODEBOOKS, length))
        noise = random.integers(-1000, 1000, size=(1, 2 * SAMPLE_RATE), dtype=np.int16)
        examples.append(
            Example(
                id=str(number),
                streams={"acoustic": torch.from_numpy(tokens), "samples": torch.from_numpy(noise)},
                conditions={"text": ["a text", "another"]},
            )
        )
    write_shard(shard_path(folder, "train", 0), examples, streams)
    write_shard(shard_path(folder, "held_out", 0), examples[:1], streams)


def memory_in_new_process(name: Contestant, precision: Precision, shape: Shape) -> float:
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(peak_memory, name, precision, shape).result()


def peak_memory(name: Contestant, precision: Precision, shape: Shape) -> float:
    """Peak MB of two steps, in addition to the memory in use after importing the modules."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak; Linux only
    before = memory_status("VmRSS")
    _, step = make(name, shape)
    step(precision)
    step(precision)
    return memory_status("VmHWM") - before


def memory_status(field: str) -> float:
    """A field of this process's memory status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def preamble(config: Config) -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    threads = f"{config.threads} thread{'s' * (config.threads > 1)}"
    return (
        "# Training: speed and memory of a step, speed of the data\n\n"
        f"{NUM_CODEBOOKS} delayed codebooks, cross-attention to {TEXT_TOKENS} text states, "
        f"{threads}; medians of {config.rounds} interleaved rounds. "
        "MusicGen is `MusicgenForCausalLM`, with the fused AdamW unless stated otherwise. The "
        "ratios are more stable than the times.\n\n"
        f"- command: `python benchmarks/bench_training.py --output {config.output}`\n"
        f"- commit {commit}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}, {cpu_name()}"
    )


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
