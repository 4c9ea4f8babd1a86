"""Weights of files against those that a model expects."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DacConfig, DacModel, MimiModel

from audio_tokenizers.weights import (
    MappedFile,
    check_weights,
    load_transformers,
    read_safetensors,
)

Edit = Callable[[dict[str, torch.Tensor]], object]
BIAS = "encoder.conv1.bias"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The smallest DAC, saved by transformers."""
    settings: dict[str, object] = {"downsampling_ratios": [2], "n_codebooks": 1, "codebook_size": 4}
    widths = {"encoder_hidden_size": 2, "decoder_hidden_size": 4}
    DacModel(DacConfig(**settings, **widths)).save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder: Path, edit: Edit) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_whole_file_is_read_and_a_torn_one_is_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    expected = load_file(file)
    found = read_safetensors(file)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    whole = file.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"model.safetensors is not a complete safetensors"):
            read_safetensors(file)
        with pytest.raises(ValueError, match=rf"{folder} is not a complete safetensors file"):
            load_transformers(DacModel, folder, kind="dac")


def test_weights_that_do_not_fit_are_all_named_in_one_sentence() -> None:
    expected = {"a": torch.zeros(2, 3), "b": torch.zeros(1), "c": torch.zeros(4)}
    check_weights({"c": torch.ones(4), "b": torch.ones(1), "a": torch.ones(2, 3)}, expected,
                  source="x")  # fmt: skip
    found = {"a": torch.zeros(3, 2), "d": torch.zeros(1), "c": torch.zeros(4)}
    message = (
        r"^x: missing or unexpected weights: b, d; weight shapes that do not match its "
        r"header: a \(\[3, 2\] instead of \[2, 3\]\)\.$"
    )
    with pytest.raises(ValueError, match=message):
        check_weights(found, expected, source="x", settings="its header")


def test_a_model_of_transformers_gets_the_values_of_its_file_in_float32(folder: Path) -> None:
    rewrite(folder, lambda weights: weights.update({k: v.half() for k, v in weights.items()}))
    expected = load_file(folder / "model.safetensors")
    loaded = load_transformers(DacModel, folder, kind="dac").state_dict()
    assert loaded.keys() == expected.keys()
    for name, value in expected.items():
        assert value.dtype == torch.float16
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], value.float())


@pytest.mark.parametrize(("edit", "message"), [
    (lambda weights: weights.pop(BIAS), rf": missing or unexpected weights: {BIAS}\.$"),
    (lambda weights: weights.update(extra=torch.zeros(1)), r" unexpected weights: extra\.$"),
    (lambda weights: weights.update({BIAS: torch.zeros(3)}),
     rf": weight shapes that do not match config.json: {BIAS}\.$"),
    (lambda weights: weights.update({"extra": weights.pop(BIAS), "encoder.conv2.bias":
                                     torch.zeros(7)}),
     rf"weights: {BIAS}, extra; weight shapes .* config.json: encoder.conv2.bias\.$"),
])  # fmt: skip
def test_a_model_of_transformers_that_does_not_fit_is_refused(
    folder: Path, edit: Edit, message: str
) -> None:
    rewrite(folder, edit)
    with pytest.raises(ValueError, match=message):
        load_transformers(DacModel, folder, kind="dac")


def test_another_kind_of_model_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"a model of type dac; expected type mimi\.$"):
        load_transformers(MimiModel, folder, kind="mimi")


def test_a_mapped_file_has_the_tensors_of_the_file_and_can_be_released(tmp_path: Path) -> None:
    weights = {
        "a": torch.randn(3, 5),
        "b": torch.arange(7),
        "c": torch.randn(2, 2).bfloat16(),
        "d": torch.zeros(0, 4),
        "e": torch.tensor(2.5, dtype=torch.float64),
        "f": torch.tensor([True, False]),
    }
    path = tmp_path / "model.safetensors"
    save_file(weights, path, {"format": "pt"})
    file = MappedFile(path)
    assert file.tensors.keys() == weights.keys()
    for _ in range(2):
        for name, weight in weights.items():
            assert file.tensors[name].dtype == weight.dtype
            assert torch.equal(file.tensors[name], weight)
        file.release()


def test_a_truncated_file_is_not_mapped(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.randn(100)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is not a complete safetensors file; download it again"):
        MappedFile(path)


def test_many_weights_are_not_all_listed() -> None:
    found = {f"w{i:03}": torch.zeros(1) for i in range(300)}
    with pytest.raises(ValueError, match=r"weights: w000, .*, w007, and 292 more\.$"):
        check_weights(found, {}, source="x")
