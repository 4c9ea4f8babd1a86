"""models and info, as they are typed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lm_audio
from lm_audio.cli import main


def test_models_are_listed_with_size_licence_rate_and_abilities(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["models"])
    titles, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == [model.name for model in lm_audio.models()]
    assert titles.split()[0] == "name"
    (row,) = [row for row in rows if row.startswith("musicgen-small ")]
    expected = ["420 million", "2.4 GB", "32000 Hz mono", "text, continue, inpaint", "CC-BY-NC-4.0"]
    assert [text for text in expected if text not in row] == []


def test_info_of_a_folder_needs_no_loading(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["info", str(model_folder)])
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    model = lm_audio.load(model_folder)
    codec = "frame-codec"
    acoustic = model.stages["acoustic"].model.train()  # unpacked
    count = sum(weight.numel() for weight in acoustic.parameters())
    assert shown == {
        "format": "lm-audio",
        "licence": "Apache-2.0",
        "output": "24000 Hz mono",
        "codec": f"{codec}, 4 codebooks of {model.renderer.codebook_size}",
        "conditions": "text, kind, pitch",
        "stage": f"acoustic: {count} parameters, 4 codebooks at 50 Hz, window of 2.0 s",
    }


def test_info_of_a_public_model_is_its_card(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", "musicgen-stereo-large"])
    by_name = capsys.readouterr().out
    assert "3.29 billion" in by_name
    assert "32000 Hz stereo" in by_name
    main(["info", "facebook/musicgen-stereo-large"])
    assert capsys.readouterr().out == by_name


def test_info_of_no_model_gets_one_line(
    tmp_path: Path, fails_with: Callable[[list[str]], str]
) -> None:
    assert "Found no model" in fails_with(["info", str(tmp_path)])
    assert "Did you mean bark-small" in fails_with(["info", "bark-smal"])


def test_a_rave_model_shows_its_latents_and_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from audio_tokenizers.acoustic.rave import RaveCodec, save_rave, tiny

    codec = RaveCodec(tiny(causal=True), trainable=False)
    save_rave(codec, tmp_path)
    main(["info", str(tmp_path)])
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["format"] == "RAVE, causal"
    assert shown["sound"] == "8000 Hz mono"
    assert shown["latents"] == "8 at 62.50 Hz"
    assert shown["tokens"].startswith("none; fit codebooks with")
    assert shown["latency"] == "25.0 ms in blocks of 128 samples"
    codec.set_codebooks(torch.ones(2, 16, 3))
    save_rave(codec, tmp_path)
    main(["info", str(tmp_path)])
    assert "tokens      2 codebooks of 16 for 3 latents" in capsys.readouterr().out
