"""Audio files to tokens and back through saved codecs of every kind and layout."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DacModel, EncodecModel, MimiModel

from audio_tokenizers.acoustic.registry import load_codec
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.coding import decode_to_file, encode_file
from audio_tokenizers.token_file import load_encoded

KINDS = ("encodec-24k", "encodec-48k", "dac", "mimi", "original.th", "audiocraft.bin")


@pytest.fixture(scope="module")
def checkpoints(
    make_encodec: Callable[..., EncodecModel],
    make_dac: Callable[..., DacModel],
    make_mimi: Callable[..., MimiModel],
    save_encodec: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """A small codec of each kind: a folder as transformers saves it, or a file."""
    root = tmp_path_factory.mktemp("codecs")
    models = {
        "encodec-24k": make_encodec("24k", target_bandwidths=[3.0]),
        "encodec-48k": make_encodec("48k", target_bandwidths=[6.0]),
        "dac": make_dac(16_000, n_codebooks=4),
        "mimi": make_mimi(num_quantizers=4),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
    layouts = (("original.th", "original", "24k"), ("audiocraft.bin", "audiocraft", "32k"))
    for name, layout, kind in layouts:
        saved = save_encodec(make_encodec(kind), root, layout=layout, spelling="old")
        saved.rename(root / name)
    return {name: root / name for name in KINDS}


def recording(folder: Path, *, sample_rate: int, num_channels: int) -> tuple[Path, int]:
    """A file of noise that changes in level, 2.3 s and a few samples long."""
    num_samples = int(2.3 * sample_rate) + 7
    generator = torch.Generator().manual_seed(sample_rate)
    level = torch.linspace(0.02, 0.4, num_samples)
    samples = level * torch.randn(num_channels, num_samples, generator=generator)
    write_audio(folder / "in.wav", samples, sample_rate, encoding="float")
    return folder / "in.wav", num_samples


def check_tokens(found: Tensor, expected: Tensor) -> None:
    """Files are read in pieces; without AVX-512, torch rounds convolutions by their length."""
    least = 1.0 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 0.95
    assert found.shape == expected.shape
    assert float((found == expected).float().mean()) >= least


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_keeps_its_length_and_sounds_as_its_tokens_decode(
    checkpoints: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    codec = load_codec(checkpoints[kind])
    source, num_samples = recording(
        tmp_path, sample_rate=codec.sample_rate, num_channels=codec.num_channels
    )
    encoded = encode_file(source, codec, codec_name=kind)
    samples = read_audio(source).samples[None]
    gains = codec.gains(samples)
    assert (gains is not None) == (kind == "encodec-48k")
    check_tokens(encoded.tokens, codec.encode(samples)[0])
    assert len(encoded.tokens.unique()) > 10
    assert encoded.num_samples == num_samples

    decode_to_file(encoded, codec, tmp_path / "out.wav", encoding="float")
    decoded = read_audio(tmp_path / "out.wav")
    expected = codec.decode(encoded.tokens[None], num_samples=num_samples, gains=gains)[0]
    assert decoded.sample_rate == codec.sample_rate
    assert decoded.samples.shape == (codec.num_channels, num_samples)
    torch.testing.assert_close(decoded.samples, expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.* exceeded full scale")
@pytest.mark.parametrize("kind", ["encodec-48k", "original.th"])
def test_the_command_line_takes_a_file_to_tokens_and_back(
    checkpoints: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    from lm_audio.cli import main

    path = checkpoints[kind]
    codec = load_codec(path)
    source, num_samples = recording(
        tmp_path, sample_rate=codec.sample_rate, num_channels=codec.num_channels
    )
    tokens, output = tmp_path / "tokens.safetensors", tmp_path / "out.wav"
    main(["encode", str(source), "-o", str(tokens), "--codec", str(path)])
    main(["decode", str(tokens), "-o", str(output)])

    encoded = load_encoded(tokens)
    samples = read_audio(source).samples[None]
    check_tokens(encoded.tokens, codec.encode(samples)[0])
    gains = codec.gains(samples)
    if gains is not None:
        assert encoded.gains is not None
        assert torch.equal(encoded.gains, gains[0])
    decoded = read_audio(output).samples
    expected = codec.decode(encoded.tokens[None], num_samples=num_samples, gains=gains)[0]
    assert decoded.shape == (codec.num_channels, num_samples)
    # The file has 16 bits, within full scale.
    torch.testing.assert_close(decoded, expected.clamp(-1, 1), rtol=0, atol=1e-4)
