"""Time and peak memory of a clip of AudioLDM 2, compared with diffusers on the same random weights.

    python benchmarks/bench_diffusion.py                          # 15 minutes, 7 GB
    python benchmarks/bench_diffusion.py --preset tiny --steps 2 --duration 0.2      # seconds

Both read the same folder in diffusers' layout and make a clip with DPM-Solver++ and guidance 3.5.
Each run is a process of its own; they take turns. Time is that of the clip, from the text to the
samples; memory is the process's peak, loading included. diffusers runs in float32, its default.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from audio_tokenizers.atomic import replacing

Engine = Literal["diffusers", "float32", "bfloat16"]
PEER = "diffusers"
PROMPT = "a dog barks on a tin roof in the rain while the wind howls"


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["tiny", "base"] = "base"
    engines: tuple[Engine, ...] = ("diffusers", "float32")
    """diffusers, and precisions of lm-audio; bfloat16 pays only on CPUs that multiply it."""
    duration: float = 10.24
    steps: int = 20
    rounds: int = 1
    threads: int = 2
    """CPU threads."""
    output: Path | None = None
    """Markdown file for the table, in addition to stdout."""
    folder: Path | None = None
    """Keeps the checkpoint here; a temporary folder by default."""
    run: Engine | None = None
    """Make one clip from `folder` and print its figures as JSON; used by the benchmark itself."""


def main(config: Config) -> None:
    if config.run is not None:
        print(json.dumps(one_run(config, load_diffusers if config.run == PEER else load_ours)))
        return
    compare(
        config,
        write=write_checkpoint,
        script=__file__,
        title="Clips of AudioLDM 2",
        about=__doc__ or "",
    )


def compare(
    config: Config, *, write: Callable[..., None], script: str, title: str, about: str
) -> None:
    """Runs all engines in turn on one checkpoint, and prints and writes the table.

    Args:
        write: makes the checkpoint in a folder.
        script: the benchmark, which makes one clip with `--run`.
        about: its docstring.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = config.folder or Path(temporary)
        if not (folder / "model_index.json").exists():
            write(folder, tiny=config.preset == "tiny")
        found: dict[str, list[dict[str, float]]] = {engine: [] for engine in config.engines}
        for _ in range(config.rounds):
            for engine in config.engines:
                found[engine].append(in_own_process(config, engine, folder, script))
    lines = table(found, config.duration)
    print("\n".join(lines))
    if config.output is not None:
        head = preamble(config, script=script, title=title, about=about)
        with replacing(config.output) as path:
            path.write_text("\n".join([*head, "", *lines]) + "\n")


