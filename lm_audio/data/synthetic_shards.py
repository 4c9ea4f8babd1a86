"""Shards of synthetic sounds, for recipes without data."""

from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from audio_tokenizers.protocol import AcousticTokenizer
from lm_audio.data.corpus import Recording
from lm_audio.data.shards import SAMPLES, Example, Stream, samples_stream, shard_path, write_shard
from lm_audio.data.synthetic import synthetic_clips

CAPTIONS = {
    "pluck": ["plucked strings", "somebody plucks a string", "notes of a guitar"],
    "chirp": ["a bird sings", "the chirps of a bird", "a small bird"],
    "rain": ["rain", "heavy rain falls", "the noise of rain"],
}
NUM_SEMANTIC_TOKENS = 64


@torch.no_grad()
def make_up_shards(
    folder: Path,
    codec: AcousticTokenizer | None,
    *,
    sample_rate: int | None = None,
    num_clips: int = 27,
) -> Path:
    """Writes both splits of clips of four seconds, and returns the folder.

    Acoustic tokens are the codec's. Semantic tokens, at half the rate, are derived from its first
    codebook: they correlate with the audio, but no semantic tokenizer makes them.

    Args:
        codec: None for shards of samples.
        sample_rate: of the samples, for shards of samples only.
    """
    if codec is None:
        assert sample_rate is not None
        streams = {SAMPLES: samples_stream(sample_rate, num_channels=1)}
    else:
        sample_rate, streams = codec.sample_rate, _token_streams(codec)
    clips = synthetic_clips(num_clips=num_clips, seconds=4.0, sample_rate=sample_rate, seed=0)
    examples = [
        Example(
            id=clip.name,
            streams=_samples(clip) if codec is None else _tokens(clip, codec),
            conditions={"text": CAPTIONS[clip.kind], "label": clip.kind},
        )
        for clip in clips
    ]
    write_shard(shard_path(folder, "train", 0), examples[3:], streams)
    write_shard(shard_path(folder, "held_out", 0), examples[:3], streams)
    return folder


def _token_streams(codec: AcousticTokenizer) -> dict[str, Stream]:
    rate = Fraction(codec.frame_rate).limit_denominator(1000)
    return {
        "acoustic": Stream(
            rate=rate,
            num_codebooks=codec.num_codebooks,
            num_tokens=codec.codebook_size,
            identity=codec.identity,
        ),
        "semantic": Stream(
            rate=rate / 2, num_codebooks=1, num_tokens=NUM_SEMANTIC_TOKENS, identity="made up"
        ),
    }


def _tokens(clip: Recording, codec: AcousticTokenizer) -> dict[str, Tensor]:
    samples = torch.from_numpy(clip.samples).float() / 32768
    tokens = codec.encode(samples.expand(1, codec.num_channels, -1))[0]  # [K, T]
    tokens = tokens[:, : tokens.shape[1] // 2 * 2]
    return {"acoustic": tokens, "semantic": tokens[:1, ::2] % NUM_SEMANTIC_TOKENS}


def _samples(clip: Recording) -> dict[str, Tensor]:
    return {SAMPLES: torch.from_numpy(clip.samples)[None]}
