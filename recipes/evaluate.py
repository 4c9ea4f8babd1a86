"""Measures codecs, generated clips, models and tokens; writes JSON and a Markdown table.

    python recipes/evaluate.py --preset tiny                            # synthetic sounds, seconds
    python recipes/evaluate.py --real sounds/ --codec runs/codec        # codec reconstructions
    python recipes/evaluate.py --real sounds/ --generated made/ --yamnet yamnet.tflite
    python recipes/evaluate.py --real sounds/ --model runs/model --prompts prompts.jsonl
    python recipes/evaluate.py --model runs/model --abx dev.item --pairs sblimp.jsonl --audio audio/

Clips come from a plain folder, whose first level gives the labels; from a folder with
`clips.jsonl`, one line per clip such as
{"audio": "a.wav", "text": "rain", "transcript": ..., "speaker": ..., "label": ...}; or from the
held-out split of a prepared corpus. Generated and real clips with the same name form a pair. The
report lists each metric that could not be computed with the reason. docs/evaluation.md names the
reference implementation of each metric.
Comparing 320 clips of 5 s with 320 others takes 35 s with YAMNet and log-mels on one CPU core;
speech recognition and CLAP take much longer. Memory holds the judges, one clip and all embeddings.
"""

import json
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from audio_tokenizers.acoustic.frame_codec import FrameCodec, tiny
from audio_tokenizers.acoustic.registry import load_codec
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.protocol import SemanticTokenizer
from audio_tokenizers.semantic.tokenizer import load_feature_tokenizer
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.synthetic import synthetic_clips
from lm_audio.evaluation.clips import KNOWN, ClipFile, pair_clips, read_clips, write_clips
from lm_audio.evaluation.judges.loading import Judges, load_judges
from lm_audio.evaluation.report import Measurement, write_report
from lm_audio.generation.lm_stage import LMStage
from lm_audio.loading import find_device, load
from lm_audio.pipeline import AudioPipeline
from lm_audio.pretrained import CODEC_FOLDER
from measuring.clips import measure_clips
from measuring.codec import measure_codebooks, measure_signals, reconstruct
from measuring.tokens import measure_abx, measure_pairs, read_pairs

BATCH = 32  # clips per generated batch


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["default", "tiny"] = "default"
    """tiny fills in missing inputs: synthetic real and generated clips, and an untrained codec."""
    real: Path | None = None
    """Folder of real clips, the reference for all comparisons."""
    generated: Path | None = None
    """Folder of generated clips to measure."""
    codec: str | None = None
    """Codec name, folder or hub id, or "default" for the bundled one; measures how it reconstructs
    the real clips."""
    num_codebooks: tuple[int, ...] = ()
    """Numbers of codebooks to decode with, measured one after the other; all codebooks by
    default."""
    speech: bool = False
    """The real clips are speech: also measure PESQ and STOI."""
    visqol: Literal["audio", "speech"] | None = None
    """ViSQOL mode; ViSQOL is not measured by default."""
    model: str | None = None
    """Model name, folder or hub id; generates clips and measures them."""
    prompts: Path | None = None
    """JSON Lines file with one clip per line: {"name": ..., "text": ..., "duration": ...}, or with
    "audio" to continue a file. Defaults to the captions of the real clips."""
    prompt_seconds: float = 3.0
    """Length of the audio prompt in seconds; only the continuation is measured."""
    duration: float = 5.0
    """Duration of generated clips in seconds."""
    abx: Path | None = None
    """ABX .item file; requires --audio."""
    pairs: Path | None = None
    """JSON Lines file with one pair per line: {"preferred": ..., "other": ...}, each an audio file
    or a list of tokens."""
    audio: Path | None = None
    """Folder of the audio files that --abx names."""
    semantic: Path | None = None
    """Folder of a semantic tokenizer; defaults to the model's."""
    clap: str | None = None
    """CLAP model from transformers: folder or hub id."""
    vggish: Path | None = None
    """Weights of VGGish, such as vggish.pth."""
    yamnet: Path | None = None
    """Path of yamnet.tflite."""
    classifier: str | None = None
    """Audio classifier from transformers: folder or hub id."""
    asr: str | None = None
    """Speech recogniser: Whisper or a CTC model from transformers, or a faster-whisper folder."""
    voices: str | None = None
    """Speaker embedding: an x-vector model from transformers, or "resemblyzer"."""
    dnsmos: str | None = None
    """Path of sig_bak_ovr.onnx, or "speechmos"."""
    most: int | None = None
    """Maximum number of real and of generated clips to measure; all by default."""
    out: Path = Path("runs/evaluation")
    """Folder for the report and the clips."""
    seed: int = 0
    device: str | None = None
    """Torch device; defaults to cuda if available, else cpu."""


def main(config: Config) -> list[Measurement]:
    """Measures, writes the report and returns its rows."""
    if config.preset == "tiny":
        with tempfile.TemporaryDirectory() as folder:
            return evaluate(made_up(config, Path(folder)))
    return evaluate(config)


