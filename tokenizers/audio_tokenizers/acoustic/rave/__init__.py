"""RAVE, a real-time autoencoder with latents that can be played; see `codec`."""

from audio_tokenizers.acoustic.rave.codec import RaveCodec, RaveOutput, load_rave, save_rave
from audio_tokenizers.acoustic.rave.config import VARIANTS, RaveConfig, tiny

__all__ = [
    "VARIANTS",
    "RaveCodec",
    "RaveConfig",
    "RaveOutput",
    "load_rave",
    "save_rave",
    "tiny",
]
