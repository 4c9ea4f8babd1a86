"""What the page says of a clip makes that clip again: as a command, and as Python."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lm_audio
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from lm_audio.app.clip_settings import ClipSettings, read_seed
from lm_audio.cli import main
from lm_audio.clip import Clip
from lm_audio.origin import command, read_origin
from lm_audio.pipeline import AudioPipeline


@pytest.fixture(scope="module")
def model(model_folder: Path) -> AudioPipeline:
    return lm_audio.load(model_folder, device="cpu")


TAKES: list[dict[str, Any]] = [
    {"verb": "generate", "text": "rain", "duration": 0.3},
    {"verb": "generate", "text": "a dog", "negative": "rain", "guidance_scale": 2.5, "duration": 1},
    {"verb": "generate", "seed": 2**31 + 1, "duration": 0.2},
    {"verb": "continue", "audio": Path("a dog.wav"), "duration": 0.2},
    {"verb": "continue", "audio": Path("a dog.wav"), "text": "rain", "duration": 0.2},
    {"verb": "inpaint", "audio": Path("a dog.wav"), "text": "rain", "span": (0.1, 0.25)},
]


@pytest.mark.parametrize("given", TAKES, ids=range(len(TAKES)))
def test_a_clip_is_made_again_by_what_is_said_of_it(
    given: dict[str, Any],
    model: AudioPipeline,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_audio(tmp_path / "a dog.wav", 0.1 * torch.ones(1, 12_000), 24_000)
    settings = ClipSettings(model=str(model_folder), **{"seed": 5, **given})
    shares: list[float] = []
    *pieces, clip = settings.make(model, shares.append)
    assert isinstance(clip, Clip)
    clip.save("made.wav")
    if settings.verb != "inpaint":
        new = torch.cat([piece for piece in pieces if isinstance(piece, Tensor)], dim=1)
        assert torch.equal(clip.samples[:, -new.shape[1] :], new)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    stored = shlex.split(str(command(read_origin("made.wav"))))
    main([stored[1], "-o", "stored.wav", *stored[2:]])
    assert torch.equal(read_audio("stored.wav").samples, read_audio("made.wav").samples)
    words = shlex.split(settings.command())
    assert words.pop(0) == "lm-audio"
    main([*words, "--device", "cpu"])
    assert torch.equal(read_audio("clip.wav").samples, read_audio("made.wav").samples)
    exec(settings.python(), {})
    assert torch.equal(read_audio("clip.wav").samples, read_audio("made.wav").samples)


def test_the_model_in_the_package_needs_no_name() -> None:
    settings = ClipSettings(verb="generate", seed=7, text="rain on a roof")
    assert settings.command() == (
        "lm-audio generate 'rain on a roof' --duration 5 --seed 7 -o clip.wav"
    )
    assert settings.python().splitlines()[2:] == [
        "model = lm_audio.load()",
        "clip = model.generate('rain on a roof', duration=5.0, seed=7)",
        'clip.save("clip.wav")',
    ]
    assert settings.title == "rain on a roof (seed 7)"
    assert settings.next().seed == 8


def test_a_seed_is_read_from_text_and_drawn_where_there_is_none() -> None:
    assert read_seed(" 42 ") == 42
    drawn = {read_seed(text) for text in ("", "  ", None, "")}
    assert len(drawn) > 1
    for text in ("-1", "1.5", "seven", "1e3"):
        with pytest.raises(ValueError, match="use a whole number from 0, or leave it empty"):
            read_seed(text)


@pytest.mark.parametrize("verb", ["continue", "inpaint"])
def test_without_a_sound_there_is_nothing_to_go_on_from(verb: Any, model: AudioPipeline) -> None:
    with pytest.raises(ValueError, match="There is no sound yet; upload a file or record one"):
        next(ClipSettings(verb=verb, seed=1).make(model, print))
