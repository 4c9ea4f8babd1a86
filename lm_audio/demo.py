"""The first minute: a clip made of formulas goes through the default codec and comes back."""

import time
from pathlib import Path

import torch

from audio_tokenizers.acoustic.frame_codec import load_frame_codec
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.coding import decode_to_file, encode_file
from audio_tokenizers.token_file import save_encoded
from lm_audio.data.synthetic import demo_clip
from lm_audio.pretrained import CODEC_FOLDER


def run_demo(folder: Path) -> None:
    """Writes original.wav, tokens.safetensors and decoded.wav, and prints what became of them."""
    codec = load_frame_codec(CODEC_FOLDER)
    original, tokens, decoded = (
        folder / name for name in ("original.wav", "tokens.safetensors", "decoded.wav")
    )
    samples = torch.from_numpy(demo_clip(sample_rate=codec.sample_rate))
    write_audio(original, samples, codec.sample_rate)

    began = time.perf_counter()
    encoded = encode_file(original, codec, codec_name="default")
    encoded_at = time.perf_counter()
    decode_to_file(encoded, codec, decoded)
    done = time.perf_counter()
    save_encoded(encoded, tokens)

    K, T = encoded.tokens.shape
    bits = K * T * (codec.codebook_size - 1).bit_length()
    print(f"{original}  a plucked chord, a bird and rain, {encoded.duration:.1f} s")
    print(f"{tokens}  {K} x {T} tokens: {bits / encoded.duration / 1000:.1f} kb/s")
    print(f"{decoded}  the same sound from the tokens alone")
    print(f"encoding took {encoded_at - began:.2f} s, decoding {done - encoded_at:.2f} s")