def table(found: dict[str, list[dict[str, float]]], duration: float) -> list[str]:
    best = {
        engine: {name: min(run[name] for run in runs) for name in ("load", "clip", "peak")}
        for engine, runs in found.items()
    }
    lines = [
        "| engine | load, s | clip, s | real-time factor | peak, GB | x speed | x memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for engine, x in best.items():
        peer = best.get(PEER)
        speed = f"{peer['clip'] / x['clip']:.2f}" if peer else "-"
        memory = f"{x['peak'] / peer['peak']:.2f}" if peer else "-"
        lines.append(
            f"| {engine} | {x['load']:.1f} | {x['clip']:.1f} | {x['clip'] / duration:.2f} | "
            f"{x['peak']:.2f} | {speed} | {memory} |"
        )
    return lines


def in_own_process(config: Config, engine: str, folder: Path, script: str) -> dict[str, float]:
    command = [
        sys.executable, script, "--run", engine, "--folder", str(folder),
        "--duration", str(config.duration), "--steps", str(config.steps),
        "--threads", str(config.threads),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def one_run(config: Config, load: Callable[[Config], Any]) -> dict[str, float]:
    """The figures of one clip; `load` returns the function that makes it."""
    torch.set_num_threads(config.threads)
    assert config.folder is not None
    begin = time.perf_counter()
    make = load(config)
    loaded = time.perf_counter()
    samples = make()
    done = time.perf_counter()
    assert samples.isfinite().all()
    return {"load": loaded - begin, "clip": done - loaded, "peak": peak_memory()}


def peak_memory() -> float:
    """Of this process, in GB; on Linux."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


def load_ours(config: Config) -> Any:
    import lm_audio

    assert config.run is not None
    model = lm_audio.load(config.folder, dtype=config.run, device="cpu")
    sampling = lm_audio.Denoising(steps=config.steps)
    return lambda: (
        model.generate(PROMPT, duration=config.duration, seed=0, sampling=sampling).samples
    )


def load_diffusers(config: Config) -> Any:
    import diffusers
    from diffusers.pipelines.audioldm2 import pipeline_audioldm2
    from transformers import PreTrainedTokenizerFast

    library: Any = diffusers
    module: Any = pipeline_audioldm2
    # It gives the prompt to tokenizers of certain classes only.
    module.T5TokenizerFast = PreTrainedTokenizerFast
    assert config.folder is not None
    parts = {
        name: kind.from_pretrained(config.folder / name) for name, kind in part_classes().items()
    }
    parts["scheduler"] = library.DPMSolverMultistepScheduler.from_config(parts["scheduler"].config)
    warnings.simplefilter("ignore")
    pipeline = library.AudioLDM2Pipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return lambda: (
        pipeline(
            PROMPT,
            num_inference_steps=config.steps,
            audio_length_in_s=config.duration,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).audios
    )


def part_classes() -> dict[str, Any]:
    from diffusers import AutoencoderKL, DDIMScheduler
    from diffusers.pipelines.audioldm2.modeling_audioldm2 import (
        AudioLDM2ProjectionModel,
        AudioLDM2UNet2DConditionModel,
    )
    from transformers import (
        ClapFeatureExtractor,
        ClapModel,
        GPT2LMHeadModel,
        PreTrainedTokenizerFast,
        SpeechT5HifiGan,
        T5EncoderModel,
    )

    return {
        "vae": AutoencoderKL,
        "text_encoder": ClapModel,
        "text_encoder_2": T5EncoderModel,
        "projection_model": AudioLDM2ProjectionModel,
        "language_model": GPT2LMHeadModel,
        "tokenizer": PreTrainedTokenizerFast,
        "tokenizer_2": PreTrainedTokenizerFast,
        "feature_extractor": ClapFeatureExtractor,
        "unet": AudioLDM2UNet2DConditionModel,
        "scheduler": DDIMScheduler,
        "vocoder": SpeechT5HifiGan,
    }


def write_checkpoint(folder: Path, *, tiny: bool) -> None:
    """Random weights in the shape of cvssp/audioldm2, or much smaller ones."""
    import transformers

    shapes: Any = transformers
    classes = part_classes()
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text = {"num_attention_heads": 2, **small} if tiny else {}
    audio = {
        "patch_embeds_hidden_size": 128, "hidden_size": 1024, "depths": [2, 2, 12, 2],
        "num_attention_heads": [4, 8, 16, 32],
    }  # fmt: skip
    if tiny:
        audio = {
            "patch_embeds_hidden_size": 4, "hidden_size": 16, "depths": [1, 1],
            "num_attention_heads": [1, 2], "num_hidden_layers": 2,
        }  # fmt: skip
    widths = (8, 16) if tiny else (128, 256, 384, 640)
    dims = (16, 16) if tiny else (768, 1024)
    mels, hidden = (8, 8) if tiny else (64, 1024)
    vae = (8, 8, 8) if tiny else (128, 256, 512)
    t5 = {"d_model": 1024, "d_ff": 2816, "num_layers": 24, "num_heads": 16}
    t5 = {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8} if tiny else t5
    gpt2 = {"n_embd": 16, "n_layer": 1, "n_head": 2} if tiny else {}
    groups = 4 if tiny else 32
    levels = len(widths)
    makers: dict[str, Any] = {
        "vae": lambda: classes["vae"](
            in_channels=1, out_channels=1, block_out_channels=vae, layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 3, latent_channels=8,
            up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=groups,
        ),
        "text_encoder": lambda: classes["text_encoder"](
            shapes.ClapConfig(text_config=text, audio_config=audio)
        ),
        "text_encoder_2": lambda: classes["text_encoder_2"](
            shapes.T5Config(vocab_size=32_128, feed_forward_proj="gated-gelu", **t5)
        ),
        "projection_model": lambda: classes["projection_model"](512, dims[1], dims[0]),
        "language_model": lambda: classes["language_model"](
            shapes.GPT2Config(max_new_tokens=8, **gpt2)
        ),
        "unet": lambda: classes["unet"](
            sample_size=256, in_channels=8, out_channels=8, block_out_channels=widths,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * (levels - 1)),
            up_block_types=(*["CrossAttnUpBlock2D"] * (levels - 1), "UpBlock2D"),
            attention_head_dim=2 if tiny else 8, cross_attention_dim=[[None, *dims]] * levels,
            norm_num_groups=groups,
        ),
        "vocoder": lambda: classes["vocoder"](
            shapes.SpeechT5HifiGanConfig(
                model_in_dim=mels, sampling_rate=16_000, upsample_initial_channel=hidden * 4 if tiny
                else hidden, upsample_rates=[5, 4, 2, 2, 2], normalize_before=False,
                upsample_kernel_sizes=[16, 16, 8, 4, 4],
            )
        ),
        "scheduler": lambda: classes["scheduler"](
            beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        ),
        "feature_extractor": shapes.ClapFeatureExtractor,
        "tokenizer": lambda: tokenizer(starts=True),
        "tokenizer_2": lambda: tokenizer(starts=False),
    }  # fmt: skip
    for name, make in makers.items():
        part = make()
        part.save_pretrained(folder / name)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "AudioLDM2Pipeline"}))


def tokenizer(*, starts: bool) -> Any:
    """Letters, with RoBERTa's or T5's special tokens: a prompt has a realistic length in tokens."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    library: Any = transformers
    special = ["<s>", "<pad>", "</s>", "<unk>"] if starts else ["<pad>", "</s>", "<unk>"]
    vocab = {word: i for i, word in enumerate([*special, *sorted(set(PROMPT.split()))])}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces = ["<s>", "$A", "</s>"] if starts else ["$A", "</s>"]
    made.post_processor = processors.TemplateProcessing(
        single=pieces, special_tokens=[(x, vocab[x]) for x in pieces if x != "$A"]
    )
    return library.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        bos_token="<s>" if starts else None, model_max_length=512 if starts else 128,
    )  # fmt: skip


def preamble(config: Config, *, script: str, title: str, about: str) -> list[str]:
    """What was run, where."""
    import diffusers
    import transformers

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return [
        f"# {title}",
        "",
        *about.split("\n\n")[-1].strip().splitlines(),
        "",
        f"- command: `python benchmarks/{Path(script).name} {' '.join(sys.argv[1:])}`".rstrip("` ")
        + "`",
        f"- {config.duration:g} s, {config.steps} steps, {config.threads} threads",
        f"- commit {commit}, torch {torch.__version__}, diffusers {diffusers.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{torch.backends.cpu.get_cpu_capability()}",
    ]


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
