"""The promises of a pipeline over public codecs of several rates, at lengths that are odd."""

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, MimiConfig, MimiModel

from audio_tokenizers.acoustic.dac import DacTokenizer
from audio_tokenizers.acoustic.encodec import EncodecTokenizer
from audio_tokenizers.acoustic.mimi import MimiTokenizer
from audio_tokenizers.protocol import AcousticTokenizer
from lm_audio.clip import Clip
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.families.audiocraft.stages import audiogen
from lm_audio.model import Model
from lm_audio.networks import presets
from lm_audio.networks.token_lm import TokenLM
from lm_audio.patterns import delayed
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling


def encodec(**settings: object) -> AcousticTokenizer:
    small = {"num_filters": 4, "hidden_size": 16, "target_bandwidths": [3.0]}
    model = EncodecModel(EncodecConfig(**{**small, **settings})).eval()
    return EncodecTokenizer(spread(model, "embed"))


def encodec_48k() -> AcousticTokenizer:
    """Native stereo that normalises, in chunks of 0.1 s, to have many."""
    return encodec(
        sampling_rate=48_000,
        audio_channels=2,
        normalize=True,
        chunk_length_s=0.1,
        overlap=0.05,
        norm_type="time_group_norm",
        use_causal_conv=False,
    )


def dac_44k() -> AcousticTokenizer:
    config = DacConfig(
        sampling_rate=44_100,
        downsampling_ratios=[2, 4, 8, 8],
        n_codebooks=4,
        encoder_hidden_size=4,
        decoder_hidden_size=32,
    )
    return DacTokenizer(DacModel(config).eval())


def mimi() -> AcousticTokenizer:
    config = MimiConfig(
        hidden_size=32,
        num_filters=4,
        upsample_groups=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=64,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        codebook_size=128,
        num_quantizers=4,
        sliding_window=10,
    )
    return MimiTokenizer(spread(MimiModel(config).eval(), "embed_sum"))


def spread(model: nn.Module, name: str) -> nn.Module:
    """Draws the codebooks, which are zeros in a new model."""
    with torch.no_grad():
        for book in model.modules():
            entries = getattr(book, name, None)
            if isinstance(entries, Tensor):
                entries.normal_()
                if name == "embed_sum":
                    book.cluster_usage.fill_(1)  # type: ignore[operator, union-attr]
                    book._embed = None  # type: ignore[assignment]
    return model


@pytest.fixture(params=[encodec, encodec_48k, dac_44k, mimi], scope="module")
def over_codec(request: pytest.FixtureRequest) -> AudioPipeline:
    torch.manual_seed(0)
    make: Callable[[], AcousticTokenizer] = request.param
    renderer = CodecRenderer(make())
    K = renderer.num_codebooks
    frame_rate = Fraction(renderer.sample_rate, renderer.hop_length)
    stages = audiogen(
        TokenLM(presets.tiny(num_streams=K, vocab_size=renderer.codebook_size)),
        pattern=delayed(range(K)),
        conditioners=Conditioners({}, {}),
        frame_rate=frame_rate,
        window_frames=int(frame_rate),
        overlap_frames=int(frame_rate) // 2,
        sampling=Sampling(),
    )
    return AudioPipeline(Model(stages, renderer))


def clip_of(pipeline: AudioPipeline, num_samples: int) -> Clip:
    return pipeline.generate(duration=num_samples / pipeline.sample_rate, seed=1)  # type: ignore[return-value]


def test_clips_are_exact_and_streams_are_the_same(over_codec: AudioPipeline) -> None:
    rate, hop = over_codec.sample_rate, over_codec.renderer.hop_length
    for num_samples in (1, hop - 1, hop + 1, rate // 3, rate + 77):
        clip = clip_of(over_codec, num_samples)
        assert clip.samples.shape == (over_codec.num_channels, num_samples)
        pieces = list(over_codec.stream(duration=num_samples / rate, seed=1))
        assert torch.equal(torch.cat(pieces, dim=1), clip.samples)


def test_continuations_keep_prompts_of_any_length(over_codec: AudioPipeline) -> None:
    rate, hop = over_codec.sample_rate, over_codec.renderer.hop_length
    time = torch.arange(2 * rate) / rate
    sound = (0.2 * torch.sin(2765 * time)).expand(over_codec.num_channels, -1)
    for num_samples in (1, hop - 1, hop, hop + 1, rate // 2 + 77, 2 * rate):
        prompt = sound[:, :num_samples]
        clip = over_codec.continue_from((prompt, rate), duration=0.31, seed=1)
        assert isinstance(clip, Clip)
        assert clip.samples.shape[1] == num_samples + round(0.31 * rate)
        assert torch.equal(clip.samples[:, :num_samples], prompt)
        assert clip.samples.isfinite().all()