def evaluate(config: Config) -> list[Measurement]:
    check(config)
    device = find_device(config.device)
    judges = load_judges(
        clap=config.clap,
        vggish=config.vggish,
        yamnet=config.yamnet,
        classifier=config.classifier,
        asr=config.asr,
        voices=config.voices,
        dnsmos=config.dnsmos,
        device=device,
    )
    real = [] if config.real is None else read_clips(config.real, most=config.most)
    found: list[Measurement] = []
    if config.codec is not None:
        found += evaluate_codec(config, real, judges, device)
    if config.generated is not None:
        generated = read_clips(config.generated, most=config.most)
        found += named("clips", measure_clips(generated, real, judges))
    model = None if config.model is None else load(config.model, device=device)
    if model is not None and (config.prompts is not None or config.real is not None):
        generated = generate(config, model, real)
        found += named("model", measure_clips(generated, real, judges))
    tokenizer: SemanticTokenizer | None = model.semantic_tokenizer if model is not None else None
    if config.semantic is not None:
        tokenizer = load_feature_tokenizer(config.semantic, device=device)
    if config.abx is not None and config.audio is not None:
        if tokenizer is None:
            raise ValueError(
                "ABX needs a semantic tokenizer; pass --semantic, or a --model that has one."
            )
        with tqdm(desc="ABX", unit="file") as bar:
            rows = measure_abx(
                config.abx, config.audio, tokenizer, seed=config.seed, progress=bar.update
            )
        found += named("tokens", rows)
    if config.pairs is not None and model is not None:
        pairs = read_pairs(config.pairs, tokenizer)
        with tqdm(total=len(pairs), desc="likelihood", unit="pair") as bar:
            rows = measure_pairs(pairs, semantic_stage(model), progress=bar.update)
        found += named("tokens", rows)
    names = ("codec", "model", "generated", "real", "prompts", "abx", "pairs", "most", "seed")
    about = {k: v for k in names if (v := getattr(config, k)) is not None}
    write_report(config.out, found, about=about)
    measured = sum(row.value is not None for row in found)
    tqdm.write(
        f"Measured {measured} of {len(found)} metrics. Report: {config.out}/report.md (with the "
        f"reasons for missing metrics) and {config.out}/report.json."
    )
    return found


def check(config: Config) -> None:
    """Raises ValueError for a setting without effect."""
    needs: list[tuple[str, bool, str]] = [
        ("codec", config.real is not None, "--real"),
        ("num_codebooks", config.codec is not None, "--codec"),
        ("visqol", config.codec is not None, "--codec"),
        ("speech", config.codec is not None, "--codec"),
        ("prompts", config.model is not None, "--model"),
        ("pairs", config.model is not None, "--model"),
        ("abx", config.audio is not None, "--audio"),
        ("audio", config.abx is not None, "--abx"),
        ("semantic", config.abx is not None or config.pairs is not None, "--abx or --pairs"),
    ]
    for name, is_there, needed in needs:
        if getattr(config, name) and not is_there:
            raise ValueError(f"--{name.replace('_', '-')} has no effect alone; also pass {needed}.")
    subjects = (config.codec, config.generated, config.model, config.abx)
    if all(value is None for value in subjects):
        raise ValueError(
            "Nothing to measure; pass --codec, --generated, --model or --abx, or try --preset tiny."
        )
    uses = (config.prompts, config.real, config.abx, config.pairs)
    if config.model is not None and all(value is None for value in uses):
        raise ValueError(
            "--model needs something to measure; pass --prompts, --real, --abx or --pairs."
        )


def evaluate_codec(
    config: Config, real: list[ClipFile], judges: Judges, device: str
) -> list[Measurement]:
    """Measures the codec's reconstructions, as signals and as clips, per number of codebooks."""
    assert config.codec is not None
    codec = load_codec(CODEC_FOLDER if config.codec == "default" else config.codec, device=device)
    found = []
    for number in config.num_codebooks or (codec.num_codebooks,):
        folder = config.out / "reconstructed" / f"{number}-codebooks"
        with tqdm(total=len(real), desc=f"codec, {number} codebooks", unit="clip") as bar:
            made, tokens = reconstruct(
                codec, real, folder, num_codebooks=number, device=device, progress=bar.update
            )
        rows = measure_codebooks(codec, tokens, num_codebooks=number)
        rows += measure_signals(
            pair_clips(made, real),
            sample_rate=codec.sample_rate,
            speech=config.speech,
            visqol_mode=config.visqol,
        )
        found += named(f"codec, {number} codebooks", rows + measure_clips(made, real, judges))
    return found


