"""The presets have the published sizes, to the parameter."""

import pytest
import torch

from lm_audio.networks import presets
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig


def num_parameters(config: TokenLMConfig) -> int:
    with torch.device("meta"):  # shapes without memory
        return sum(weight.numel() for weight in TokenLM(config).parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("small", 419_584_000), ("medium", 1_837_556_736), ("large", 3_255_382_016)],
)
def test_presets_of_musicgen_have_the_published_numbers_of_parameters(
    name: str, expected: int
) -> None:
    assert num_parameters(getattr(presets, name)()) == expected


def test_stereo_adds_embeddings_and_heads_of_four_codebooks() -> None:
    mono, stereo = presets.small(), presets.small(num_streams=8)
    added = 4 * (2049 + 2048) * 1024
    assert num_parameters(stereo) - num_parameters(mono) == added
    assert num_parameters(stereo) == 436_365_312


def test_a_stage_of_audiolm_has_twelve_layers_of_width_1024() -> None:
    V, D, layers, H = 1024, 1024, 12, 16
    per_layer = 4 * D * D + 2 * 4 * D * D + 2 * 2 * D  # attention, feed-forward, two norms
    expected = layers * per_layer + (V + 1) * D + V * D + 2 * D + 32 * H  # and 32 buckets
    assert num_parameters(presets.audiolm(vocab_size=V)) == expected


def test_tiny_is_tiny() -> None:
    assert num_parameters(presets.tiny()) < 100_000
    assert presets.tiny(cross_attention=False).transformer.cross_attention is False
