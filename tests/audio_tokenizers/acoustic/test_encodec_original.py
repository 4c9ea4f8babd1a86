"""Against the `encodec` package itself, at full size, with random weights in its own layout."""

from pathlib import Path
from typing import Any

import pytest
import torch

from audio_tokenizers.acoustic.encodec_checkpoints import load_encodec

pytestmark = pytest.mark.parity

SETTINGS: dict[str, dict[str, Any]] = {
    "24k": {"target_bandwidths": [1.5, 3.0, 6.0, 12.0, 24.0]},
    "48k": {
        "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
        "sample_rate": 48_000,
        "channels": 2,
        "causal": False,
        "model_norm": "time_group_norm",
        "audio_normalize": True,
        "segment": 1.0,
    },
}


@pytest.mark.parametrize(("kind", "num_samples"), [("24k", 24_001), ("48k", 60_001)])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_original_package_gives_the_same_tokens_and_samples_at_every_bandwidth(
    tmp_path: Path, kind: str, num_samples: int, batch: int
) -> None:
    from encodec import EncodecModel

    torch.manual_seed(0)
    model = EncodecModel._get_model(**SETTINGS[kind]).eval()
    with torch.no_grad():
        for weight in model.encoder.parameters():
            weight.mul_(2)  # so that the latents vary: a fresh model's hardly do
        latents = model.encoder(torch.randn(1, model.channels, 24_000))
        for layer in model.quantizer.vq.layers:  # a fresh model's are zeros
            layer._codebook.inited.fill_(1)
            layer._codebook.embed.normal_(0, latents.std().item() / 3)
    torch.save(model.state_dict(), tmp_path / "weights.th")
    tokenizer = load_encodec(tmp_path / "weights.th")

    samples = torch.randn(batch, model.channels, num_samples) * 0.3
    for bandwidth in model.target_bandwidths:
        model.set_target_bandwidth(bandwidth)
        with torch.no_grad():
            frames = model.encode(samples)
            decoded = model.decode(frames)
        codes = torch.cat([codes for codes, _ in frames], dim=2)
        tokens = tokenizer.encode(samples, num_codebooks=codes.shape[1])
        assert (tokens != codes).sum() == 0
        assert len(tokens.unique()) > 50
        gains = tokenizer.gains(samples)
        assert (tokenizer.decode(tokens, gains=gains) - decoded).abs().max() == 0
