"""Measures a model of ours, text to sound, by its gates: on held-out data, by independent models.

    python recipes/evaluate_default.py --preset tiny          # made-up things, no weights, seconds
    python recipes/evaluate_default.py --esc10 DIR --effects DIR --music DIR --speech DIR \\
        --yamnet yamnet.tflite --lyra DIR --asr DIR --dnsmos speechmos --voices resemblyzer
    python recipes/evaluate_default.py --only codec text --esc10 DIR --yamnet yamnet.tflite

The four corpora are those that the recipes prepare_... write. What cannot be measured is listed
with its reason. Each clip has a seed and is kept in OUT/clips, by the model that made it: a run
that was stopped goes on where it was, and what other groups of `--only` found stays in the report.
How each value is found: docs/evaluation.md. It writes OUT/report.json and OUT/report.md. With all
judges it generates about 1,000 clips of 5 s, an hour or more on two CPU cores, and takes 2 GB.
"""

import hashlib
import shlex
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from audio_tokenizers.acoustic.frame_codec import FrameCodec
from audio_tokenizers.acoustic.frame_codec import tiny as tiny_codec
from audio_tokenizers.acoustic.registry import load_codec
from audio_tokenizers.semantic.kmeans import FeatureSource, KMeansCodebook
from audio_tokenizers.semantic.masked_model import MaskedAudioModel
from audio_tokenizers.semantic.masked_model import tiny as tiny_masked_model
from audio_tokenizers.semantic.tokenizer import FeatureTokenizer
from lm_audio.cli.recipe import run_recipe
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.data.manifest import SPLITS, Split
from lm_audio.data.shards import Shards
from lm_audio.evaluation.clips import ClipFile
from lm_audio.evaluation.codec_gates import (
    ORIGINAL,
    System,
    class_gates,
    codec_system,
    coded,
    lyra_system,
    quality_gates,
    word_gates,
)
from lm_audio.evaluation.continuation_gates import (
    continuation_quality_gates,
    music_gates,
    voice_gates,
)
from lm_audio.evaluation.copies import measure_copies
from lm_audio.evaluation.corpus_clips import (
    CorpusClip,
    captions_by_label,
    read_corpus,
    read_unseen,
)
from lm_audio.evaluation.gates import GatedMeasurement, read_gates, write_gates
from lm_audio.evaluation.judges.embedding import LogMelStatistics
from lm_audio.evaluation.judges.loading import load_judges
from lm_audio.evaluation.lyra import Lyra
from lm_audio.evaluation.measure_gates import Listener, compared
from lm_audio.evaluation.orders import (
    Made,
    Order,
    caption_orders,
    continuation_orders,
    fulfil,
    semantic_tokens,
)
from lm_audio.evaluation.prompt_gates import (
    adherence_gates,
    frechet_gate,
    guidance_gate,
    instrument_gates,
)
from lm_audio.evaluation.report import missing
from lm_audio.evaluation.speed_gates import real_time_gate, start_up_gates
from lm_audio.evaluation.synthetic_corpus import make_up_corpus, write_semantic_shards
from lm_audio.families.duet.stages import duet
from lm_audio.loading import load
from lm_audio.model import Model
from lm_audio.networks import presets
from lm_audio.pipeline import AudioPipeline
from lm_audio.pretrained import DEFAULT_FOLDER
from lm_audio.renderers.codec import CodecRenderer

