"""Measures a text-to-audio model against its targets, on held-out data, with independent models.

    python recipes/default_model/evaluate.py --preset tiny  # synthetic data, no weights, seconds
    python recipes/default_model/evaluate.py --esc10 DIR --effects DIR --music DIR --speech DIR \\
        --yamnet yamnet.tflite --lyra DIR --asr DIR --dnsmos speechmos --voices resemblyzer
    python recipes/default_model/evaluate.py --only codec text --esc10 DIR --yamnet yamnet.tflite

The corpora are those that the prepare_... recipes write. What cannot be measured is listed with its
reason. Each clip has a seed and is kept in OUT/clips under the hash of its model: an interrupted
run resumes, and the report keeps the results of groups left out by `--only`. docs/evaluation.md
describes each measurement. Writes OUT/report.json and OUT/report.md. With all judges it generates
about 1,000 clips of 5 s, which takes an hour or more on two CPU cores, and 2 GB of memory.
"""

import hashlib
import shlex
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from audio_tokenizers.acoustic.registry import load_codec
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.manifest import SPLITS, Split
from lm_audio.data.shards import Shards
from lm_audio.evaluation.clips import ClipFile
from lm_audio.evaluation.judges.embedding import LogMelStatistics
from lm_audio.evaluation.judges.loading import load_judges
from lm_audio.evaluation.report import missing
from lm_audio.loading import load
from lm_audio.pipeline import AudioPipeline
from lm_audio.pretrained import DEFAULT_FOLDER
from lm_audio.sampling import adjusted
from measures.clip_scores import ClipEmbedder, without_target
from measures.clip_specs import (
    ClipSpec,
    GeneratedClip,
    caption_specs,
    continuation_specs,
    generate_missing,
    semantic_tokens,
)
from measures.codec import (
    ORIGINAL,
    System,
    class_results,
    codec_system,
    coded,
    lyra_system,
    quality_results,
    word_results,
)
from measures.continuations import (
    continuation_quality_results,
    music_results,
    voice_results,
)
from measures.copies import measure_copies
from measures.corpus_clips import (
    CorpusClip,
    captions_by_label,
    read_corpus,
    read_unseen,
)
from measures.lyra import Lyra
from measures.prompts import (
    adherence_results,
    frechet_result,
    guidance_result,
    instrument_results,
)
from measures.speed import real_time_result, start_up_results
from measures.synthetic_corpus import make_up_corpus, write_semantic_shards
from measures.targets import TargetResult, read_target_report, write_target_report
from measures.untrained_model import untrained_model

