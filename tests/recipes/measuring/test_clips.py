"""All metrics of clips together, by judges whose answers are known."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from audio_tokenizers.audio_writer import write_audio
from lm_audio.evaluation.clips import ClipFile
from lm_audio.evaluation.judges.embedding import LogMelStatistics
from lm_audio.evaluation.judges.loading import Judges, load_judges
from lm_audio.evaluation.report import Measurement
from measuring.clips import measure_clips

RATE = 8000


def pitch(samples: Tensor) -> Tensor:
    """How many hundred Hz the tones of samples [B, N] have: [B]."""
    return torch.fft.rfft(samples).abs().argmax(dim=1) * RATE / samples.shape[1] / 100


class PitchVector:
    """Embeds a tone as a direction that depends on its pitch alone."""

    name, sample_rate = "pitch", RATE

    def __call__(self, samples: Tensor) -> Tensor:
        angle = pitch(samples)[:, None] / 20
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class HighOrLow:
    name, sample_rate, labels = "high or low", RATE, ("low", "high")

    def __call__(self, samples: Tensor) -> Tensor:
        return torch.tensor([[0.9, 0.1] if x < 10 else [0.1, 0.9] for x in pitch(samples)])


class SaysThePitch:
    name, sample_rate = "pitch to words", RATE

    def __call__(self, samples: Tensor) -> str:
        return f"hundred times {round(float(pitch(samples[None])))}"


def tone(folder: Path, name: str, hundreds: int, **known: str) -> ClipFile:
    time = torch.arange(RATE) / RATE
    samples = 0.5 * torch.sin(2 * torch.pi * 100 * hundreds * time)
    write_audio(folder / f"{name}.wav", samples[None], RATE)
    return ClipFile(name=name, path=folder / f"{name}.wav", **known)  # type: ignore[arg-type]


def measured(
    generated: list[ClipFile], real: list[ClipFile], judges: Judges
) -> dict[str, Measurement]:
    return {row.metric: row for row in measure_clips(generated, real, judges)}


def test_each_judge_gives_what_is_known(tmp_path: Path) -> None:
    real = [
        tone(tmp_path / "real", "a", 3, speaker="ann", label="low"),
        tone(tmp_path / "real", "b", 4, speaker="ann", label="low"),
        tone(tmp_path / "real", "c", 20, speaker="bob", label="high"),
        tone(tmp_path / "real", "d", 22, speaker="bob", label="high"),
    ]
    generated = [
        tone(tmp_path, "a", 3, speaker="ann", label="low", transcript="Hundred times 3."),
        tone(tmp_path, "c", 3, speaker="bob", label="high", transcript="hundred times 20"),
        tone(tmp_path, "e", 21, speaker="bob", label="high", transcript="hundred times 21"),
    ]
    voices = PitchVector()
    judges = Judges(
        embeddings=(voices,),
        classifiers=(HighOrLow(),),
        recognizer=SaysThePitch(),
        voices=voices,
    )
    found = measured(generated, real, judges)
    assert found["label accuracy, high or low"].value == pytest.approx(2 / 3)
    wrong = 0.9 * torch.tensor(9.0).log() - 0.1 * torch.tensor(9.0).log()
    divergence = found["KL divergence, high or low"]  # of the pairs a, right, and c, wrong
    assert divergence.value == pytest.approx(float(wrong) / 2, abs=1e-4)
    assert divergence.num_items == 2
    assert found["word error rate"].value == pytest.approx(1 / 9)
    assert found["speaker classification accuracy"].value == pytest.approx(2 / 3)
    cosine = torch.tensor((20 - 3) / 20.0).cos()
    similarity = found["speaker similarity"].value
    assert similarity == pytest.approx(float(1 + cosine) / 2, abs=1e-4)
    assert found["Frechet distance, pitch"].value is not None
    assert found["5-NN label accuracy, pitch"].num_items == 3
    assert found["CLAP score"].note == "no CLAP model; pass --clap"


def test_a_clip_is_not_its_own_neighbour(tmp_path: Path) -> None:
    """Each real clip is alone of its label: its reconstruction must not find it."""
    real = [tone(tmp_path, name, n, label=name) for name, n in (("a", 3), ("b", 9), ("c", 20))]
    found = measured(real, real, Judges(embeddings=(PitchVector(),)))
    assert found["5-NN label accuracy, pitch"].value == 0.0
    alone = measured(real[:1], real[:1], Judges(embeddings=(PitchVector(),)))
    assert alone["5-NN label accuracy, pitch"].note.startswith("a clip has no real neighbour")
    assert alone["Frechet distance, pitch"].note.startswith("needs at least two windows")


def test_what_is_not_known_of_clips_is_the_reason(tmp_path: Path) -> None:
    clips = [tone(tmp_path, "a", 3), tone(tmp_path, "b", 4)]
    judges = Judges(
        embeddings=(LogMelStatistics(),),
        classifiers=(HighOrLow(),),
        recognizer=SaysThePitch(),
        voices=PitchVector(),
    )
    found = measured(clips, clips, judges)
    reasons = {name: row.note for name, row in found.items() if row.value is None}
    assert reasons["word error rate"] == "the clips have no transcripts"
    assert reasons["label accuracy, high or low"].startswith("no clip has one of the")
    assert reasons["speaker classification accuracy"].startswith("needs real clips of at least")
    assert reasons["Frechet audio distance, trained embedding"].startswith("no trained embedding")
    without_real = measured(clips, [], judges)
    for metric in ("KL divergence, high or low", "speaker similarity"):
        assert without_real[metric].note == "no real clips; pass --real"
    unpaired = measured(clips[:1], clips[1:], judges)
    assert (
        unpaired["speaker similarity"].note == "no real clip has the same name as a generated one"
    )


def test_without_wishes_the_judges_need_no_weights() -> None:
    judges = load_judges()
    assert [x.name for x in judges.embeddings] == [LogMelStatistics.name]
    assert judges == Judges(embeddings=judges.embeddings)
