"""Kokoro-82M, a text-to-speech model of 28 English voices, run by ONNX Runtime.

The folder is laid out as onnx-community/Kokoro-82M-v1.0-ONNX of the Hugging Face hub: a model.onnx,
voices/*.bin, and the phonemes' numbers in tokenizer.json, vocab.json or config.json. Weights and
voices are Apache-2.0. eSpeak NG turns text to phonemes.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SAMPLE_RATE = 24_000
MAX_PHONEMES = 510
STYLE_WIDTH = 256  # one style for each number of phonemes
ENGLISH = {"a": "en-us", "b": "en-gb"}
MISSING = (
    "Kokoro needs ONNX Runtime and eSpeak NG; install them with: pip install 'lm-audio[speech]'."
)

Model = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Tokens [1, L], style [1, 256] and speed [1] to samples."""


@dataclass(frozen=True, kw_only=True)
class Kokoro:
    """A text-to-speech model and its voices; any number of threads may use it.

    Args:
        phonemes: turns text, in a language, to phonemes.
        vocabulary: their numbers; others are left out.
        styles: [phonemes, 256] by the name of the voice.
    """

    model: Model
    phonemes: Callable[[str, str], str]
    vocabulary: dict[str, int]
    styles: dict[str, np.ndarray]

    def speak(self, text: str, voice: str, *, speed: float = 1.0) -> np.ndarray:
        """Reads a text aloud: [N], float32, at 24 kHz."""
        phonemes = self.phonemes(text, ENGLISH[voice[0]])
        ids = [self.vocabulary[each] for each in phonemes if each in self.vocabulary]
        if not 1 <= len(ids) <= MAX_PHONEMES:
            raise ValueError(
                f"{text[:40]!r} has {len(ids)} phonemes; Kokoro takes 1 to {MAX_PHONEMES} at once."
            )
        tokens = np.array([[0, *ids, 0]], dtype=np.int64)
        style = self.styles[voice][min(len(ids), len(self.styles[voice]) - 1)]  # [256]
        samples = self.model(tokens, style[None], np.array([speed], dtype=np.float32))
        return samples.reshape(-1)


def load_kokoro(folder: str | Path, *, num_threads: int = 1) -> Kokoro:
    """Loads the model and all its English voices from a folder."""
    folder = Path(folder)
    models = sorted(folder.rglob("*.onnx"))
    models = [path for path in models if path.name == "model.onnx"] or models
    voices = {path.stem: path for path in sorted(folder.glob("voices/[ab][fm]_*.bin"))}
    if len(models) != 1 or not voices:
        raise ValueError(
            f"{folder} has {len(models)} models and {len(voices)} English voices; pass a copy of "
            "onnx-community/Kokoro-82M-v1.0-ONNX with one .onnx file and voices/*.bin."
        )
    vocabulary = _vocabulary(folder)
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(MISSING) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(str(models[0]), options)
    names = [each.name for each in session.get_inputs()]  # tokens or input_ids, style, speed

    def model(tokens: np.ndarray, style: np.ndarray, speed: np.ndarray) -> np.ndarray:
        return session.run(None, dict(zip(names, (tokens, style, speed), strict=True)))[0]

    return Kokoro(
        model=model,
        phonemes=load_espeak(),
        vocabulary=vocabulary,
        styles={
            name: np.fromfile(path, dtype=np.float32).reshape(-1, STYLE_WIDTH)
            for name, path in voices.items()
        },
    )


def load_espeak() -> Callable[[str, str], str]:
    """eSpeak NG as a function of text and language (en-us or en-gb)."""
    try:
        import espeakng_loader
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper
    except ImportError as error:
        raise ValueError(MISSING) from error
    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    backends = {
        language: EspeakBackend(language, preserve_punctuation=True, with_stress=True)
        for language in ENGLISH.values()
    }
    lock = threading.Lock()  # its state is global

    def phonemes(text: str, language: str) -> str:
        with lock:
            return backends[language].phonemize([text], strip=True)[0]

    return phonemes


def _vocabulary(folder: Path) -> dict[str, int]:
    for path in (folder / name for name in ("tokenizer.json", "vocab.json", "config.json")):
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            found = content.get("vocab") or content.get("model", {}).get("vocab")
            if found:
                return found
    raise ValueError(f"{folder} has no tokenizer.json, vocab.json or config.json with a 'vocab'.")
