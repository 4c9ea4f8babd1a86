"""Torch files are told by their first bytes, and read without running code."""

import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from lm_audio.saving.pickles import Node, is_torch_file, plain, read_pickle


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_known_by_how_they_begin(zipped: bool, tmp_path: Path) -> None:
    file = tmp_path / "any.name"
    torch.save({"x": torch.arange(3)}, file, _use_new_zipfile_serialization=zipped)
    assert is_torch_file(file)
    assert torch.equal(read_pickle(file)["x"], torch.arange(3))
    file.write_bytes(file.read_bytes()[:-10])
    assert is_torch_file(file)
    with pytest.raises(ValueError, match=r"(Could not|Refused to) read .*any.name: "):
        read_pickle(file)


def test_other_files_are_no_torch_files(tmp_path: Path) -> None:
    (tmp_path / "empty.bin").write_bytes(b"")
    (tmp_path / "text.bin").write_text("PKzip")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps({}))
    with zipfile.ZipFile(tmp_path / "zip.bin", "w") as archive:
        archive.writestr("data.txt", "")
    np.savez(tmp_path / "numpy.npz", x=np.ones(2))
    assert not [path.name for path in tmp_path.iterdir() if is_torch_file(path)]


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_does_not_run(zipped: bool, tmp_path: Path) -> None:
    package = {"x": torch.ones(1), "bomb": Bomb(tmp_path / "exploded")}
    torch.save(package, tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"Refused to read .*a.bin: .*that could run code"):
        read_pickle(tmp_path / "a.bin")
    assert not (tmp_path / "exploded").exists()


def test_what_trainings_keep_beside_weights_is_read(tmp_path: Path) -> None:
    package = OrderedDict(loss=np.float64(2.5), single=np.float32(1.5), steps=[1, 2], name="run")
    torch.save(package, tmp_path / "a.bin")
    assert read_pickle(tmp_path / "a.bin") == package


def test_callbacks_of_lightning_are_names_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = ModuleType(name)
    callback = type("ModelCheckpoint", (), {"__module__": name})
    vars(module)["ModelCheckpoint"] = callback
    parents = name.split(".")
    for depth in range(1, len(parents)):
        parent = ".".join(parents[:depth])
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setitem(sys.modules, name, module)
    torch.save({"callbacks": {callback: {"best": torch.ones(1)}}}, tmp_path / "a.ckpt")
    monkeypatch.delitem(sys.modules, name)
    ((key, state),) = read_pickle(tmp_path / "a.ckpt")["callbacks"].items()
    assert key is not callback
    assert state == {"best": torch.ones(1)}


def test_only_dicts_are_packages(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "a.bin")
    with pytest.raises(ValueError, match=r"Got a list in .*a.bin; expected a dict of weights"):
        read_pickle(tmp_path / "a.bin")


def test_stand_ins_give_what_they_hold() -> None:
    def node(**fields: object) -> Node:
        made = Node()
        vars(made).update(fields)
        return made

    numbers = node(_content=[node(_val=1), node(_val=2.5)])
    settings = node(_content={"numbers": numbers, "none": node(_val=None), "same": "${numbers}"})
    assert plain(settings) == {"numbers": [1, 2.5], "none": None, "same": "${numbers}"}
    assert plain("text") == "text"
