"""Time and peak memory of a clip of Stable Audio Open, compared with diffusers on random weights.

    python benchmarks/bench_stable_audio.py                     # 6 GB of a disk
    python benchmarks/bench_stable_audio.py --preset tiny --steps 2 --duration 0.2

All read the same folder in diffusers' layout and make a clip with DPM-Solver++ of order 2 without
new noise and guidance 7. diffusers denoises 47.55 s and cuts; "diffusers-short" denoises as many
latents as the clip has, which its pipeline does not offer. Each run is a process of its own; they
take turns. Time is that of the clip, from the text to the samples; memory is the process's peak,
loading included. diffusers runs in float32, its default.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from audio_tokenizers.atomic import replacing

Engine = Literal["diffusers", "diffusers-short", "float32", "bfloat16"]
PEER = "diffusers"
PROMPT = "a dog barks on a tin roof in the rain while the wind howls"


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["tiny", "open"] = "open"
    engines: tuple[Engine, ...] = ("diffusers", "diffusers-short", "float32")
    """diffusers, and precisions of lm-audio; bfloat16 pays only on CPUs that multiply it."""
    duration: float = 5.0
    steps: int = 4
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
        print(json.dumps(one_run(config)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = config.folder or Path(temporary)
        if not (folder / "model_index.json").exists():
            write_checkpoint(folder, tiny=config.preset == "tiny")
        found: dict[str, list[dict[str, float]]] = {engine: [] for engine in config.engines}
        for _ in range(config.rounds):
            for engine in config.engines:
                found[engine].append(in_own_process(config, engine, folder))
    lines = table(found, config.duration)
    print("\n".join(lines))
    if config.output is not None:
        with replacing(config.output) as path:
            path.write_text("\n".join([*preamble(config), "", *lines]) + "\n")


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


def in_own_process(config: Config, engine: str, folder: Path) -> dict[str, float]:
    command = [
        sys.executable, __file__, "--run", engine, "--folder", str(folder),
        "--duration", str(config.duration), "--steps", str(config.steps),
        "--threads", str(config.threads),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def one_run(config: Config) -> dict[str, float]:
    torch.set_num_threads(config.threads)
    assert config.folder is not None
    assert config.run is not None
    begin = time.perf_counter()
    make = load_diffusers(config) if config.run.startswith(PEER) else load_ours(config)
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
    sampling = lm_audio.Denoising(steps=config.steps, guidance_scale=7.0)
    return lambda: (
        model.generate(PROMPT, duration=config.duration, seed=0, sampling=sampling).samples
    )


def load_diffusers(config: Config) -> Any:
    import diffusers

    library: Any = diffusers
    assert config.folder is not None
    parts = {
        name: kind.from_pretrained(config.folder / name)
        for name, kind in part_classes().items()
        if name != "scheduler"
    }
    # The published scheduler needs torchsde. This one costs the same.
    parts["scheduler"] = library.EDMDPMSolverMultistepScheduler(
        sigma_min=0.3, sigma_max=500, sigma_data=1.0, sigma_schedule="exponential",
        prediction_type="v_prediction",
    )  # fmt: skip
    warnings.simplefilter("ignore")
    pipeline = library.StableAudioPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    if config.run == "diffusers-short":
        vae = pipeline.vae
        frames = -(-round(config.duration * vae.sampling_rate) // vae.hop_length)
        pipeline.transformer.register_to_config(sample_size=frames)
    return lambda: (
        pipeline(
            PROMPT,
            num_inference_steps=config.steps,
            guidance_scale=7.0,
            audio_end_in_s=config.duration,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).audios
    )


def part_classes() -> dict[str, Any]:
    from diffusers import AutoencoderOobleck, StableAudioDiTModel, StableAudioProjectionModel
    from transformers import PreTrainedTokenizerFast, T5EncoderModel

    return {
        "vae": AutoencoderOobleck,
        "text_encoder": T5EncoderModel,
        "projection_model": StableAudioProjectionModel,
        "tokenizer": PreTrainedTokenizerFast,
        "transformer": StableAudioDiTModel,
        "scheduler": None,
    }


def write_checkpoint(folder: Path, *, tiny: bool) -> None:
    """Random weights in the shape of stabilityai/stable-audio-open-1.0, or much smaller ones."""
    from transformers import T5Config

    classes = part_classes()
    torch.manual_seed(0)
    transformer: dict[str, Any] = {}
    vae: dict[str, Any] = {}
    t5: dict[str, Any] = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
    dim = 768
    if tiny:
        dim = 16
        transformer = {
            "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 4,
            "num_key_value_attention_heads": 2, "cross_attention_dim": 16, "sample_size": 32,
            "cross_attention_input_dim": 16, "global_states_input_dim": 32,
        }  # fmt: skip
        vae = {"encoder_hidden_size": 128, "decoder_channels": 4, "channel_multiples": [1] * 5}
        t5 = {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8}
    makers: dict[str, Any] = {
        "vae": lambda: classes["vae"](**vae),
        "text_encoder": lambda: classes["text_encoder"](T5Config(vocab_size=32_128, **t5)),
        "projection_model": lambda: classes["projection_model"](dim, dim, 0, 512),
        "transformer": lambda: classes["transformer"](**transformer),
        "tokenizer": tokenizer,
    }
    for name, make in makers.items():
        part = make()
        part.save_pretrained(folder / name)
        del part
    scheduler = {
        "_class_name": "CosineDPMSolverMultistepScheduler", "sigma_min": 0.3, "sigma_max": 500,
    }  # fmt: skip
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableAudioPipeline"}))


def tokenizer() -> Any:
    """The words of the prompt with T5's special tokens: it has a realistic length in tokens."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    library: Any = transformers
    words = ["<pad>", "</s>", "<unk>", *sorted(set(PROMPT.split()))]
    vocab = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], special_tokens=[("</s>", vocab["</s>"])]
    )
    return library.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        model_max_length=128,
    )  # fmt: skip


def preamble(config: Config) -> list[str]:
    """What was run, where."""
    import diffusers
    import transformers

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return [
        "# Clips of Stable Audio Open",
        "",
        *(__doc__ or "").split("\n\n")[-1].strip().splitlines(),
        "",
        f"- command: `python benchmarks/bench_stable_audio.py {' '.join(sys.argv[1:])}`".rstrip(
            "` "
        )
        + "`",
        f"- {config.duration:g} s, {config.steps} steps, {config.threads} threads",
        f"- commit {commit}, torch {torch.__version__}, diffusers {diffusers.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{torch.backends.cpu.get_cpu_capability()}",
    ]


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
