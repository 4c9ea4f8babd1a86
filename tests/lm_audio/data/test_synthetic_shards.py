"""Made-up shards are tokens of their codec, or samples, in both splits."""

from pathlib import Path

import torch

from audio_tokenizers.acoustic.registry import load_codec
from lm_audio.data.shards import SAMPLES, Shards, samples_stream
from lm_audio.data.synthetic import synthetic_clips
from lm_audio.data.synthetic_shards import CAPTIONS, NUM_SEMANTIC_TOKENS, make_up_shards


def test_made_up_shards_are_the_tokens_of_made_up_sounds(
    codec_folder: Path, tmp_path: Path
) -> None:
    codec = load_codec(codec_folder)
    folder = make_up_shards(tmp_path, codec, num_clips=5)
    train, held_out = Shards(folder), Shards(folder, "held_out")
    assert (len(train), len(held_out)) == (2, 3)
    assert train.streams == held_out.streams
    acoustic, semantic = train.streams["acoustic"], train.streams["semantic"]
    assert acoustic.identity == codec.identity
    assert float(acoustic.rate) == codec.frame_rate
    assert semantic.rate * 2 == acoustic.rate
    clips = synthetic_clips(num_clips=5, seconds=4.0, sample_rate=codec.sample_rate, seed=0)
    for example, clip in zip([*held_out, *train], clips, strict=True):
        samples = torch.from_numpy(clip.samples).float() / 32768
        expected = codec.encode(samples.expand(1, codec.num_channels, -1))[0]
        tokens = example.streams["acoustic"].long()
        assert torch.equal(tokens, expected[:, : tokens.shape[1]])
        assert tokens.shape[1] in (expected.shape[1], expected.shape[1] - 1)
        assert torch.equal(
            example.streams["semantic"].long(), tokens[:1, ::2] % NUM_SEMANTIC_TOKENS
        )
        assert example.conditions == {"text": CAPTIONS[clip.kind], "label": clip.kind}


def test_made_up_shards_may_hold_the_samples(tmp_path: Path) -> None:
    folder = make_up_shards(tmp_path, None, sample_rate=8_000, num_clips=4)
    train, held_out = Shards(folder), Shards(folder, "held_out")
    assert train.streams == {SAMPLES: samples_stream(8_000, num_channels=1)}
    clips = synthetic_clips(num_clips=4, seconds=4.0, sample_rate=8_000, seed=0)
    for example, clip in zip([*held_out, *train], clips, strict=True):
        assert torch.equal(example.streams[SAMPLES][0], torch.from_numpy(clip.samples))
        assert example.conditions["label"] == clip.kind
