import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from audio_tokenizers.protocol import SemanticTokenizer
from audio_tokenizers.semantic.features import (
    TransformersFeatures,
    load_features,
    save_features,
)
from audio_tokenizers.semantic.kmeans import FeatureSource, KMeansCodebook
from audio_tokenizers.semantic.kmeans_training import KMeansConfig, train_kmeans
from audio_tokenizers.semantic.masked_model import MaskedAudioModel, save_masked_model, tiny
from audio_tokenizers.semantic.tokenizer import (
    FeatureTokenizer,
    load_feature_tokenizer,
    regroup,
    save_feature_tokenizer,
)

Make = Callable[..., Any]


def make_tokenizer(extractor: Any, *, layer: int = 2, pooling: int = 2) -> FeatureTokenizer:
    """With a codebook whose centroids lie where the model's features of noise do."""
    random = torch.Generator().manual_seed(5)
    samples = torch.randn(1, 1, 2 * extractor.sample_rate, generator=random)
    features = extractor.features(samples, layer)[0]  # [T, D]
    codebook = KMeansCodebook(
        centroids=torch.randn(20, extractor.width, generator=random),
        mean=features.mean(0),
        std=features.std(0),
        source=FeatureSource(model=extractor.identity, layer=layer, pooling=pooling),
    )
    return FeatureTokenizer(extractor, codebook)


@pytest.fixture(scope="module")
def extractor(make_model: Make) -> TransformersFeatures:
    return TransformersFeatures(make_model("hubert"), normalize=True)


def naive_tokens(tokenizer: FeatureTokenizer, features: Tensor, pooling: int) -> Tensor:
    """Tokens [B, T] of unpooled features [B, T, D]."""
    pooled = torch.stack([group.mean(1) for group in features.split(pooling, dim=1)], dim=1)
    standardized = (pooled - tokenizer.codebook.mean) / tokenizer.codebook.std
    differences = standardized[:, :, None] - tokenizer.codebook.centroids
    return differences.square().sum(-1).argmin(-1)


