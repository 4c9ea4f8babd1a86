"""Codecs are found by name, path or hub id, told apart by what they hold, and saved."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from audio_tokenizers.acoustic.dac import DacTokenizer
from audio_tokenizers.acoustic.encodec import EncodecTokenizer
from audio_tokenizers.acoustic.frame_codec import FrameCodec, save_frame_codec, tiny
from audio_tokenizers.acoustic.mimi import MimiTokenizer
from audio_tokenizers.acoustic.registry import LOADERS, load_codec, save_codec
from audio_tokenizers.protocol import AcousticTokenizer


def test_a_local_folder_is_told_by_its_config(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = FrameCodec(tiny())
    save_frame_codec(codec, tmp_path / "mine")
    assert load_codec(tmp_path / "mine").identity == codec.identity


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"Expected a codec of type dac, encodec, .* of type bert"):
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
    assert set(LOADERS) == {"dac", "encodec", "frame-codec", "mimi", "rave"}


@pytest.fixture(params=["dac", "encodec-24k", "encodec-48k", "frame-codec", "mimi"])
def codec(
    request: pytest.FixtureRequest,
    make_dac: Callable[..., Any],
    make_encodec: Callable[..., Any],
    make_mimi: Callable[..., Any],
) -> AcousticTokenizer:
    torch.manual_seed(0)
    makers: dict[str, Callable[[], AcousticTokenizer]] = {
        "dac": lambda: DacTokenizer(make_dac(24_000)),
        "encodec-24k": lambda: EncodecTokenizer(make_encodec("24k")),
        "encodec-48k": lambda: EncodecTokenizer(make_encodec("48k")),
        "frame-codec": lambda: FrameCodec(tiny()).eval(),
        "mimi": lambda: MimiTokenizer(make_mimi()),
    }
    return makers[request.param]()


def test_a_saved_codec_comes_back_to_the_bit(codec: AcousticTokenizer, tmp_path: Path) -> None:
    save_codec(codec, tmp_path / "codec")
    loaded = load_codec(tmp_path / "codec")
    assert loaded.identity == codec.identity
    samples = torch.randn(1, codec.num_channels, 4000) * 0.1
    tokens = codec.encode(samples)
    assert torch.equal(loaded.encode(samples), tokens)
    assert torch.equal(loaded.decode(tokens), codec.decode(tokens))


def test_a_codec_is_stored_as_float16_only_where_that_is_exact(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    codec = FrameCodec(tiny()).eval()
    for times, dtype in enumerate([torch.float32, torch.float16]):
        folder = tmp_path / str(times)
        save_codec(codec, folder, half=True)
        loaded = load_codec(folder)
        assert {w.dtype for w in load_file(folder / "model.safetensors").values()} == {dtype}
        assert loaded.identity == codec.identity
        save_frame_codec(codec, tmp_path / "half", half=True)
        codec = load_codec(tmp_path / "half")  # type: ignore[assignment]


def test_a_codec_of_another_kind_cannot_be_saved(tmp_path: Path) -> None:
    class Other:
        pass

    with pytest.raises(ValueError, match=r"Cannot save a codec of class Other; supported"):
        save_codec(Other(), tmp_path)  # type: ignore[arg-type]
