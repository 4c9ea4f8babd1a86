"""Against fairseq2's own calls and against `transformers`, with random weights."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from audio_tokenizers.semantic.extractor import WindowedFeatureExtractor
from audio_tokenizers.semantic.fairseq2_features import Fairseq2Features, load_fairseq2_features
from audio_tokenizers.semantic.features import TransformersFeatures, load_features, save_features
from audio_tokenizers.semantic.kmeans import FeatureSource, KMeansCodebook
from audio_tokenizers.semantic.tokenizer import (
    FeatureTokenizer,
    load_feature_tokenizer,
    save_feature_tokenizer,
)

pytestmark = pytest.mark.parity

Make = Callable[..., Any]
RENAMES = (
    (r"^feature_extractor\.conv_layers\.", "encoder_frontend.feature_extractor.layers."),
    (r"^feature_projection\.layer_norm\.", "encoder_frontend.post_extract_layer_norm."),
    (r"^feature_projection\.projection\.", "encoder_frontend.model_dim_proj."),
    (r"^encoder\.pos_conv_embed\.", "encoder_frontend.pos_encoder."),
    (r"\.parametrizations\.weight\.original0$", ".weight_g"),
    (r"\.parametrizations\.weight\.original1$", ".weight_v"),
    (r"(layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"\.final_layer_norm\.", ".ffn_layer_norm."),
    (r"\.attention\.out_proj\.", ".self_attn.output_proj."),
    (r"\.attention\.", ".self_attn."),
    (r"\.feed_forward\.intermediate_dense\.", ".ffn.inner_proj."),
    (r"\.feed_forward\.output_dense\.", ".ffn.output_proj."),
)


def make_wav2vec2(like: nn.Module) -> nn.Module:
    """fairseq2's model with the sizes and weights of a `transformers.Wav2Vec2Model`."""
    from fairseq2.models.transformer import TransformerNormOrder
    from fairseq2.models.wav2vec2 import (
        Wav2Vec2Config,
        Wav2Vec2EncoderConfig,
        create_wav2vec2_model,
    )

    config: Any = like.config
    descriptions = zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
    pre = config.do_stable_layer_norm
    encoder = Wav2Vec2EncoderConfig(
        model_dim=config.hidden_size,
        feature_dim=config.conv_dim[-1],
        layer_norm_features=not pre,
        feature_extractor_layer_descs=list(descriptions),
        feature_extractor_bias=config.conv_bias,
        feature_extractor_layer_norm_convs=config.feat_extract_norm == "layer",
        num_encoder_layers=config.num_hidden_layers,
        num_encoder_attn_heads=config.num_attention_heads,
        ffn_inner_dim=config.intermediate_size,
        pos_conv_kernel_size=config.num_conv_pos_embeddings,
        num_pos_conv_groups=config.num_conv_pos_embedding_groups,
        norm_order=TransformerNormOrder.PRE if pre else TransformerNormOrder.POST,
    )
    model = create_wav2vec2_model(
        Wav2Vec2Config(encoder_config=encoder, final_dim=16, quantized_dim=16)
    )
    first = "group" if config.feat_extract_norm == "group" else "layer"
    state = {}
    for name, weight in like.state_dict().items():
        name = re.sub(r"(conv_layers\.0)\.layer_norm", rf"\1.{first}_norm", name)
        if "conv_layers" not in name:
            for old, new in RENAMES[1:]:
                name = re.sub(old, new, name)
        name = re.sub(*RENAMES[0], name)
        if not pre:
            name = name.replace("encoder.layer_norm.", "encoder_frontend.layer_norm.")
        state[name] = weight
    del state["masked_spec_embed"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert not [name for name in missing if name.startswith("encoder")]
    return model


def make_w2vbert(num_layers: int = 3) -> nn.Module:
    from fairseq2.models.w2vbert import W2VBertConfig, create_w2vbert_model

    config = W2VBertConfig(num_bert_encoder_layers=1)
    encoder = config.w2v2_config.encoder_config
    encoder.model_dim = 32
    encoder.num_encoder_layers = num_layers
    encoder.num_encoder_attn_heads = 2
    encoder.ffn_inner_dim = 48
    config.w2v2_config.final_dim = config.w2v2_config.quantized_dim = 16
    torch.manual_seed(0)
    return create_w2vbert_model(config)


def hooked(model: Any, inputs: Tensor) -> list[Tensor]:
    """All layers by fairseq2's own hooks, the encoder's input first."""
    from fairseq2.nn import BatchLayout

    model.eval()
    with torch.no_grad():
        hidden, layout = model.encoder_frontend(inputs, BatchLayout.of(inputs))
        layers = [hidden]
        with model.encoder.register_layer_hook(
            lambda layer_idx, layer_output, layer_output_layout, num_layers: (  # noqa: ARG005
                layers.append(layer_output) or True
            )
        ):
            model.encoder(hidden, layout)
    return layers


BASE: dict[str, Any] = {}
LARGE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
FULL = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "conv_dim": (512,) * 7,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
}


