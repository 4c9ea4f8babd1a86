"""Loads the requested judges."""

from dataclasses import dataclass
from pathlib import Path

from lm_audio.evaluation.judges.clap import Clap
from lm_audio.evaluation.judges.classifier import AudioClassifier, TransformersClassifier
from lm_audio.evaluation.judges.dnsmos import Dnsmos
from lm_audio.evaluation.judges.embedding import AudioEmbedding, LogMelStatistics
from lm_audio.evaluation.judges.speakers import load_speaker_embedding
from lm_audio.evaluation.judges.speech_recognition import SpeechRecognizer, load_recognizer
from lm_audio.evaluation.judges.vggish import load_vggish
from lm_audio.evaluation.judges.yamnet import YamNet


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The loaded judges; None for those that were not requested."""

    embeddings: tuple[AudioEmbedding, ...] = ()
    classifiers: tuple[AudioClassifier, ...] = ()
    clap: Clap | None = None
    recognizer: SpeechRecognizer | None = None
    voices: AudioEmbedding | None = None
    dnsmos: Dnsmos | None = None


def load_judges(
    *,
    clap: str | None = None,
    vggish: Path | None = None,
    yamnet: Path | None = None,
    classifier: str | None = None,
    asr: str | None = None,
    voices: str | None = None,
    dnsmos: str | None = None,
    device: str = "cpu",
) -> Judges:
    """Loads judges by path, hub id or name; always includes log-mel statistics."""
    embeddings: list[AudioEmbedding] = [LogMelStatistics()]
    classifiers: list[AudioClassifier] = []
    text_and_sound = None if clap is None else Clap(clap, device=device)
    if text_and_sound is not None:
        embeddings.append(text_and_sound)
    if vggish is not None:
        embeddings.append(load_vggish(vggish, device=device))
    if yamnet is not None:
        network = YamNet(yamnet)
        embeddings.append(network)
        classifiers.append(network.classifier())
    if classifier is not None:
        classifiers.append(TransformersClassifier(classifier, device=device))
    return Judges(
        embeddings=tuple(embeddings),
        classifiers=tuple(classifiers),
        clap=text_and_sound,
        recognizer=None if asr is None else load_recognizer(asr, device=device),
        voices=None if voices is None else load_speaker_embedding(voices, device=device),
        dnsmos=None if dnsmos is None else Dnsmos(dnsmos),
    )
