"""A tiny model with random weights, to run the whole evaluation in seconds."""

from collections.abc import Sequence
from fractions import Fraction

import torch

from audio_tokenizers.acoustic.frame_codec import FrameCodec
from audio_tokenizers.acoustic.frame_codec import tiny as tiny_codec
from audio_tokenizers.semantic.kmeans import FeatureSource, KMeansCodebook
from audio_tokenizers.semantic.masked_model import MaskedAudioModel
from audio_tokenizers.semantic.masked_model import tiny as tiny_masked_model
from audio_tokenizers.semantic.tokenizer import FeatureTokenizer
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.families.duet.stages import duet
from lm_audio.model import Model
from lm_audio.networks import presets
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.codec import CodecRenderer


def untrained_model(texts: Sequence[str], *, seed: int) -> AudioPipeline:
    """A tiny duet with random weights and one label for each text."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = FrameCodec(tiny_codec()).eval()
        for layer in codec.quantizer.layers:
            layer._codebook.embed.normal_(std=0.3)
            layer._codebook.initted.fill_(True)
        features = MaskedAudioModel(tiny_masked_model()).eval()
        codebook = KMeansCodebook.from_centroids(
            torch.randn(32, features.width), source=FeatureSource(model=features.identity, layer=1)
        )
        tokenizer = FeatureTokenizer(features, codebook)
        stages = duet(
            semantic=presets.tiny().transformer,
            acoustic=presets.tiny().transformer,
            text=lambda dim: LabelConditioner(texts, dim),
            num_semantic_tokens=tokenizer.num_tokens,
            semantic_rate=Fraction(tokenizer.frame_rate).limit_denominator(1000),
            num_codebooks=codec.num_codebooks,
            codebook_size=codec.codebook_size,
            frame_rate=Fraction(codec.sample_rate, codec.hop_length),
        )
    return AudioPipeline(Model(stages, CodecRenderer(codec), semantic_tokenizer=tokenizer))
