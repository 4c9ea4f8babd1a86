"""Copies of models with other weights in the network."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lm_audio
from lm_audio.families.table import FORMATS
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.saving.replaced_network import WEIGHTS, replace_network
from tests.lm_audio.families.riffusion import conftest as riffusion
from tests.lm_audio.families.stable_audio import conftest as stable_audio


def changed(folder: Path) -> torch.nn.Module:
    """The network of a model with other weights."""
    network = network_of(folder)
    torch.manual_seed(1)
    for weight in network.parameters():
        weight.data = weight.data + 0.1 * torch.randn_like(weight)
    return network


def network_of(folder: Path) -> torch.nn.Module:
    (stage,) = lm_audio.load(folder).stages.values()
    assert isinstance(stage, DiffusionStage)
    assert isinstance(stage.network, torch.nn.Module)
    return stage.network


def write(source: Path, target: Path, network: torch.nn.Module, *, layout: str) -> None:
    files = FORMATS[layout].network
    assert files is not None
    replace_network(source, target, network, folder=files.folder, names=files.names)


def test_matrices_that_are_stored_in_one_are_all_written(tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    pytest.importorskip("diffusers", minversion="0.42")
    from tests.lm_audio.families.stable_audio.test_stable_audio_3 import third_parts

    stable_audio.write(third_parts(), start, name="StableAudio3Pipeline")
    stored = load_file(start / "transformer" / WEIGHTS)
    assert any("to_qkv" in name for name in stored)
    network = changed(start)
    write(start, tmp_path / "made", network, layout="stable-audio-3")
    found = network_of(tmp_path / "made").state_dict()
    for name, weight in network.state_dict().items():
        assert torch.equal(found[name], weight), name
    assert load_file(tmp_path / "made" / "transformer" / WEIGHTS).keys() == stored.keys()


def test_pickled_and_half_weights_become_safetensors(tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    riffusion.write(riffusion.small_parts(), start)
    stored = load_file(start / "unet" / WEIGHTS)
    (start / "unet" / WEIGHTS).unlink()
    halves = {name: weight.half() for name, weight in stored.items()}
    torch.save(halves, start / "unet" / "diffusion_pytorch_model.bin")
    (start / "whole.ckpt").write_bytes(b"the old network once more")
    network = changed(start)
    write(start, tmp_path / "made", network, layout="riffusion")
    assert {path.name for path in (tmp_path / "made" / "unet").iterdir()} == {
        WEIGHTS,
        "config.json",
    }
    assert not (tmp_path / "made" / "whole.ckpt").exists()
    found = network_of(tmp_path / "made").state_dict()
    for name, weight in network.state_dict().items():
        assert torch.equal(found[name], weight), name


def test_another_network_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    riffusion.write(riffusion.small_parts(), start)
    with pytest.raises(ValueError, match=r"The stored weights are not those of a Linear"):
        write(start, tmp_path / "made", torch.nn.Linear(2, 2), layout="riffusion")
    assert [path.name for path in tmp_path.iterdir()] == ["start"]