def generate(config: Config, model: AudioPipeline, real: list[ClipFile]) -> list[ClipFile]:
    """Generates one clip per prompt. Each has its own seed: shorter lists give the same clips."""
    folder = config.out / "generated"
    rows = read_prompts(config, real)
    if config.prompts is None and "text" not in model.conditions:
        raise ValueError(
            f"{config.model} takes no text; pass --prompts with audio to continue, one line per "
            'clip such as {"audio": "a.wav"}.'
        )
    made: list[ClipFile] = []
    with tqdm(total=len(rows), desc="generating", unit="clip") as bar:
        for continued in (False, True):
            wanted = [(i, row) for i, row in enumerate(rows) if ("audio" in row) == continued]
            for start in range(0, len(wanted), BATCH):
                batch = wanted[start : start + BATCH]
                texts = [row.get("text") for _, row in batch]
                durations = [float(row.get("duration", config.duration)) for _, row in batch]
                seeds = [config.seed + i for i, _ in batch]
                if continued:
                    prompts = [prompt_audio(config, row, model) for _, row in batch]
                    clips = model.continue_from(prompts, duration=durations, text=texts, seed=seeds)
                    skipped = [samples.shape[1] for samples, _ in prompts]
                else:
                    clips = model.generate(texts, duration=durations, seed=seeds)
                    skipped = [0] * len(clips)
                for (_, row), clip, first in zip(batch, clips, skipped, strict=True):
                    path = folder / f"{row['name']}.wav"
                    write_audio(path, clip.samples[:, first:], clip.sample_rate)
                    known: dict[str, Any] = {k: row.get(k) for k in KNOWN}
                    made.append(ClipFile(name=row["name"], path=path, **known))
                bar.update(len(batch))
    made.sort(key=lambda clip: clip.name)
    write_clips(folder, made)
    return made


def read_prompts(config: Config, real: list[ClipFile]) -> list[dict[str, Any]]:
    """The prompts with their names, from --prompts or the captions of the real clips."""
    if config.prompts is None:
        rows = [{k: v for k, v in vars(clip).items() if k != "duration"} for clip in real]
        if not any(row["text"] for row in rows):
            raise ValueError(f"{config.real} has no captions to generate from; pass --prompts.")
        return [row for row in rows if row["text"]]
    lines = [line for line in config.prompts.read_text().splitlines() if line.strip()]
    try:
        rows = [{"name": f"{i:05d}", **json.loads(line)} for i, line in enumerate(lines)]
    except (ValueError, TypeError):
        raise ValueError(
            f"{config.prompts} has a line that is not a JSON object; expected one per line, such "
            'as {"text": "rain"}.'
        ) from None
    (name, times), *_ = Counter(row["name"] for row in rows).most_common(1) or [("", 0)]
    if times > 1:
        raise ValueError(
            f"{config.prompts} has {times} prompts named {name!r}; use unique names, or none."
        )
    return rows[: config.most]


def prompt_audio(
    config: Config, row: dict[str, Any], model: AudioPipeline
) -> tuple[torch.Tensor, int]:
    """The first seconds of an audio prompt [C, N], and its sample rate."""
    assert config.prompts is not None
    clip = ClipFile(
        name="", path=config.prompts.parent / row["audio"], duration=config.prompt_seconds
    )
    audio = clip.audio(model.sample_rate, num_channels=model.num_channels)
    return audio.samples, audio.sample_rate


def semantic_stage(model: AudioPipeline) -> LMStage:
    for stage in model.stages.values():
        if stage.makes.content == "semantic" and isinstance(stage, LMStage):
            return stage
    raise ValueError("--pairs needs a model with a semantic stage; pass another --model.")


def named(what: str, rows: list[Measurement]) -> list[Measurement]:
    return [replace(row, metric=f"{what}: {row.metric}") for row in rows]


def made_up(config: Config, folder: Path) -> Config:
    """Fills in missing inputs: synthetic real and generated clips, and an untrained codec."""
    made: dict[str, Any] = {"most": config.most or 12, "duration": min(config.duration, 1.0)}
    nothing_asked = all(x is None for x in (config.codec, config.generated, config.model))
    if config.real is None and config.abx is None and config.pairs is None:
        made["real"] = write_synthetic(folder / "real", seed=config.seed)
    if nothing_asked and config.abx is None:
        made["generated"] = write_synthetic(folder / "generated", seed=config.seed + 1)
        made["codec"] = str(write_untrained_codec(folder / "codec", seed=config.seed))
    return replace(config, **made)


def write_synthetic(folder: Path, *, seed: int) -> Path:
    clips = []
    for clip in synthetic_clips(num_clips=12, seconds=1.5, sample_rate=16_000, seed=seed):
        path = folder / clip.kind / f"{clip.name}.wav"
        write_audio(path, torch.from_numpy(clip.samples)[None].float() / 32767, 16_000)
        name = str(path.relative_to(folder).with_suffix(""))
        clips.append(
            ClipFile(name=name, path=path, label=clip.kind, text=f"the sound of {clip.kind}")
        )
    write_clips(folder, clips)
    return folder


def write_untrained_codec(folder: Path, *, seed: int) -> Path:
    from audio_tokenizers.acoustic.frame_codec import save_frame_codec

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = FrameCodec(tiny()).eval()
        for layer in codec.quantizer.layers:
            layer._codebook.embed.normal_(std=0.3)
            layer._codebook.initted.fill_(True)
        save_frame_codec(codec, folder)
    return folder


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
