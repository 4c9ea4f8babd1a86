"""Codecs are found by name, path or hub id, and told apart by what they hold."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from audio_tokenizers.acoustic.frame_codec import FrameCodec, save_frame_codec, tiny
from audio_tokenizers.acoustic.registry import LOADERS, load_codec


def test_a_local_folder_is_told_by_its_config(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = FrameCodec(tiny())
    save_frame_codec(codec, tmp_path / "mine")
    assert load_codec(tmp_path / "mine").identity == codec.identity


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"a model of type bert; codecs are of type dac, encodec"):
        load_codec(tmp_path)


def hub_copy(home: Path, hub_id: str, name: str, content: bytes) -> None:
    """What the hub's cache looks like after a download."""
    root = home / "hub" / f"models--{hub_id.replace('/', '--')}"
    (root / "snapshots" / "abc").mkdir(parents=True, exist_ok=True)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text("abc")
    (root / "snapshots" / "abc" / name).write_bytes(content)


def load_offline(name: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Loads a codec in a process whose hub is the folder `home` alone."""
    code = "import sys; from audio_tokenizers.acoustic.registry import load_codec\n"
    code += "print(load_codec(sys.argv[1]).sample_rate)"
    environment = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, name], capture_output=True, text=True, env=environment
    )


def test_a_name_without_a_hub_gets_one_sentence(tmp_path: Path) -> None:
    shown = load_offline("encodec-16khz", tmp_path)
    assert "ValueError: Found no codec 'facebook/audiogen-medium'" in shown.stderr


def test_a_codec_in_the_cache_of_the_hub_loads_without_a_network(tmp_path: Path) -> None:
    from transformers import DacConfig, DacModel

    settings = DacConfig(encoder_hidden_size=2, decoder_hidden_size=32, n_codebooks=2)
    DacModel(settings).save_pretrained(tmp_path / "dac")
    for file in (tmp_path / "dac").iterdir():
        hub_copy(tmp_path, "descript/dac_16khz", file.name, file.read_bytes())
    assert load_offline("dac-16khz", tmp_path).stdout.split() == ["16000"]


def test_a_name_whose_file_points_to_another_is_followed(tmp_path: Path) -> None:
    from transformers import EncodecConfig, EncodecModel

    settings = EncodecConfig(num_filters=2, hidden_size=8, target_bandwidths=[1.5])
    EncodecModel(settings).save_pretrained(tmp_path / "encodec")
    for file in (tmp_path / "encodec").iterdir():
        hub_copy(tmp_path, "facebook/encodec_32khz", file.name, file.read_bytes())
    torch.save({"pretrained": "facebook/encodec_32khz"}, tmp_path / "pointer")
    pointer = (tmp_path / "pointer").read_bytes()
    hub_copy(tmp_path, "facebook/audiogen-medium", "compression_state_dict.bin", pointer)
    assert load_offline("encodec-16khz", tmp_path).stdout.split() == ["24000"]


def test_every_loader_is_named_by_a_model_type() -> None:
    assert set(LOADERS) == {"dac", "encodec", "frame-codec", "mimi"}
