"""The frame codec, our own; see `codec`."""

from audio_tokenizers.acoustic.frame_codec.codec import (
    CodecOutput,
    FrameCodec,
    load_frame_codec,
    save_frame_codec,
)
from audio_tokenizers.acoustic.frame_codec.networks import FrameCodecConfig, tiny

__all__ = [
    "CodecOutput",
    "FrameCodec",
    "FrameCodecConfig",
    "load_frame_codec",
    "save_frame_codec",
    "tiny",
]
