"""Speech to text by public recognisers: Whisper, CTC models, and Whisper for CTranslate2.

Shapes: N samples.
"""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lm_audio.evaluation.judges.pretrained import load_feature_extractor, load_pretrained

SAMPLE_RATE = 16_000
_MOST_TOKENS = 224  # half of Whisper's context, as its authors decode a window


class SpeechRecognizer(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def sample_rate(self) -> int: ...

    def __call__(self, samples: Tensor) -> str:
        """The transcript of samples [N]."""


def load_recognizer(source: str | Path, *, device: str = "cpu") -> SpeechRecognizer:
    """Loads a recogniser from a folder or by hub id, detecting its kind.

    A folder with `model.bin` and no `config.json` that names a model type is one of CTranslate2,
    read by faster-whisper.
    """
    from transformers import AutoConfig

    if (Path(source) / "model.bin").is_file():
        return FasterWhisper(source, device=device)
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"No speech recogniser found at {source}. Give a folder or hub id of Whisper or of a "
            "CTC model, or a folder of faster-whisper."
        ) from error
    kinds = {"whisper": Whisper}
    return kinds.get(config.model_type, CtcRecognizer)(source, device=device)


class Whisper:
    """Whisper through transformers: greedy, window by window of 30 seconds, without timestamps."""

    def __init__(self, source: str | Path, *, device: str = "cpu") -> None:
        from transformers import AutoTokenizer, WhisperForConditionalGeneration

        self._model = load_pretrained(WhisperForConditionalGeneration, source, device=device)
        self._extractor = load_feature_extractor(source)
        self._tokenizer = AutoTokenizer.from_pretrained(source)
        self.sample_rate: int = self._extractor.sampling_rate
        self.name = f"{source} (transformers Whisper, greedy, windows of 30 s)"

    @torch.inference_mode()
    def __call__(self, samples: Tensor) -> str:
        windows = [x.cpu().numpy() for x in samples.split(self._extractor.n_samples)]
        inputs = self._extractor(windows, sampling_rate=self.sample_rate, return_tensors="pt")
        features = inputs.input_features.to(self._model.device)
        length = min(_MOST_TOKENS, self._model.config.max_target_positions // 2)
        tokens = self._model.generate(features, max_new_tokens=length, num_beams=1, do_sample=False)
        texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return " ".join(text.strip() for text in texts)


class CtcRecognizer:
    """wav2vec 2, HuBERT, WavLM and others with CTC, through transformers: the best path."""

    def __init__(self, source: str | Path, *, device: str = "cpu") -> None:
        from transformers import AutoModelForCTC, AutoTokenizer

        self._model = load_pretrained(AutoModelForCTC, source, device=device)
        self._extractor = load_feature_extractor(source)
        self._tokenizer = AutoTokenizer.from_pretrained(source)
        self.sample_rate: int = self._extractor.sampling_rate
        self.name = f"{source} (transformers {type(self._model).__name__}, best path)"

    @torch.inference_mode()
    def __call__(self, samples: Tensor) -> str:
        inputs = self._extractor(
            samples.cpu().numpy(), sampling_rate=self.sample_rate, return_tensors="pt"
        ).to(self._model.device)
        tokens = self._model(**inputs).logits.argmax(dim=-1)[0]
        return str(self._tokenizer.decode(tokens)).strip()


class FasterWhisper:
    """Whisper as faster-whisper runs it: by default with beams of 5; here greedy, in English."""

    sample_rate = SAMPLE_RATE

    def __init__(self, source: str | Path, *, device: str = "cpu", language: str = "en") -> None:
        try:
            from faster_whisper import WhisperModel
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{source} needs faster-whisper. Install it with: pip install faster-whisper."
            ) from error
        self._model: Any = WhisperModel(str(source), device=device.split(":")[0])
        self._language = language
        self.name = f"{source} (faster-whisper, greedy, {language})"

    def __call__(self, samples: Tensor) -> str:
        segments, _ = self._model.transcribe(
            samples.cpu().numpy(),
            language=self._language,
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
        )
        return " ".join(segment.text.strip() for segment in segments)