@pytest.mark.parametrize(
    ("settings", "normalize"), [(BASE, True), (BASE, False), (LARGE, True), (FULL, False)]
)
def test_wav2vec2_gives_the_features_of_transformers_at_every_layer(
    make_model: Make, noise: Make, settings: dict[str, Any], normalize: bool
) -> None:
    model = make_model("wav2vec2", **settings)
    theirs = TransformersFeatures(model, normalize=normalize)
    ours = Fairseq2Features(make_wav2vec2(model), normalize=normalize)
    samples = noise(2, 1, 8_001)
    assert (ours.num_layers, ours.width) == (theirs.num_layers, theirs.width)
    assert (ours.sample_rate, ours.frame_rate) == (16_000, 50)
    for layer in range(ours.num_layers + 1):
        expected = theirs.features(samples, layer)
        found = ours.features(samples, layer)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() == 0


def test_layers_are_those_of_the_hooks_and_of_windows_close_to_the_whole(noise: Make) -> None:
    from fairseq2.data.audio import WaveformToFbankConverter

    model = make_w2vbert()
    extractor = Fairseq2Features(model, normalize=False)
    assert isinstance(extractor, WindowedFeatureExtractor)
    samples = noise(2, 1, 16_000) * 0.1
    convert = WaveformToFbankConverter(
        num_mel_bins=80, waveform_scale=2**15, channel_last=True, standardize=True
    )
    spectra = [
        convert({"waveform": clip.T.contiguous(), "sample_rate": 16_000.0})["fbank"]
        for clip in samples
    ]
    expected = hooked(model.w2v2_model, torch.stack(spectra))
    assert (extractor.num_layers, extractor.width, extractor.frame_rate) == (3, 32, 50)
    for layer in range(4):
        found = extractor.features(samples, layer)
        assert found.shape == (2, 49, 32)
        assert (found - expected[layer]).abs().max() == 0
    assert len(model.w2v2_model.encoder.layers) == 3

    windowed = Fairseq2Features(model, normalize=False, window_seconds=1)
    long = noise(1, 1, 54_321) * 0.1
    assert len(list(windowed.feature_windows(long, 1))) == 5
    torch.testing.assert_close(windowed.features(long, 0), extractor.features(long, 0))


def test_the_spectra_are_those_of_the_public_w2v_bert(noise: Make) -> None:
    from audio_tokenizers.semantic.fairseq2_features import _spectra
    from audio_tokenizers.semantic.speech_inputs import LogMelSpectra, measure_level

    mono = noise(16_000) * 0.1
    spectra = LogMelSpectra()(mono[None])
    mean, deviation = measure_level(spectra, correction=1)
    expected = ((spectra - mean) / deviation)[0]
    torch.testing.assert_close(_spectra(mono), expected, atol=5e-3, rtol=1e-3)


def test_a_checkpoint_loads_and_its_identity_follows_its_weights(
    make_model: Make, noise: Make, tmp_path: Path
) -> None:
    model = make_model("wav2vec2", **FULL)
    direct = Fairseq2Features(make_wav2vec2(model), normalize=False)
    from fairseq2.models.wav2vec2 import get_wav2vec2_model_hub

    hub = get_wav2vec2_model_hub()
    whole = hub.create_new_model(hub.get_arch_config("base"), device=torch.device("cpu"))
    whole.load_state_dict({**whole.state_dict(), **{
        name: weight for name, weight in direct.model.state_dict().items()
        if name.startswith("encoder")
    }})  # fmt: skip
    torch.save(whole.state_dict(), tmp_path / "base.pt")
    loaded = load_fairseq2_features(tmp_path / "base.pt", arch="base")
    assert loaded.identity == direct.identity
    assert loaded.identity.startswith("fairseq2-wav2vec2-")
    samples = noise(1, 1, 4_000)
    assert torch.equal(loaded.features(samples, 2), direct.features(samples, 2))
    with torch.no_grad():
        next(whole.encoder.parameters()).add_(1e-3)
    assert Fairseq2Features(whole, normalize=False).identity != direct.identity

    torch.save({"encoder.weight": torch.zeros(1)}, tmp_path / "other.pt")
    torch.save({"model": Path}, tmp_path / "code.pt")
    for name in ("other.pt", "code.pt"):
        with pytest.raises(ValueError, match="does not contain plain weights of the architecture"):
            load_fairseq2_features(tmp_path / name, arch="base")