Group = Literal[
    "codec", "text", "instruments", "frechet", "speech", "piano", "speed", "memorisation"
]
MOST_BITS = 3200  # a second, of the codec and of Lyra
BATCH = 10  # clips that are generated together
SPEECH_PROMPT, PIANO_PROMPT, PIANO_SECONDS = 3.0, 4.0, 6.0
LEAST_REST = 1.5  # seconds of a real clip after the prompt, to compare with
SPEED_TEXT = "a dog barking"
MODEL_FILES = {".json", ".safetensors", ".model", ".txt"}
# The twelve instruments of corpora/music whose training renders are easiest to classify.
DOZEN = (
    "piano", "acoustic guitar", "organ", "accordion", "violin", "flute", "trumpet", "saxophone",
    "music box", "marimba", "choir", "drums",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["default", "tiny"] = "default"
    """tiny uses a random model, a synthetic corpus and log-mel statistics as the judge."""
    model: Path = DEFAULT_FOLDER
    """Folder of a model; the bundled one by default."""
    esc10: Path | None = None
    """Corpus from recipes/prepare_esc10.py."""
    effects: Path | None = None
    """Corpus from prepare_effects.py."""
    music: Path | None = None
    """Corpus from prepare_music.py."""
    piano: Path | None = None
    """Corpus of solo piano pieces of at least 10 s; defaults to --music, whose pieces are
    shorter."""
    speech: Path | None = None
    """Corpus from prepare_speech.py."""
    shards: tuple[Path, ...] = ()
    """Training shards of the semantic stage, from recipes/tokenize_dataset.py."""
    yamnet: Path | None = None
    """Path of yamnet.tflite."""
    lyra: Path | None = None
    """Folder of Lyra V2's TFLite files."""
    asr: str | None = None
    """Speech recogniser: a faster-whisper folder, or a folder or hub id for transformers."""
    dnsmos: str | None = None
    """Path of sig_bak_ovr.onnx, or "speechmos"."""
    voices: str | None = None
    """Speaker embedding: an x-vector model from transformers, or "resemblyzer"."""
    only: tuple[Group, ...] = ()
    """Groups to measure; all by default."""
    clips_per_class: int = 20
    """Clips per class; half as many without guidance, and a tenth per speaker."""
    out: Path = Path("runs/default_report")
    seed: int = 0


class NotMeasuredError(Exception):
    """An input that a group needs is missing."""


class Bench:
    """What the groups share: the model and its clips, the corpora, the judges."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.identity = identity_of(config.model)
        self.clips = config.out / "clips" / self.identity
        self.tiny = config.preset == "tiny"
        self.model: AudioPipeline | None = None
        self.judges = load_judges(
            yamnet=config.yamnet, asr=config.asr, dnsmos=config.dnsmos, voices=config.voices
        )
        if self.tiny:
            self.judges = replace(self.judges, voices=LogMelStatistics())
        self.sounds = ClipEmbedder(self.judges.embeddings[-1], progress=show_progress)
        voices = self.judges.voices
        self.voices = None if voices is None else ClipEmbedder(voices, progress=show_progress)

    def corpus(self, name: str, split: Split) -> list[CorpusClip]:
        folder = needed(getattr(self.config, name), f"no corpus; pass --{name}")
        return read_corpus(folder, split)

    def sound_embedder(self) -> ClipEmbedder:
        if self.config.yamnet is None and not self.tiny:
            raise NotMeasuredError("no audio embedding; pass --yamnet")
        return self.sounds

    def pipeline(self) -> AudioPipeline:
        if self.model is None:
            if not (self.config.model / "config.json").is_file():
                raise NotMeasuredError(f"{self.config.model} is not a complete model; pass --model")
            self.model = load(self.config.model, device="cpu")
        return self.model

    def scaled(self, seconds: float) -> float:
        return seconds / 3 if self.tiny else seconds

    def captioned(self, captions: Mapping[str, Sequence[str]]) -> list[ClipSpec]:
        return caption_specs(
            captions,
            clips_per_label=self.config.clips_per_class,
            seconds=self.scaled(5),
            seed=self.config.seed,
        )

    def of_each_speaker(self, number: int, *, longer_than: float = 0.0) -> list[CorpusClip]:
        """Held-out utterances, the first ones of each speaker, at least one."""
        least = longer_than + (self.scaled(LEAST_REST) if longer_than else 0.0)
        found: dict[str | None, list[CorpusClip]] = defaultdict(list)
        for clip in self.corpus("speech", "held_out"):
            if clip.seconds >= least and len(found[clip.speaker]) < max(1, number):
                found[clip.speaker].append(clip)
        return [clip for clips in found.values() for clip in clips]

    def coded(
        self, systems: Mapping[str, System], clips: Sequence[ClipFile]
    ) -> dict[str, Sequence[ClipFile]]:
        """The original clips, and those that each system decodes."""
        folder = self.clips / "coded"
        made = {
            name: coded(clips, folder / name.replace("/", "p"), s, progress=show_progress)
            for name, s in systems.items()
        }
        return {ORIGINAL: clips, **made}

    def made(self, specs: Sequence[ClipSpec], what: str) -> list[ClipFile]:
        """The clips of the specs, from an earlier run or new."""
        if any(spec.text for spec in specs) and "text" not in self.pipeline().conditions:
            raise NotMeasuredError("the model takes no text")
        make = partial(generate, self.pipeline())
        with tqdm(total=len(specs), desc=what, unit="clip") as bar:
            return generate_missing(
                specs, self.clips / what, make, batch=BATCH, progress=bar.update
            )


def show_progress(clips: Sequence[ClipFile], what: str) -> Iterable[ClipFile]:
    return tqdm(clips, desc=what, unit="clip", disable=not clips)


def needed(value: Path | None, lacking: str) -> Path:
    if value is None:
        raise NotMeasuredError(lacking)
    return value


def identity_of(folder: Path) -> str:
    """Sixteen digits of a hash over all files of a model except its documentation."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in MODEL_FILES and path.is_file():
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size}".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def generate(model: AudioPipeline, specs: Sequence[ClipSpec]) -> list[GeneratedClip]:
    """Generates clips that all have a prompt or all lack one, all guided or all not."""
    settings = {name: stage.sampling for name, stage in model.stages.items()}
    plain = adjusted(settings, {"guidance_scale": 1.0})
    given: dict[str, Any] = {
        "duration": [spec.seconds for spec in specs],
        "seed": [spec.seed for spec in specs],
        "sampling": None if specs[0].guided else plain,
    }
    texts, rate = [spec.text for spec in specs], model.sample_rate
    prompts = [
        spec.prompt.audio(rate, num_channels=model.num_channels).samples
        for spec in specs
        if spec.prompt
    ]
    if prompts:
        clips = model.continue_from([(samples, rate) for samples in prompts], text=texts, **given)
    else:
        clips = model.generate(texts, **given)
    skipped = [samples.shape[1] for samples in prompts] or [0] * len(clips)
    semantic = next((n for n, s in model.stages.items() if s.makes.content == "semantic"), "")
    return [
        GeneratedClip(
            samples=clip.samples[:, first:],
            sample_rate=rate,
            semantic=clip.stage_values.get(semantic),
        )
        for clip, first in zip(clips, skipped, strict=True)
    ]


