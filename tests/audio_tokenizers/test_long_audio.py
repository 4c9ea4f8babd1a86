"""An hour of audio takes the memory of a minute: narrow codecs of all kinds, in new processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from audio_tokenizers.audio_writer import AudioWriter

SCRIPT = """
import sys
from pathlib import Path
import torch
from audio_tokenizers.acoustic.registry import load_codec
from audio_tokenizers.coding import decode_to_file, encode_file

torch.set_num_threads(1)
codec = load_codec(sys.argv[1])
encoded = encode_file(sys.argv[2], codec, codec_name="x")
decode_to_file(encoded, codec, sys.argv[3])
peak = next(l for l in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in l)
print(encoded.num_samples, encoded.tokens.shape[1], int(peak.split()[1]) / 1024)
"""


def save_frame(folder: Path) -> None:
    from audio_tokenizers.acoustic.frame_codec import FrameCodec, save_frame_codec, tiny

    save_frame_codec(FrameCodec(tiny()), folder)


def save_encodec_24(folder: Path) -> None:
    from transformers import EncodecConfig, EncodecModel

    EncodecModel(EncodecConfig(num_filters=2, hidden_size=16)).save_pretrained(folder)


def save_encodec_48(folder: Path) -> None:
    from transformers import EncodecConfig, EncodecModel

    settings = EncodecConfig(
        target_bandwidths=[3.0, 6.0],
        sampling_rate=48_000,
        audio_channels=2,
        normalize=True,
        chunk_length_s=1.0,
        overlap=0.01,
        norm_type="time_group_norm",
        use_causal_conv=False,
        num_filters=2,
        hidden_size=16,
    )
    EncodecModel(settings).save_pretrained(folder)


def save_dac(folder: Path) -> None:
    from transformers import DacConfig, DacModel

    settings = DacConfig(
        encoder_hidden_size=2, decoder_hidden_size=32, n_codebooks=4, sampling_rate=16_000
    )
    DacModel(settings).save_pretrained(folder)


def save_mimi(folder: Path) -> None:
    from transformers import MimiConfig, MimiModel

    settings = MimiConfig(
        num_filters=2,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=64,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        num_quantizers=4,
        upsample_groups=32,
    )
    MimiModel(settings).save_pretrained(folder)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Noise of 1 and 60 minutes."""
    folder = tmp_path_factory.mktemp("recordings")
    paths = {}
    for minutes in (1, 60):
        paths[minutes] = folder / f"{minutes}.wav"
        with AudioWriter(paths[minutes], 24_000) as writer:
            for _ in range(minutes):
                writer.write(0.1 * torch.randn(1, 24_000 * 60))
    return paths


@pytest.mark.slow
@pytest.mark.parametrize(
    "save", [save_frame, save_encodec_24, save_encodec_48, save_dac, save_mimi]
)
def test_an_hour_takes_less_than_300_mb_more_than_a_minute(
    save: object, recordings: dict[int, Path], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    save(tmp_path / "codec")  # type: ignore[operator]
    peaks = {}
    for minutes, path in recordings.items():
        command = [sys.executable, "-c", SCRIPT, tmp_path / "codec", path, tmp_path / "out.wav"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        num_samples, frames, peaks[minutes] = map(float, shown.split())
        assert num_samples >= minutes * 60 * 16_000
        assert frames >= minutes * 60 * 12.5
    print(f"{save.__name__}: peak MB by minutes {peaks}")  # type: ignore[attr-defined]
    assert peaks[60] - peaks[1] < 300
