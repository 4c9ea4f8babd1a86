"""Made-up speech: voices that differ, captions that are true, a model that is fed rightly."""

import sys
from pathlib import Path

import numpy as np
import pytest

from corpora.speech import formants
from corpora.speech.kokoro import Kokoro, load_kokoro
from corpora.speech.sentences import sentence
from corpora.speech.voices import Voice, kokoro_voice, speech_captions, unseen_captions


def spoken(text: str, name: str = "middle", *, speed: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    voice = formants.VOICES[name]
    return formants.speak(text, voice, speed=speed, sample_rate=16_000, rng=rng)


def test_sentences_are_many_and_the_same_for_a_seed() -> None:
    texts = [sentence(np.random.default_rng([5, n])) for n in range(500)]
    assert len(set(texts)) > 490
    assert texts == [sentence(np.random.default_rng([5, n])) for n in range(500)]
    for text in texts:
        assert text[0].isupper()
        assert text[-1] in ".?"
        assert not set("{}|") & set(text)
        assert " a o" not in text
        assert len(text) < 100


def pitch(samples: np.ndarray) -> float:
    """Hz, by the highest peak of the mean cepstrum between 70 and 400 Hz."""
    frames = [samples[at : at + 800] * np.hanning(800) for at in range(0, len(samples) - 800, 200)]
    spectra = [np.log(np.abs(np.fft.rfft(frame, 2048)) + 1e-3) for frame in frames]
    cepstrum = np.fft.irfft(np.mean(spectra, axis=0))
    lags = np.arange(16_000 // 400, 16_000 // 70)
    return 16_000 / lags[np.argmax(cepstrum[lags])]


def test_each_voice_has_its_pitch_and_speed_its_length() -> None:
    for name, voice in formants.VOICES.items():
        speech = spoken("aaaaaa", name)
        assert pitch(speech) == pytest.approx(voice.pitch, rel=0.2)
        assert np.abs(speech).max() == pytest.approx(0.5)
    slow, quick = (len(spoken("so it goes", speed=speed)) for speed in (0.8, 1.6))
    assert slow == pytest.approx(2 * quick, rel=0.05)
    assert np.array_equal(spoken("hello"), spoken("hello"))
    assert not np.array_equal(spoken("hello"), spoken("hello", seed=1)[: len(spoken("hello"))])


def test_letters_sound_different() -> None:
    def centroid(text: str) -> float:
        spectrum = np.abs(np.fft.rfft(spoken(text))) ** 2
        return float(
            (spectrum * np.fft.rfftfreq(len(spoken(text)), 1 / 16_000)).sum() / spectrum.sum()
        )

    assert centroid("uuu") < centroid("iii") < centroid("sss")
    pause = spoken("a. a")
    middle = pause[len(pause) * 2 // 5 : len(pause) * 3 // 5]
    assert np.abs(middle).max() < 0.01


def test_captions_say_what_is_known_of_a_voice() -> None:
    assert kokoro_voice("bf_emma") == Voice(name="bf_emma", person="woman", accent="British")
    assert kokoro_voice("am_adam") == Voice(name="am_adam", person="man", accent="American")
    assert kokoro_voice("Ann") == Voice(name="Ann", person="person")
    everything: set[str] = set()
    for number in range(200):
        rng = np.random.default_rng(number)
        captions = speech_captions(kokoro_voice("bf_emma"), "Hello you.", speed=1.0, rng=rng)
        assert len(captions) == 6
        assert sum('"Hello you."' in caption for caption in captions) == 2
        everything.update(captions)
    assert "a British woman speaks" in everything
    assert "a female voice with a British accent talking" in everything
    assert not any("American" in text or " man" in text or "ly" in text for text in everything)
    unseen = unseen_captions(kokoro_voice("bf_emma"))
    assert len(set(unseen)) == len(unseen) > 12
    assert not everything & set(unseen)


@pytest.mark.parametrize(("speed", "pace"), [(0.9, "slowly"), (1.2, "quickly")])
def test_captions_say_the_pace(speed: float, pace: str) -> None:
    rng = np.random.default_rng(0)
    captions = speech_captions(kokoro_voice("am_adam"), "Hello.", speed=speed, rng=rng)
    assert sum(caption.endswith(pace) for caption in captions) == 2


def test_kokoro_is_given_phonemes_between_zeros_and_the_style_of_their_number() -> None:
    fed = []

    def model(tokens: np.ndarray, style: np.ndarray, speed: np.ndarray) -> np.ndarray:
        fed.append((tokens.tolist(), style.shape, style[0, 0], speed.tolist()))
        return np.zeros((1, 240), dtype=np.float32)

    style = np.arange(510, dtype=np.float32)[:, None].repeat(256, axis=1)
    kokoro = Kokoro(
        model=model,
        phonemes=lambda text, language: {"en-us": "", "en-gb": "b"}[language] + text + "~",
        vocabulary={"a": 3, "b": 4, " ": 9},
        styles={"af_x": style, "bm_y": style},
    )
    assert kokoro.speak("a ba", "af_x", speed=0.9).shape == (240,)
    kokoro.speak("a", "bm_y")
    kokoro.speak("a" * 510, "af_x")
    assert fed[0] == ([[0, 3, 9, 4, 3, 0]], (1, 256), 4.0, [pytest.approx(0.9)])
    assert fed[1][0] == [[0, 4, 3, 0]]
    assert fed[2][2] == 509.0
    for text, count in (("a" * 511, 511), ("?", 0)):
        with pytest.raises(ValueError, match=rf"has {count} phonemes; Kokoro takes 1 to 510 at"):
            kokoro.speak(text, "af_x")


def test_what_kokoro_lacks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"has 0 models and 0 English voices; pass a copy of"):
        load_kokoro(tmp_path)
    (tmp_path / "voices").mkdir()
    (tmp_path / "model.onnx").touch()
    np.zeros((510, 256), dtype=np.float32).tofile(tmp_path / "voices" / "af_x.bin")
    with pytest.raises(ValueError, match=r"has no tokenizer.json, vocab.json or config.json with"):
        load_kokoro(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 1}}}')
    with pytest.raises(ValueError, match=r"needs ONNX Runtime and eSpeak NG; install them with"):
        load_kokoro(tmp_path)