Group = Literal[
    "codec", "text", "instruments", "frechet", "speech", "piano", "speed", "memorisation"
]
MOST_BITS = 3200  # a second, of the codec and of Lyra
BATCH = 10  # clips that are generated together
SPEECH_PROMPT, PIANO_PROMPT, PIANO_SECONDS = 3.0, 4.0, 6.0
LEAST_REST = 1.5  # seconds of a real clip after the prompt, to compare with
SPEED_TEXT = "a dog barking"
MODEL_FILES = {".json", ".safetensors", ".model", ".txt"}
# Of those of lm_audio/data/music the dozen whose training renders are told apart best.
DOZEN = (
    "piano", "acoustic guitar", "organ", "accordion", "violin", "flute", "trumpet", "saxophone",
    "music box", "marimba", "choir", "drums",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["default", "tiny"] = "default"
    """tiny makes up a model and corpora, and judges by log-mel statistics."""
    model: Path = DEFAULT_FOLDER
    """A folder with a model of ours; that of the package by default."""
    esc10: Path | None = None
    effects: Path | None = None
    music: Path | None = None
    piano: Path | None = None
    """Solo pieces of 10 s and more; by default those of `music`, which are shorter."""
    speech: Path | None = None
    shards: tuple[Path, ...] = ()
    """What the semantic stage was trained on, of recipes/tokenize_dataset.py."""
    yamnet: Path | None = None
    lyra: Path | None = None
    """A folder with Lyra V2's TFLite files."""
    asr: str | None = None
    """A folder of faster-whisper, or what transformers reads."""
    dnsmos: str | None = None
    voices: str | None = None
    only: tuple[Group, ...] = ()
    """The groups to measure; all by default."""
    clips_per_class: int = 20
    """Others follow from it: half as many without guidance, a tenth for each speaker."""
    out: Path = Path("runs/default_report")
    seed: int = 0


class NotMeasuredError(Exception):
    """Something that a group needs is not given."""


class Bench:
    """What the groups work with: the model and its clips, corpora, judges."""

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
        self.sounds = Listener(self.judges.embeddings[-1], watch=watch)
        voices = self.judges.voices
        self.voices = None if voices is None else Listener(voices, watch=watch)

    def corpus(self, name: str, split: Split) -> list[CorpusClip]:
        folder = needed(getattr(self.config, name), f"there is no corpus; give --{name}")
        return read_corpus(folder, split)

    def ear(self) -> Listener:
        if self.config.yamnet is None and not self.tiny:
            raise NotMeasuredError("there is no embedding of sound; give --yamnet")
        return self.sounds

    def pipeline(self) -> AudioPipeline:
        if self.model is None:
            if not (self.config.model / "config.json").is_file():
                raise NotMeasuredError(f"{self.config.model} holds no whole model; give --model")
            self.model = load(self.config.model, device="cpu")
        return self.model

    def scaled(self, seconds: float) -> float:
        return seconds / 3 if self.tiny else seconds

    def captioned(self, captions: Mapping[str, Sequence[str]]) -> list[Order]:
        return caption_orders(
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
        """The clips as they were, and as each system gives them back."""
        folder = self.clips / "coded"
        made = {
            name: coded(clips, folder / name.replace("/", "p"), s, watch=watch)
            for name, s in systems.items()
        }
        return {ORIGINAL: clips, **made}

    def made(self, orders: Sequence[Order], what: str) -> list[ClipFile]:
        """The clips that were ordered, from an earlier run or new."""
        if any(o.text for o in orders) and "text" not in self.pipeline().conditions:
            raise NotMeasuredError("the model takes no text")
        make = partial(generate, self.pipeline())
        with tqdm(total=len(orders), desc=what, unit="clip") as bar:
            return fulfil(orders, self.clips / what, make, batch=BATCH, progress=bar.update)


def watch(clips: Sequence[ClipFile], what: str) -> Iterable[ClipFile]:
    return tqdm(clips, desc=what, unit="clip", disable=not clips)


def needed(value: Path | None, lacking: str) -> Path:
    if value is None:
        raise NotMeasuredError(lacking)
    return value


def identity_of(folder: Path) -> str:
    """Sixteen digits that depend on all files of a model but on what is said about it."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in MODEL_FILES and path.is_file():
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size}".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def generate(model: AudioPipeline, orders: Sequence[Order]) -> list[Made]:
    """Clips that all have a prompt or all have none, and are all guided or all not."""
    plain = {n: replace(s.sampling, guidance_scale=1.0) for n, s in model.stages.items()}
    given: dict[str, Any] = {
        "duration": [order.seconds for order in orders],
        "seed": [order.seed for order in orders],
        "sampling": None if orders[0].guided else plain,
    }
    texts, rate = [order.text for order in orders], model.sample_rate
    heard = [o.prompt.audio(rate, num_channels=model.num_channels) for o in orders if o.prompt]
    if heard:
        prompts = [(audio.samples, rate) for audio in heard]
        clips = model.continue_from(prompts, text=texts, **given)
    else:
        clips = model.generate(texts, **given)
    skipped = [audio.samples.shape[1] for audio in heard] or [0] * len(clips)
    semantic = next((n for n, s in model.stages.items() if s.token_kind == "semantic"), "")
    return [
        Made(
            samples=clip.samples[:, first:],
            sample_rate=rate,
            semantic=clip.stage_tokens.get(semantic),
        )
        for clip, first in zip(clips, skipped, strict=True)
    ]


def main(config: Config) -> list[GatedMeasurement]:
    """Measures what can be, writes the report after each group, and returns all of it."""
    if config.preset == "tiny":
        with tempfile.TemporaryDirectory() as folder:
            return evaluate(made_up(config, Path(folder)))
    return evaluate(config)


def evaluate(config: Config) -> list[GatedMeasurement]:
    if config.clips_per_class < 2:
        raise ValueError(f"--clips-per-class is {config.clips_per_class}; give 2 or more.")
    bench = Bench(config)
    about = {
        "model": bench.identity,
        "clips per class": config.clips_per_class,
        "seed": config.seed,
    }
    earlier, rows = read_gates(config.out)
    rows = rows if all(earlier.get(key) == value for key, value in about.items()) else []
    asked = config.only or tuple(GROUPS)
    for group in asked:
        tqdm.write(f"{group} ...", file=sys.stderr)
        try:
            found = GROUPS[group](bench)
        except NotMeasuredError as reason:
            row = missing(group, reason=str(reason))
            found = [GatedMeasurement(group=group, measurement=row)]
        rows = [row for row in rows if row.group != group] + found
        rows.sort(key=lambda row: [*map(str, GROUPS)].index(row.group))
        now = {**earlier, **about, f"command of {group}": shlex.join(["python", *sys.argv])}
        earlier = {key: value for key, value in now.items() if key in about or "command" in key}
        write_gates(config.out, rows, about=earlier)
    judged = [row.passed for row in rows if row.passed is not None]
    tqdm.write(
        f"{sum(judged)} of {len(judged)} gates are passed: {config.out}/report.md. For programs: "
        f"{config.out}/report.json. The clips: {bench.clips}.\nNext: the numbers belong into the "
        "model card, lm_audio/pretrained/README.md."
    )
    return rows


def measure_codec(bench: Bench) -> list[GatedMeasurement]:
    """The codec beside Lyra and the originals: sound classes, words, quality."""
    config, judges = bench.config, bench.judges
    if not (config.model / "codec").is_dir():
        raise NotMeasuredError(f"{config.model} holds no codec; give --model")
    systems = dict([codec_system(load_codec(config.model / "codec"), most_bits=MOST_BITS)])
    rows, lacking = [], []
    if config.lyra is not None:
        systems |= dict([lyra_system(Lyra(config.lyra))])
    else:
        lacking.append(missing("codec: Lyra V2 beside it", reason="give --lyra"))
    if config.esc10 is not None and (config.yamnet is not None or bench.tiny):
        sounds = bench.coded(systems, bench.corpus("esc10", "held_out"))
        rows += class_gates(sounds, bench.corpus("esc10", "train"), bench.ear())
    else:
        lacking.append(missing("codec: sound class accuracy", reason="give --esc10 and --yamnet"))
    if config.speech is not None and judges.recognizer is not None:
        heard = bench.coded(systems, bench.of_each_speaker(config.clips_per_class // 5))
        rows += word_gates(heard, judges.recognizer, watch=watch)
    else:
        lacking.append(missing("codec: word error rate", reason="give --speech and --asr"))
    if config.speech is not None and judges.dnsmos is not None:
        heard = bench.coded(systems, bench.of_each_speaker(config.clips_per_class // 5))
        rows += quality_gates(heard, judges.dnsmos, watch=watch)
    else:
        lacking.append(missing("codec: DNSMOS", reason="give --speech and --dnsmos"))
    return [*rows, *compared("codec", lacking)]


def measure_text(bench: Bench) -> list[GatedMeasurement]:
    """Sound classes by captions seen in training and never seen, with guidance and without."""
    known, ear = bench.corpus("esc10", "train"), bench.ear()
    seen = bench.captioned(captions_by_label(known))
    unseen = bench.captioned(read_unseen(needed(bench.config.esc10, "")))
    plain = [replace(order, guided=False) for order in seen[::2]]
    made, others, pairs = (bench.made(orders, "text") for orders in (seen, unseen, plain))
    scales = {n: s.sampling.guidance_scale for n, s in bench.pipeline().stages.items()}
    return [
        *adherence_gates(made, others, bench.corpus("esc10", "held_out"), known, ear),
        guidance_gate(made[::2], pairs, known, ear, scales=scales),
    ]


def measure_instruments(bench: Bench) -> list[GatedMeasurement]:
    """Generated clips of a dozen instruments, judged by real renders of each alone."""
    known, real = (
        [clip for clip in bench.corpus("music", split) if clip.instruments in DOZEN]
        for split in SPLITS
    )
    made = bench.made(bench.captioned(captions_by_label(known)), "instruments")
    return instrument_gates(made, real, known, bench.ear())


def measure_frechet(bench: Bench) -> list[GatedMeasurement]:
    """Generated clips against one half of the real ones; each mirrors a clip of the other half."""
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
        raise NotMeasuredError("there are too few held-out clips; give --esc10 and --effects")
    orders = [
        Order(name=f"like {clip.name}", seconds=float(clip.duration or 0), seed=i, text=clip.text)
        for i, clip in enumerate(second)
    ]
    return [frechet_gate(bench.made(orders, "frechet"), first, second, bench.ear())]


def measure_speech(bench: Bench) -> list[GatedMeasurement]:
    """Held-out utterances that go on after 3 s, beside what was really said."""
    prompt, rest = bench.scaled(SPEECH_PROMPT), bench.scaled(5)
    enrolled = bench.corpus("speech", "train")
    spoken = bench.of_each_speaker(bench.config.clips_per_class // 10, longer_than=prompt)
    made = bench.made(continuation_orders(spoken, prompt=prompt, seconds=rest), "speech")
    real = [clip.part(prompt, rest) for clip in spoken]
    quality = continuation_quality_gates(made, real, bench.judges.dnsmos, watch=watch)
    return [*voice_gates(made, real, enrolled, bench.voices), *quality]


def measure_piano(bench: Bench) -> list[GatedMeasurement]:
    """Held-out pieces of solo piano that go on after 4 s, beside what was really played."""
    prompt, rest = bench.scaled(PIANO_PROMPT), bench.scaled(PIANO_SECONDS)
    least = prompt + LEAST_REST
    clips = bench.corpus("piano" if bench.config.piano else "music", "held_out")
    pieces = [clip for clip in clips if clip.instruments == "piano" and clip.seconds >= least]
    if len(pieces) < 2:
        raise NotMeasuredError(f"there are no two held-out pieces of solo piano of {least:g} s")
    made = bench.made(continuation_orders(pieces, prompt=prompt, seconds=rest), "piano")
    real, prompts = (
        [clip.part(*span) for clip in pieces] for span in ((prompt, rest), (0, prompt))
    )
    return music_gates(made, real, prompts)


def measure_speed(bench: Bench) -> list[GatedMeasurement]:
    """How long a clip takes to make, and the model to load."""
    model, seconds = bench.pipeline(), bench.scaled(5)
    text = SPEED_TEXT if "text" in model.conditions else None
    factor = real_time_gate(
        lambda seed: model.generate(text, duration=seconds, seed=seed), seconds=seconds
    )
    return [factor, *start_up_gates(bench.config.model)]


def measure_memorisation(bench: Bench) -> list[GatedMeasurement]:
    """Whether clips of training captions repeat the tokens of training."""
    folders = bench.config.shards
    if not folders:
        raise NotMeasuredError("there are no tokens of training; give --shards")
    train, held_out = (Shards(folders, split) for split in SPLITS)
    tokenizer = bench.pipeline().semantic_tokenizer
    if "semantic" not in train.streams:
        raise NotMeasuredError("the shards have no semantic tokens; give other --shards")
    stream = train.streams["semantic"]
    if tokenizer is None or tokenizer.identity != stream.identity:
        raise NotMeasuredError("the shards are of another tokenizer; give other --shards")
    known = captions_by_label(bench.corpus("esc10", "train"))
    made = bench.made(bench.captioned(known), "text")
    rows = measure_copies(
        semantic_tokens(made),
        *([part.read(i, "semantic")[0] for i in range(len(part))] for part in (train, held_out)),
        rate=float(stream.rate),
        vocab_size=stream.vocabulary,
    )
    return compared("memorisation", rows)


GROUPS: dict[Group, Callable[[Bench], list[GatedMeasurement]]] = {
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
    """Fills in what is not given: sounds of three kinds as all corpora, and an untrained model."""
    if config.model != DEFAULT_FOLDER:
        raise ValueError("The tiny preset makes a model up; leave --model or the preset out.")
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


def untrained_model(texts: list[str], *, seed: int) -> AudioPipeline:
    """Our composition, tiny, of random weights, that tells these texts apart."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = FrameCodec(tiny_codec()).eval()
        for layer in codec.quantizer.layers:
            layer._codebook.embed.normal_(std=0.3)
            layer._codebook.initted.fill_(True)
        features = MaskedAudioModel(tiny_masked_model()).eval()
        codebook = KMeansCodebook.from_centroids(
            torch.randn(32, features.width), source=FeatureSource(model=features.identity, layer=1)
        )
        tokenizer = FeatureTokenizer(features, codebook)
        stages = duet(
            semantic=presets.tiny().transformer,
            acoustic=presets.tiny().transformer,
            text=lambda dim: LabelConditioner(texts, dim),
            num_semantic_tokens=tokenizer.num_tokens,
            semantic_rate=Fraction(tokenizer.frame_rate).limit_denominator(1000),
            num_codebooks=codec.num_codebooks,
            codebook_size=codec.codebook_size,
            frame_rate=Fraction(codec.sample_rate, codec.hop_length),
        )
    return AudioPipeline(Model(stages, CodecRenderer(codec), semantic_tokenizer=tokenizer))


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
