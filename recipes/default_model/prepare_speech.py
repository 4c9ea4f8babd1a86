"""Prepares a corpus of speech: generated sentences, read by many voices, with transcripts.

    python recipes/default_model/prepare_speech.py --preset tiny  # seconds; a robot voice
    python recipes/default_model/prepare_speech.py --kokoro Kokoro-82M-v1.0-ONNX/ --out runs/speech
    python recipes/default_model/prepare_speech.py --manifest utterances.jsonl  # existing speech

`--kokoro` is a copy of onnx-community/Kokoro-82M-v1.0-ONNX from the Hugging Face hub (Apache-2.0):
onnx/model.onnx or another variant, voices/ and tokenizer.json. It needs
pip install 'lm-audio[speech]'; 28 voices x 50 sentences are 75 minutes of sound and take about 40
minutes on two cores. Each voice reads some sentences of its own and some that all voices read, so
that a model can separate what is said from who says it. A sentence is in one split only, whoever
reads it. `--manifest` has one line per utterance: {"file", "voice", "text", "speed"}.

`--out` receives audio/ (24 kHz FLAC; existing files are kept, so an interrupted run resumes),
train.jsonl.gz and held_out.jsonl.gz, with captions that say who speaks and how ("a British woman
talks quickly"), with and without the words, unseen_captions.jsonl for tests, and LICENCES.md.
"""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from audio_tokenizers.atomic import replacing
from audio_tokenizers.audio_files import AudioInfo, audio_info
from audio_tokenizers.audio_writer import write_audio
from corpora.speech import formants
from corpora.speech.kokoro import load_kokoro
from corpora.speech.sentences import sentence
from corpora.speech.voices import Voice, kokoro_voice, speech_captions, unseen_captions
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.augmentation import peak_safe
from lm_audio.data.manifest import (
    Licence,
    Split,
    import_lhotse,
    make_cut,
    write_cuts,
    write_licences,
)

SAMPLE_RATE = 24_000
MAX_LETTERS = 350  # Kokoro reads 510 phonemes at a time


@dataclass(frozen=True, kw_only=True)
class Config:
    out: Path = Path("runs/speech")
    preset: Literal["default", "tiny"] = "default"
    engine: Literal["kokoro", "formants"] | None = None
    """What speaks: Kokoro by default; formants, a machine that nobody understands, is for trying
    recipes out, and what the tiny preset uses."""
    kokoro: Path | None = None
    """The folder of the Kokoro model."""
    manifest: tuple[Path, ...] = ()
    """Utterances that are there already, in place of an engine; files beside the manifest. A voice
    named as Kokoro's is known: bf_emma is a British woman."""
    texts: Path | None = None
    """Sentences to read, one a line; else they are made up."""
    voices: tuple[str, ...] = ()
    """All English voices by default."""
    own_texts: int | None = None
    """Sentences that each voice alone reads: 40, or 3 for the tiny preset."""
    shared_texts: int | None = None
    """Sentences that all voices read: 10, or 2 for the tiny preset."""
    speeds: tuple[float, float] = (0.85, 1.15)
    """The range of paces; 1 is the voice's own."""
    held_out: float = 0.05
    """The share of sentences to hold out for validation."""
    num_workers: int = os.cpu_count() or 1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Utterance:
    path: Path
    voice: Voice
    text: str
    speed: float


Engine = Callable[[Utterance, np.random.Generator], np.ndarray]
"""Reads an utterance aloud: [N], at 24 kHz."""


def main(config: Config) -> dict[Split, int]:
    """Prepares the corpus and returns the number of utterances in each split."""
    import_lhotse()
    skipped: list[str] = []
    if config.manifest:
        utterances = [u for path in config.manifest for u in read_manifest(path, skipped)]
        infos = [audio_info(u.path) for u in tqdm(utterances, desc="reading", unit="file")]
        licence = Licence(what="all utterances", author="", licence="see their origin", source="")
    else:
        engine, voices, licence = load_engine(config)
        utterances = plan(config, voices)
        with ThreadPoolExecutor(config.num_workers) as pool:
            made = pool.map(lambda u: spoken(u, engine, seed=config.seed), utterances)
            infos = list(tqdm(made, total=len(utterances), desc="speaking", unit="sentence"))
    if not utterances:
        raise ValueError(f"{config.manifest[0]} has no utterance whose file is there; check it.")

    cuts, seconds = [], 0.0
    for utterance, info in zip(utterances, infos, strict=True):
        voice, text = utterance.voice, utterance.text
        name = f"{voice.name}/{utterance.path.stem}"
        rng = np.random.default_rng([config.seed, *name.encode()])
        conditions: dict[str, str | float | list[str]] = {
            "text": speech_captions(voice, text, speed=utterance.speed, rng=rng),
            "label": "speech",
            "speaker": voice.name,
            "transcript": text,
        }
        if voice.accent is not None:
            conditions["accent"] = voice.accent
        cuts.append(
            make_cut(name, utterance.path, info=info, conditions=conditions, group=text.lower())
        )
        seconds += info.duration
    counts = write_cuts(config.out, cuts, seed=config.seed, held_out=config.held_out)
    write_licences(config.out, [licence])
    speakers = {utterance.voice for utterance in utterances}
    unseen = sorted({caption for voice in speakers for caption in unseen_captions(voice)})
    with replacing(config.out / "unseen_captions.jsonl") as file:
        rows = [json.dumps({"text": caption, "label": "speech"}) + "\n" for caption in unseen]
        file.write_text("".join(rows), encoding="utf-8")
    for line in skipped:
        tqdm.write(f"skipped: {line}")
    tqdm.write(
        f"{config.out}: {len(cuts):,} utterances of {len(speakers)} voices, "
        f"{seconds / 3600:.2f} h; {counts['train']:,} to train on, {counts['held_out']:,} held "
        f"out; {len(skipped)} skipped.\n"
        f"Next: python recipes/tokenize_dataset.py --data {config.out}"
    )
    return counts