def main(config: Config) -> list[TargetResult]:
    """Measures all groups, writes the report after each, and returns its rows."""
    if config.preset == "tiny":
        with tempfile.TemporaryDirectory() as folder:
            return evaluate(made_up(config, Path(folder)))
    return evaluate(config)


def evaluate(config: Config) -> list[TargetResult]:
    if config.clips_per_class < 2:
        raise ValueError(f"--clips-per-class must be at least 2, got {config.clips_per_class}.")
    bench = Bench(config)
    about = {
        "model": bench.identity,
        "clips per class": config.clips_per_class,
        "seed": config.seed,
    }
    earlier, rows = read_target_report(config.out)
    rows = rows if all(earlier.get(key) == value for key, value in about.items()) else []
    for group in config.only or tuple(GROUPS):
        tqdm.write(f"{group} ...", file=sys.stderr)
        try:
            found = GROUPS[group](bench)
        except NotMeasuredError as reason:
            row = missing(group, reason=str(reason))
            found = [TargetResult(group=group, measurement=row)]
        rows = [row for row in rows if row.group != group] + found
        rows.sort(key=lambda row: [*map(str, GROUPS)].index(row.group))
        now = {**earlier, **about, f"command of {group}": shlex.join(["python", *sys.argv])}
        earlier = {key: value for key, value in now.items() if key in about or "command" in key}
        write_target_report(config.out, rows, about=earlier)
    judged = [row.met for row in rows if row.met is not None]
    tqdm.write(
        f"{sum(judged)} of {len(judged)} targets met. Report: {config.out}/report.md and "
        f"{config.out}/report.json. Clips: {bench.clips}.\nNext: copy the results to the model "
        "card, lm_audio/pretrained/README.md."
    )
    return rows


