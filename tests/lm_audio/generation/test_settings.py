"""The settings of a clip: what every entrance stores, and the command that makes the clip again."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lm_audio
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from lm_audio.cli import main
from lm_audio.origin import command, read_origin
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Sampling

OWN = Sampling()


@pytest.fixture(scope="module")
def model(model_folder: Path) -> AudioPipeline:
    return lm_audio.load(model_folder, device="cpu")


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("generate", ("rain",), {"duration": 0.2}),
    ("generate", (), {"duration": 0.123456, "raw": True, "sampling": replace(OWN, top_k=9)}),
    ("generate", ("a dog",), {"duration": 0.2, "conditions": {"kind": "soft", "pitch": 2.5}}),
    ("continue_from", ("-in.wav",), {"duration": 0.2, "text": "rain", "negative": "a dog"}),
    ("inpaint", ("-in.wav",), {"start": 0.1, "end": 0.25, "num_candidates": 2}),
]


@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
def test_a_clip_saved_from_python_names_the_command_that_makes_it_again(
    call: tuple[str, tuple[Any, ...], dict[str, Any]],
    model: AudioPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_audio("-in.wav", 0.1 * torch.ones(1, 12_000), 24_000)
    method, given, options = call
    getattr(model, method)(*given, seed=7, **options).save("clip.wav")
    main(["info", "clip.wav"])
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    words = shlex.split(shown["command"])[1:]
    main([words[0], "-o", "again.wav", *words[1:]])
    assert read_origin("again.wav") == read_origin("clip.wav")
    assert torch.equal(read_audio("again.wav").samples, read_audio("clip.wav").samples)


def test_clips_of_one_call_have_settings_of_their_own(model: AudioPipeline) -> None:
    clips = model.generate(["rain", None], duration=[0.1, 0.2], seed=[1, 2])
    assert [
        (x.settings.get("prompt"), x.settings["duration"], x.settings["seed"]) for x in clips
    ] == [("rain", 0.1, 1), (None, 0.2, 2)]


def test_samples_and_models_made_in_python_have_placeholders(model: AudioPipeline) -> None:
    made = AudioPipeline(model.model)
    clip = made.continue_from((torch.zeros(1, 2_400), 24_000), duration=0.1, seed=1)
    assert command(clip.settings) == (
        "lm-audio continue AUDIO --seed 1 --duration 0.1 --device cpu --model MODEL"
    )


def test_settings_that_the_command_line_lacks_give_no_command(model: AudioPipeline) -> None:
    (name,) = model.stages
    scales = replace(OWN, guidance_scale={"text": 2.0, "kind": 1.0}, repetition_window=9)
    clip = model.generate("rain", duration=0.1, seed=1, sampling={name: scales})
    assert clip.settings["guidance_scale"] == {"text": 2.0, "kind": 1.0}
    assert clip.settings["repetition_window"] == 9
    assert command(clip.settings) is None
    story = [(0.0, "a dog"), (0.1, "rain")]
    assert "--story" in str(command(model.generate(story, duration=0.2, seed=1).settings))
    longer = model.continue_from(clip, duration=0.2, text=story, seed=1)
    assert command(longer.settings) is None
