"""The recipe for the stages of language models: mistakes, each told in one sentence."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lm_audio.cli.recipe import run_recipe
from lm_audio.pretrained import CODEC_FOLDER

pytestmark = pytest.mark.usefixtures("steady_weights")

Run = tuple[Any, list[float]]
"""The settings and the losses of a whole run."""


@pytest.mark.parametrize("channels", [None, 2])
def test_shards_of_another_number_of_channels_are_a_mistake(
    train_stage: ModuleType,
    tiny_stage: Callable[..., Any],
    token_shards: Path,
    stereo_shards: Path,
    tmp_path: Path,
    channels: int | None,
) -> None:
    data = (stereo_shards if channels is None else token_shards,)
    with pytest.raises(ValueError, match="--codec with --channels is"):
        train_stage.main(
            tiny_stage("audiocraft acoustic", out=tmp_path, data=data, channels=channels)
        )


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("duet acoustic", "--codec"),
        ("audiolm coarse", "--codec"),
        ("audiolm fine", "--codec"),
        ("audiocraft acoustic", "--codec with --channels"),
    ],
)
def test_the_tokens_of_another_codec_are_a_mistake(
    train_stage: ModuleType, tiny_stage: Callable[..., Any], tmp_path: Path, name: str, option: str
) -> None:
    message = rf"The data's tokens were made by .*, but {option} is"
    with pytest.raises(ValueError, match=message):
        train_stage.main(tiny_stage(name, out=tmp_path, codec=CODEC_FOLDER))


@pytest.mark.parametrize(
    "name", ["duet semantic", "duet acoustic", "audiolm semantic", "audiolm coarse"]
)
def test_shards_without_semantic_tokens_are_a_mistake(
    train_stage: ModuleType,
    tiny_stage: Callable[..., Any],
    change_shards: Callable[..., Path],
    tmp_path: Path,
    name: str,
) -> None:
    change_shards(tmp_path, semantic=None)
    with pytest.raises(ValueError, match="The shards have acoustic but no semantic tokens"):
        train_stage.main(tiny_stage(name, data=(tmp_path,), out=tmp_path))


@pytest.mark.parametrize("name", ["audiolm coarse", "audiolm fine"])
def test_coarse_codebooks_leave_some_to_the_fine_stage(
    train_stage: ModuleType, tiny_stage: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match=r"--num-coarse must be from 1 to 3, since .* got 4"):
        train_stage.main(tiny_stage(name, out=tmp_path, num_coarse=4))


@pytest.mark.parametrize("name", ["speaker", "text"])
def test_labels_that_the_data_lacks_are_a_mistake(
    train_stage: ModuleType, tiny_stage: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match=f"Unknown label '{name}'. The data has: label"):
        train_stage.main(tiny_stage("audiocraft acoustic", out=tmp_path, labels=(name,)))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("audiolm fine", "coarse", "A complete model needs --semantic and"),
        ("audiolm fine", "semantic_tokenizer", "A complete model needs --semantic and"),
        ("duet acoustic", "semantic_tokenizer", "--semantic-tokenizer has no effect"),
    ],
)
def test_half_a_model_is_a_mistake(
    train_stage: ModuleType,
    tiny_stage: Callable[..., Any],
    tmp_path: Path,
    name: str,
    given: str,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        train_stage.main(tiny_stage(name, out=tmp_path, **{given: tmp_path}))


def test_stages_that_do_not_fit_are_refused_before_training(
    train_stage: ModuleType, trained: Callable[[str], Run], tmp_path: Path
) -> None:
    config = replace(trained("audiolm fine")[0], out=tmp_path, num_coarse=1)
    with pytest.raises(ValueError, match=r"stages have 5 rows .* the renderer expects 4"):
        train_stage.main(config)
    assert not (tmp_path / "checkpoints").exists()


def test_another_semantic_tokenizer_is_a_mistake(
    train_stage: ModuleType, trained: Callable[[str], Run], token_shards: Path, tmp_path: Path
) -> None:
    config = replace(trained("audiolm fine")[0], out=tmp_path, data=(token_shards,))
    with pytest.raises(ValueError, match=r"made by made up, but --semantic-tokenizer is"):
        train_stage.main(config)


def test_a_semantic_stage_of_other_tokens_is_a_mistake(
    train_stage: ModuleType,
    tiny_stage: Callable[..., Any],
    trained: Callable[[str], Run],
    change_shards: Callable[..., Path],
    tmp_path: Path,
) -> None:
    change_shards(tmp_path, semantic=lambda stream: replace(stream, identity="trained anew"))
    semantic = trained("duet semantic")[0].out
    config = tiny_stage("duet acoustic", data=(tmp_path,), out=tmp_path / "out", semantic=semantic)
    with pytest.raises(ValueError, match=r"was trained on semantic tokens of .* from trained anew"):
        train_stage.main(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "audiolm", "--t5", "t5-small"], "--t5"),
        (["--family", "audiolm", "--acoustic", "runs"], "--acoustic"),
        (["--family", "audiogen"], "unknown family 'audiogen'; choose one of: duet, audiolm,"),
        (["--family", "audiolm", "--stage", "acoustic"], "choose one of: semantic, coarse, fine."),
        (["--family", "audiolm", "--stage", "fine", "--preset", "default"], "tiny, small, paper."),
    ],
)
def test_the_command_line_takes_the_options_of_the_stage_alone(
    train_stage: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["train_stage.py", *arguments])
    options = ("family", "stage", "preset")
    with pytest.raises(SystemExit) as stopped:
        run_recipe(train_stage.main, train_stage.PRESETS, options=options, description=None)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