def measure_codec(bench: Bench) -> list[TargetResult]:
    """The codec, compared with Lyra and the originals: sound classes, words, quality."""
    config, judges = bench.config, bench.judges
    if not (config.model / "codec").is_dir():
        raise NotMeasuredError(f"{config.model} has no codec; pass --model")
    systems = dict([codec_system(load_codec(config.model / "codec"), most_bits=MOST_BITS)])
    rows, lacking = [], []
    if config.lyra is not None:
        systems |= dict([lyra_system(Lyra(config.lyra))])
    else:
        lacking.append(missing("codec: comparison with Lyra V2", reason="pass --lyra"))
    if config.esc10 is not None and (config.yamnet is not None or bench.tiny):
        sounds = bench.coded(systems, bench.corpus("esc10", "held_out"))
        rows += class_results(sounds, bench.corpus("esc10", "train"), bench.sound_embedder())
    else:
        lacking.append(missing("codec: sound class accuracy", reason="pass --esc10 and --yamnet"))
    if config.speech is not None and judges.recognizer is not None:
        spoken = bench.coded(systems, bench.of_each_speaker(config.clips_per_class // 5))
        rows += word_results(spoken, judges.recognizer, progress=show_progress)
    else:
        lacking.append(missing("codec: word error rate", reason="pass --speech and --asr"))
    if config.speech is not None and judges.dnsmos is not None:
        spoken = bench.coded(systems, bench.of_each_speaker(config.clips_per_class // 5))
        rows += quality_results(spoken, judges.dnsmos, progress=show_progress)
    else:
        lacking.append(missing("codec: DNSMOS", reason="pass --speech and --dnsmos"))
    return [*rows, *without_target("codec", lacking)]


def measure_text(bench: Bench) -> list[TargetResult]:
    """Sound classes for training captions and unseen ones, with guidance and without."""
    known, embedder = bench.corpus("esc10", "train"), bench.sound_embedder()
    seen = bench.captioned(captions_by_label(known))
    unseen = bench.captioned(read_unseen(needed(bench.config.esc10, "")))
    plain = [replace(spec, guided=False) for spec in seen[::2]]
    made, others, pairs = (bench.made(specs, "text") for specs in (seen, unseen, plain))
    stages = bench.pipeline().stages.items()
    scales = {name: stage.sampling.guidance_scale for name, stage in stages if stage.sampling}
    return [
        *adherence_results(made, others, bench.corpus("esc10", "held_out"), known, embedder),
        guidance_result(made[::2], pairs, known, embedder, scales=scales),
    ]


def measure_instruments(bench: Bench) -> list[TargetResult]:
    """Generated clips of a dozen instruments, classified by a probe on real solo renders."""
    known, real = (
        [clip for clip in bench.corpus("music", split) if clip.instruments in DOZEN]
        for split in SPLITS
    )
    made = bench.made(bench.captioned(captions_by_label(known)), "instruments")
    return instrument_results(made, real, known, bench.sound_embedder())


def measure_frechet(bench: Bench) -> list[TargetResult]:
    """Generated clips against one half of the real ones; each has a counterpart in the other."""
    given = [name for name in ("esc10", "effects") if getattr(bench.config, name) is not None]
    clips = [clip for name in given for clip in bench.corpus(name, "held_out")]
    first: list[ClipFile] = []
    second: list[ClipFile] = []
    for label in sorted({str(clip.label) for clip in clips}):
        some = [clip for clip in clips if clip.label == label][: 2 * bench.config.clips_per_class]
        for one, other in zip(some[::2], some[1::2], strict=False):
            seconds = min(bench.scaled(5), one.seconds, other.seconds)
            first.append(one.part(0, seconds))
            second.append(other.part(0, seconds))
    if len(first) < 2:
        raise NotMeasuredError("too few held-out clips; pass --esc10 and --effects")
    specs = [
        ClipSpec(
            name=f"like {clip.name}", seconds=float(clip.duration or 0), seed=i, text=clip.text
        )
        for i, clip in enumerate(second)
    ]
    return [frechet_result(bench.made(specs, "frechet"), first, second, bench.sound_embedder())]


def measure_speech(bench: Bench) -> list[TargetResult]:
    """Continuations of held-out utterances after 3 s, compared with the real ones."""
    prompt, rest = bench.scaled(SPEECH_PROMPT), bench.scaled(5)
    enrolled = bench.corpus("speech", "train")
    spoken = bench.of_each_speaker(bench.config.clips_per_class // 10, longer_than=prompt)
    made = bench.made(continuation_specs(spoken, prompt=prompt, seconds=rest), "speech")
    real = [clip.part(prompt, rest) for clip in spoken]
    quality = continuation_quality_results(made, real, bench.judges.dnsmos, progress=show_progress)
    return [*voice_results(made, real, enrolled, bench.voices), *quality]


def measure_piano(bench: Bench) -> list[TargetResult]:
    """Continuations of held-out solo piano after 4 s, compared with the real ones."""
    prompt, rest = bench.scaled(PIANO_PROMPT), bench.scaled(PIANO_SECONDS)
    least = prompt + LEAST_REST
    clips = bench.corpus("piano" if bench.config.piano else "music", "held_out")
    pieces = [clip for clip in clips if clip.instruments == "piano" and clip.seconds >= least]
    if len(pieces) < 2:
        raise NotMeasuredError(f"needs two held-out solo piano pieces of at least {least:g} s")
    made = bench.made(continuation_specs(pieces, prompt=prompt, seconds=rest), "piano")
    real, prompts = (
        [clip.part(*span) for clip in pieces] for span in ((prompt, rest), (0, prompt))
    )
    return music_results(made, real, prompts)


def measure_speed(bench: Bench) -> list[TargetResult]:
    """The time to generate a clip, and to load the model."""
    model, seconds = bench.pipeline(), bench.scaled(5)
    text = SPEED_TEXT if "text" in model.conditions else None
    factor = real_time_result(
        lambda seed: model.generate(text, duration=seconds, seed=seed), seconds=seconds
    )
    return [factor, *start_up_results(bench.config.model)]


def measure_memorisation(bench: Bench) -> list[TargetResult]:
    """Whether clips for training captions repeat training tokens."""
    folders = bench.config.shards
    if not folders:
        raise NotMeasuredError("no training tokens; pass --shards")
    train, held_out = (Shards(folders, split) for split in SPLITS)
    tokenizer = bench.pipeline().semantic_tokenizer
    if "semantic" not in train.streams:
        raise NotMeasuredError("the shards have no semantic tokens; pass other --shards")
    stream = train.streams["semantic"]
    if tokenizer is None or tokenizer.identity != stream.identity:
        raise NotMeasuredError("the shards come from another tokenizer; pass other --shards")
    known = captions_by_label(bench.corpus("esc10", "train"))
    made = bench.made(bench.captioned(known), "text")
    rows = measure_copies(
        semantic_tokens(made),
        *([part.read(i, "semantic")[0] for i in range(len(part))] for part in (train, held_out)),
        rate=float(stream.rate),
        vocab_size=stream.vocabulary,
    )
    return without_target("memorisation", rows)


GROUPS: dict[Group, Callable[[Bench], list[TargetResult]]] = {
    "codec": measure_codec,
    "text": measure_text,
    "instruments": measure_instruments,
    "frechet": measure_frechet,
    "speech": measure_speech,
    "piano": measure_piano,
    "speed": measure_speed,
    "memorisation": measure_memorisation,
}


def made_up(config: Config, folder: Path) -> Config:
    """Fills in synthetic sounds of three kinds as every corpus, and an untrained model."""
    if config.model != DEFAULT_FOLDER:
        raise ValueError("--preset tiny uses a random model; remove --model or the preset.")
    corpus = folder / "corpus"
    texts = make_up_corpus(corpus, seed=config.seed)
    model = untrained_model([*texts, SPEED_TEXT], seed=config.seed)
    model.save(folder / "model")
    assert model.semantic_tokenizer is not None
    write_semantic_shards(folder / "shards", corpus, model.semantic_tokenizer)
    return replace(
        config,
        clips_per_class=min(config.clips_per_class, 2),
        model=folder / "model",
        shards=(folder / "shards",),
        esc10=corpus,
        effects=corpus,
        music=corpus,
        speech=corpus,
    )


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
