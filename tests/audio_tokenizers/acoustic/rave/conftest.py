"""Small random RAVE models."""

from collections.abc import Callable

import pytest
import torch

from audio_tokenizers.acoustic.rave import RaveCodec, RaveConfig
from audio_tokenizers.acoustic.rave.config import tiny

MakeRave = Callable[..., RaveCodec]


def build(config: RaveConfig, *, trainable: bool = False) -> RaveCodec:
    """A random model with codebooks."""
    torch.manual_seed(0)
    codec = RaveCodec(config, trainable=trainable).eval().requires_grad_(trainable)
    with torch.no_grad():
        dims = config.quantised_dims or config.latent_size // 2
        books = torch.randn(config.num_codebooks, config.codebook_size, dims)
        codec.set_codebooks(books * 0.5 ** torch.arange(len(books))[:, None, None])
        codec.latent_pca = torch.linalg.qr(torch.randn(config.latent_size, config.latent_size))[0]
        codec.latent_mean = 0.1 * torch.randn(config.latent_size)
    return codec


@pytest.fixture(scope="session")
def make_rave() -> MakeRave:
    """Builds a random model: `make_rave(causal=True)`."""

    def make(*, trainable: bool = False, **changes: object) -> RaveCodec:
        return build(tiny(**changes), trainable=trainable)

    return make