@pytest.fixture(scope="module", params=["base", "300m"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with random weights of an architecture."""
    from fairseq2.models.w2vbert import get_w2vbert_model_hub
    from fairseq2.models.wav2vec2 import get_wav2vec2_model_hub

    hub: Any = (get_wav2vec2_model_hub if request.param == "base" else get_w2vbert_model_hub)()
    torch.manual_seed(0)
    model = hub.create_new_model(hub.get_arch_config(request.param), device=torch.device("cpu"))
    path = tmp_path_factory.mktemp("fairseq2") / "model.pt"
    torch.save(model.state_dict(), path)
    return path


def test_a_tokenizer_is_saved_with_its_model_and_loads_again(
    checkpoint: Path, noise: Make, tmp_path: Path
) -> None:
    extractor = load_features(f"fairseq2:{checkpoint}", window_seconds=7.0)
    assert isinstance(extractor, Fairseq2Features)
    codebook = KMeansCodebook(
        centroids=torch.randn(8, extractor.width),
        mean=torch.zeros(extractor.width),
        std=torch.ones(extractor.width),
        source=FeatureSource(model=extractor.identity, layer=2),
    )
    tokenizer = FeatureTokenizer(extractor, codebook)
    save_features(extractor, tmp_path / "saved" / "model", half=True)
    save_feature_tokenizer(tokenizer, tmp_path / "saved", model="model")
    samples = noise(1, 1, 8_000) * 0.1
    for spec in (tmp_path / "saved", f"fairseq2:{tmp_path / 'saved'}"):
        loaded = load_feature_tokenizer(spec)
        assert loaded.identity == tokenizer.identity
        assert torch.equal(loaded.encode(samples), tokenizer.encode(samples))
    save_feature_tokenizer(tokenizer, tmp_path / "light", model=f"fairseq2:{checkpoint}")
    assert load_feature_tokenizer(tmp_path / "light").identity == tokenizer.identity


def test_an_unknown_name_lists_those_of_fairseq2() -> None:
    with pytest.raises(ValueError, match=r"neither a path nor a fairseq2 model. .*wav2vec2_base,"):
        load_features("fairseq2:wav2vec2_tiny")


def test_a_model_without_an_architecture_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Cannot save a fairseq2 model without the name of"):
        save_features(Fairseq2Features(make_w2vbert(), normalize=False), tmp_path)


def test_mistakes_are_refused(tmp_path: Path) -> None:
    extractor = Fairseq2Features(make_w2vbert(), normalize=False)
    with pytest.raises(ValueError, match=r"expected \[B, C, N\]"):
        extractor.features(torch.zeros(1, 16_000), 1)
    with pytest.raises(ValueError, match="Got layer 4; this model has layers 0 to 3"):
        extractor.features(torch.zeros(1, 1, 16_000), 4)
    with pytest.raises(
        ValueError, match="Got 559 samples, too few for one frame; expected at least 560"
    ):
        extractor.features(torch.zeros(1, 1, 559), 1)
    assert extractor.features(torch.zeros(1, 1, 560), 1).shape == (1, 1, 32)
    (tmp_path / "some.pt").touch()
    with pytest.raises(
        ValueError, match=r"Unknown architecture 'tiny'. Choose one of: base, large"
    ):
        load_fairseq2_features(tmp_path / "some.pt", arch="tiny")
    with pytest.raises(ValueError, match="neither a path nor a fairseq2 model"):
        load_fairseq2_features(tmp_path / "none.pt", arch="300m")
    with pytest.raises(ValueError, match="expected 1 s or more"):
        Fairseq2Features(make_w2vbert(), normalize=False, window_seconds=0)
