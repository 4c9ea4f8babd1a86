from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sklearn.cluster import KMeans
from torch import Tensor

from audio_tokenizers.semantic import kmeans
from audio_tokenizers.semantic.kmeans import FeatureSource, KMeansCodebook

SOURCE = FeatureSource(model="hubert-0123", layer=9, pooling=2)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_codebook(V: int = 50, D: int = 16, **changes: object) -> KMeansCodebook:
    tensors = {"centroids": normal(V, D), "mean": normal(D, seed=1), "std": normal(D).abs() + 0.1}
    return KMeansCodebook(**{**tensors, "source": SOURCE, **changes})


def test_tokens_are_the_nearest_centroids_chunked_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    codebook = make_codebook()
    features = normal(3, 41, 16, seed=2) * 2 + 1
    standardized = (features.double() - codebook.mean) / codebook.std
    differences = standardized[:, :, None] - codebook.centroids.double()  # [B, T, V, D]
    naive = differences.square().sum(-1).argmin(-1)
    tokens = codebook.assign(features)
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, naive)
    assert len(tokens.unique()) > 20
    for scores in (1, 50 * 7):
        monkeypatch.setattr(kmeans, "MAX_SCORES", scores)
        assert torch.equal(codebook.assign(features), naive)


def test_tokens_are_those_of_scikit_learn() -> None:
    rows = normal(500, 8).numpy()
    model = KMeans(30, n_init=1, random_state=0).fit(rows)
    codebook = KMeansCodebook(
        centroids=torch.from_numpy(model.cluster_centers_),
        mean=torch.zeros(8),
        std=torch.ones(8),
        source=SOURCE,
    )
    tokens = codebook.assign(torch.from_numpy(rows)[None])[0]
    assert (tokens.numpy() == model.predict(rows)).all()


def test_the_lowest_of_equally_near_centroids_is_taken() -> None:
    base = normal(40, 64)
    codebook = make_codebook(80, 64, centroids=torch.cat([base, base]))
    features = (base * codebook.std + codebook.mean)[None] + 0.1 * normal(1, 40, 64, seed=3)
    assert torch.equal(codebook.assign(features)[0], torch.arange(40))
    middle = KMeansCodebook(
        centroids=torch.tensor([[3.0], [1.0], [-1.0]]),
        mean=torch.zeros(1),
        std=torch.ones(1),
        source=SOURCE,
    )
    assert middle.assign(torch.tensor([[[0.0], [2.0]]])).tolist() == [[1, 0]]


def test_near_centroids_far_from_the_origin_are_told_apart() -> None:
    centroids = 1000 + 1e-3 * torch.arange(10.0)[:, None].repeat(1, 4)
    codebook = KMeansCodebook(
        centroids=centroids, mean=torch.zeros(4), std=torch.ones(4), source=SOURCE
    )
    assert torch.equal(codebook.assign(centroids[None])[0], torch.arange(10))


def test_a_saved_codebook_is_restored(tmp_path: Path) -> None:
    codebook = make_codebook()
    codebook.save(tmp_path / "centroids.safetensors")
    loaded = KMeansCodebook.load(tmp_path / "centroids.safetensors")
    for name in ("centroids", "mean", "std"):
        assert torch.equal(getattr(loaded, name), getattr(codebook, name))
    assert loaded.source == SOURCE
    assert (loaded.num_tokens, loaded.width) == (50, 16)
    assert loaded.identity == codebook.identity


def test_equal_codebooks_are_equal_files(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.safetensors" for number in range(8)]
    for file in files:
        make_codebook().save(file)
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"centroids": normal(50, 16, seed=9)},
        {"mean": torch.zeros(16)},
        {"source": FeatureSource(model="hubert-0123", layer=8, pooling=2)},
    ],
)
def test_the_identity_covers_values_and_source(change: dict[str, object]) -> None:
    assert make_codebook(**change).identity != make_codebook().identity


def test_files_that_are_no_codebook_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "centroids.safetensors"
    with pytest.raises(ValueError, match="does not exist; check the path"):
        KMeansCodebook.load(path)
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match="is damaged or not a safetensors file"):
        KMeansCodebook.load(path)
    save_file({"centroids": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match=r"not a codebook from KMeansCodebook\.save"):
        KMeansCodebook.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": torch.zeros(3)}, r"shapes \[\[50, 16\], \[3\], \[16\]\]; expected \[V, D\]"),
        ({"centroids": torch.full((2, 16), torch.nan)}, "Got NaN or infinite centroids"),
        ({"std": torch.zeros(16)}, "a std of 0 or less; expected positive values"),
    ],
)
def test_impossible_codebooks_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_codebook(**change)


def test_impossible_sources_and_features_are_refused() -> None:
    with pytest.raises(ValueError, match="Got layer -1; expected 0 or more"):
        FeatureSource(model="", layer=-1)
    with pytest.raises(ValueError, match="Got pooling 0; expected 1 or more"):
        FeatureSource(model="", layer=1, pooling=0)
    for shape in ((3, 16), (1, 3, 8)):
        with pytest.raises(ValueError, match=r"features of shape .*; expected \[B, T, 16\]"):
            make_codebook().assign(torch.zeros(shape))
