"""The measure of fillings runs with two tiny models."""

import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch

from audio_tokenizers.acoustic.frame_codec import FrameCodec, tiny
from audio_tokenizers.audio_writer import write_audio
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.families.audiocraft.stages import audiogen, magnet
from lm_audio.model import Model
from lm_audio.networks import presets
from lm_audio.networks.token_lm import TokenLM
from lm_audio.patterns import delayed
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling, Unmasking

ROOT = Path(__file__).parents[2]


def write_models(folder: Path) -> None:
    torch.manual_seed(0)
    codec = FrameCodec(tiny()).eval()
    for layer in codec.quantizer.layers:
        layer._codebook.embed.normal_(std=0.3)
        layer._codebook.initted.fill_(True)
    config = presets.tiny(num_streams=codec.num_codebooks, vocab_size=codec.codebook_size)
    config = replace(config, transformer=replace(config.transformer, cross_attention=False))
    two_sided = replace(config, transformer=replace(config.transformer, causal=False))
    windows = {"frame_rate": Fraction(50), "window_frames": 300, "overlap_frames": 100}
    stages = {
        "causal": audiogen(
            TokenLM(config),
            pattern=delayed(range(codec.num_codebooks)),
            conditioners=Conditioners({}, {}),
            sampling=Sampling(),
            **windows,
        ),
        "masked": magnet(
            TokenLM(two_sided),
            conditioners=Conditioners({}, {}),
            span=3,
            reach=5,
            sampling=Unmasking(steps=2),
            **windows,
        ),
    }
    for name, made in stages.items():
        AudioPipeline(Model(made, CodecRenderer(codec))).save(folder / name)


def test_both_fillings_are_judged(tmp_path: Path) -> None:
    write_models(tmp_path)
    write_audio(tmp_path / "sounds/noise.wav", 0.1 * torch.randn(1, 24_000 * 4), 24_000)
    output = tmp_path / "inpainting.md"
    models = ["--masked", tmp_path / "masked", "--causal", tmp_path / "causal"]
    command = [*models, "--data", tmp_path / "sounds", "--num-gaps", 2, "--candidates", 2]
    done = subprocess.run(
        [sys.executable, "benchmarks/bench_inpainting.py", *map(str, command), "--output", output],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split("|") for line in output.read_text().splitlines() if line.startswith("|")]
    assert [row[1].strip() for row in rows[2:]] == ["causal", "masked"]
    for row in rows[2:]:
        assert row[2].strip() == "2"
        assert -6 < float(row[3]) < 0
        assert -6 < float(row[4]) < 0
        assert row[5].strip() in ("0%", "50%", "100%")