@pytest.mark.parametrize("pooling", [1, 2, 3])
def test_tokens_are_the_nearest_centroids_of_pooled_features(
    extractor: TransformersFeatures, noise: Make, pooling: int
) -> None:
    tokenizer: SemanticTokenizer = make_tokenizer(extractor, pooling=pooling)
    samples = noise(2, 2, 16_000)
    tokens = tokenizer.encode(samples)
    assert tokens.dtype == torch.int64
    assert tokens.shape == (2, 1, -(-49 // pooling))
    expected = naive_tokens(tokenizer, extractor.features(samples, 2), pooling)
    assert torch.equal(tokens[:, 0], expected)
    assert len(tokens.unique()) > 3
    assert (tokenizer.num_tokens, tokenizer.sample_rate) == (20, 16_000)
    assert tokenizer.frame_rate == 50 / pooling
    features = tokenizer.features(samples, 1)
    assert features.shape == (2, tokens.shape[2], 32)
    torch.testing.assert_close(features[:, 0], extractor.features(samples, 1)[:, :pooling].mean(1))


@pytest.mark.parametrize("pooling", [1, 2, 3])
def test_long_audio_is_encoded_in_windows_with_the_tokens_of_its_features(
    make_model: Make, noise: Make, pooling: int
) -> None:
    extractor = TransformersFeatures(make_model("wavlm"), normalize=True, window_seconds=1)
    tokenizer = make_tokenizer(extractor, pooling=pooling)
    samples = noise(1, 1, 54_321)
    expected = naive_tokens(tokenizer, extractor.features(samples, 2), pooling)
    assert torch.equal(tokenizer.encode(samples)[:, 0], expected)


@pytest.mark.parametrize("lengths", [[5], [1, 1, 1, 1, 1], [2, 7, 1, 3], [0, 4, 0]])
def test_pieces_are_regrouped_without_changing_frames(lengths: list[int]) -> None:
    frames = torch.arange(sum(lengths)).view(1, -1, 1)
    pieces = list(regroup(frames.split(lengths, dim=1), 3))
    assert torch.equal(torch.cat(pieces, dim=1), frames)
    assert all(piece.shape[1] % 3 == 0 for piece in pieces[:-1])


def test_a_trained_codebook_makes_a_tokenizer(extractor: TransformersFeatures, noise: Make) -> None:
    clips = [noise(1, 1, 8_000, seed=seed) for seed in range(6)]
    source = FeatureSource(model=extractor.identity, layer=2)
    batches = [extractor.features(clip, 2).flatten(0, 1) for clip in clips]
    codebook, report = train_kmeans(batches, KMeansConfig(num_clusters=8), source=source)
    tokens = torch.cat([FeatureTokenizer(extractor, codebook).encode(clip) for clip in clips])
    assert len(tokens.unique()) == report.num_used > 4


def test_a_saved_tokenizer_is_restored(
    make_model: Make, save_model: Make, noise: Make, tmp_path: Path
) -> None:
    extractor = TransformersFeatures(make_model("hubert"), normalize=True, window_seconds=7)
    save_model(extractor.model, tmp_path / "saved" / "model")
    tokenizer = make_tokenizer(extractor)
    samples = noise(1, 1, 8_000)
    for reference in ("model", tmp_path / "saved" / "model"):
        save_feature_tokenizer(tokenizer, tmp_path / "saved", model=reference)
        loaded = load_feature_tokenizer(tmp_path / "saved")
        assert loaded.identity == tokenizer.identity
        assert torch.equal(loaded.encode(samples), tokenizer.encode(samples))
    save_feature_tokenizer(tokenizer, tmp_path / "elsewhere", model="someone/gone")
    loaded = load_feature_tokenizer(tmp_path / "elsewhere", extractor=extractor)
    assert loaded.identity == tokenizer.identity
    with pytest.raises(ValueError, match="Got a device for an already loaded model"):
        load_feature_tokenizer(tmp_path / "elsewhere", extractor=extractor, device="cpu")


def test_our_own_masked_model_makes_a_tokenizer(noise: Make, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MaskedAudioModel(tiny()).eval()
    save_masked_model(model, tmp_path / "model")
    tokenizer = make_tokenizer(model, pooling=1)
    save_feature_tokenizer(tokenizer, tmp_path, model="model")
    loaded = load_feature_tokenizer(tmp_path)
    samples = noise(1, 1, 48_000)
    tokens = loaded.encode(samples)
    assert tokens.shape == (1, 1, 50)
    assert (loaded.sample_rate, loaded.frame_rate) == (24_000, 25)
    assert torch.equal(tokens, tokenizer.encode(samples))


def test_the_identity_names_model_layer_pooling_and_codebook(
    extractor: TransformersFeatures,
) -> None:
    identities = {
        make_tokenizer(extractor, layer=layer, pooling=pooling).identity
        for layer, pooling in ((1, 1), (1, 2), (2, 1))
    }
    assert len(identities) == 3
    assert all(identity.startswith(extractor.identity) for identity in identities)


def test_a_codebook_of_another_model_is_refused(
    extractor: TransformersFeatures, make_model: Make
) -> None:
    codebook = make_tokenizer(extractor).codebook
    other = make_model("hubert")
    with torch.no_grad():
        next(other.encoder.layers[0].parameters()).add_(1e-3)
    changed = TransformersFeatures(other, normalize=True)
    with pytest.raises(ValueError, match=r"is for the model hubert-\w+, but got hubert-"):
        FeatureTokenizer(changed, codebook)


def test_a_codebook_of_other_features_is_refused(extractor: TransformersFeatures) -> None:
    for layer, width in ((4, 32), (2, 16)):
        codebook = KMeansCodebook(
            centroids=torch.zeros(2, width),
            mean=torch.zeros(width),
            std=torch.ones(width),
            source=FeatureSource(model=extractor.identity, layer=layer),
        )
        with pytest.raises(ValueError, match=f"for layer {layer} with {width} dimensions, but"):
            FeatureTokenizer(extractor, codebook)


def test_folders_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json of a feature-tokenizer"):
        load_feature_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hubert"}))
    with pytest.raises(ValueError, match=r"has no config\.json of a feature-tokenizer"):
        load_feature_tokenizer(tmp_path)


def test_a_model_of_fairseq2_needs_a_codebook() -> None:
    with pytest.raises(ValueError, match=r"fairseq2:wav2vec2_base is a model without a codebook"):
        load_feature_tokenizer("fairseq2:wav2vec2_base")


def test_a_tokenizer_that_fairseq2_does_not_run_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MaskedAudioModel(tiny()).eval()
    save_masked_model(model, tmp_path / "model")
    save_feature_tokenizer(make_tokenizer(model, pooling=1), tmp_path, model="model")
    with pytest.raises(ValueError, match="requires fairseq2, which does not run this tokenizer's"):
        load_feature_tokenizer(f"fairseq2:{tmp_path}")


def test_a_tokenizer_of_fairseq2_names_the_extra_where_it_is_missing(
    extractor: TransformersFeatures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fairseq2", None)
    save_feature_tokenizer(make_tokenizer(extractor), tmp_path, model="fairseq2:wav2vec2_base")
    for folder in (tmp_path, f"fairseq2:{tmp_path}"):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'lm-audio\[parity\]'"):
            load_feature_tokenizer(folder)


@pytest.mark.parametrize("kind", ["hubert", "wavlm", "wav2vec2-bert", "masked"])
def test_a_tokenizer_saved_with_its_model_comes_back_to_the_bit(
    kind: str, make_model: Make, noise: Make, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    extractor = (
        MaskedAudioModel(tiny()).eval()
        if kind == "masked"
        else TransformersFeatures(make_model(kind), normalize=False, window_seconds=7.0)
    )
    tokenizer = make_tokenizer(extractor)
    save_features(extractor, tmp_path / "saved" / "model")
    save_feature_tokenizer(tokenizer, tmp_path / "saved", model="model")
    loaded = load_feature_tokenizer((tmp_path / "saved").rename(tmp_path / "moved"))
    assert loaded.identity == tokenizer.identity
    samples = noise(1, 1, 24_000)
    assert torch.equal(loaded.encode(samples), tokenizer.encode(samples))


def test_a_model_is_stored_as_float16_only_where_that_is_exact(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MaskedAudioModel(tiny()).eval()
    save_features(model, tmp_path / "whole", half=True)
    assert load_features(tmp_path / "whole").identity == model.identity
    save_features(model.half().float(), tmp_path / "half", half=True)
    assert load_features(tmp_path / "half").identity == model.identity
    sizes = [(tmp_path / x / "model.safetensors").stat().st_size for x in ("whole", "half")]
    assert sizes[0] > 1.9 * sizes[1]


def test_features_of_another_kind_cannot_be_saved(tmp_path: Path) -> None:
    class Other:
        pass

    with pytest.raises(ValueError, match=r"Cannot save a model of class Other; supported types"):
        save_features(Other(), tmp_path)  # type: ignore[arg-type]