def load_engine(config: Config) -> tuple[Engine, list[Voice], Licence]:
    """What speaks, its voices, and whose they are."""
    kind = config.engine or ("formants" if config.preset == "tiny" else "kokoro")
    if kind == "formants":
        engine: Engine = speak_formants
        voices = [Voice(name=name, person="robot") for name in formants.VOICES]
        licence = Licence(what="all", author="made by formulas", licence="CC0", source="")
    else:
        if config.kokoro is None:
            raise ValueError(
                "No model was given; give --kokoro FOLDER, a copy of "
                "onnx-community/Kokoro-82M-v1.0-ONNX, or use --engine formants."
            )
        kokoro = load_kokoro(config.kokoro)

        def engine(utterance: Utterance, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
            return kokoro.speak(utterance.text, utterance.voice.name, speed=utterance.speed)

        voices = [kokoro_voice(name) for name in kokoro.styles]
        licence = Licence(
            what="all, as spoken by the model Kokoro-82M",
            author="hexgrad and others",
            licence="Apache-2.0 (model and voices)",
            source="https://huggingface.co/hexgrad/Kokoro-82M",
        )
    unknown = sorted(set(config.voices) - {voice.name for voice in voices})
    if unknown:
        names = ", ".join(voice.name for voice in voices)
        raise ValueError(f"There is no voice {unknown[0]!r}; choose from: {names}.")
    return engine, [v for v in voices if not config.voices or v.name in config.voices], licence


def plan(config: Config, voices: list[Voice]) -> list[Utterance]:
    """Who reads what: the grid of voices and sentences."""
    tiny = config.preset == "tiny"
    num_own = config.own_texts if config.own_texts is not None else (3 if tiny else 40)
    num_shared = config.shared_texts if config.shared_texts is not None else (2 if tiny else 10)
    if num_own < 0 or num_shared < 0 or num_own + num_shared == 0:
        raise ValueError(
            f"own_texts is {num_own} and shared_texts {num_shared}; ask for one sentence or more."
        )
    total = num_shared + num_own * len(voices)
    if not 0.5 <= config.speeds[0] <= config.speeds[1] <= 2:
        raise ValueError(f"speeds is {config.speeds}; give two paces from 0.5 to 2, slow to quick.")
    if config.texts is not None:
        texts = read_texts(config.texts, at_least=total, seed=config.seed)
    else:
        texts = [sentence(np.random.default_rng([config.seed, n])) for n in range(total)]
    utterances = []
    for number, voice in enumerate(voices):
        own = texts[num_shared + number * num_own : num_shared + (number + 1) * num_own]
        for text in texts[:num_shared] + own:
            key = f"{voice.name} {text}"
            speed = np.random.default_rng([config.seed, *key.encode()]).uniform(*config.speeds)
            speed = round(float(speed), 2)
            # Named for what it is: no file of another run is taken for it.
            digest = hashlib.sha256(f"{speed} {key}".encode()).hexdigest()[:12]
            path = config.out / "audio" / voice.name / f"{digest}.flac"
            utterances.append(Utterance(path=path, voice=voice, text=text, speed=speed))
    return list({utterance.path: utterance for utterance in utterances}.values())


def spoken(utterance: Utterance, engine: Engine, *, seed: int) -> AudioInfo:
    """Reads an utterance aloud into its file, unless it is there and whole."""
    try:
        return audio_info(utterance.path)
    except ValueError:
        rng = np.random.default_rng([seed, *utterance.path.stem.encode()])
        samples = peak_safe(torch.from_numpy(engine(utterance, rng)))
        write_audio(utterance.path, samples, SAMPLE_RATE)
        return audio_info(utterance.path)


def speak_formants(utterance: Utterance, rng: np.random.Generator) -> np.ndarray:
    voice = formants.VOICES[utterance.voice.name]
    return formants.speak(
        utterance.text, voice, speed=utterance.speed, sample_rate=SAMPLE_RATE, rng=rng
    )


def read_texts(path: Path, *, at_least: int, seed: int) -> list[str]:
    """The lines of a file, in an order that the seed decides."""
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give a text file with a sentence on each line.")
    texts = list(dict.fromkeys(path.read_text(encoding="utf-8").split("\n")))
    texts = [text.strip() for text in texts if text.strip()]
    long = next((text for text in texts if len(text) > MAX_LETTERS), None)
    if long is not None:
        raise ValueError(
            f"{path} has a line of {len(long)} letters, {long[:40]!r}; use {MAX_LETTERS} at most."
        )
    if len(texts) < at_least:
        raise ValueError(
            f"{path} has {len(texts)} sentences and {at_least} are needed; give more, or lower "
            "--own-texts, --shared-texts or the number of --voices."
        )
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]


def read_manifest(path: Path, skipped: list[str]) -> list[Utterance]:
    """Utterances that are there already; lines of no use go to `skipped`."""
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give a .jsonl with a line for each utterance.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("it is not a JSON object")
            utterance = Utterance(
                path=path.parent / row["file"],
                voice=kokoro_voice(str(row["voice"])),
                text=str(row["text"]),
                speed=float(row.get("speed", 1.0)),
            )
            audio_info(utterance.path)
        except KeyError as error:
            skipped.append(f"{path.name} line {number}: it has no {error}")
        except ValueError as error:
            skipped.append(f"{path.name} line {number}: {error}")
        else:
            found.append(utterance)
    return found


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
