"""A linear discriminant tells sounds apart, at any level, and is the one of the closed form."""

import torch
from torch.distributions import MultivariateNormal

from sound_probe import EMBEDDING, classify, features, fit_probe


def noise(seed: int, *, smooth: int) -> torch.Tensor:
    """Noise that is the duller, the smoother."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(1, 1, 2 * EMBEDDING.sample_rate, generator=generator)
    kernel = torch.ones(1, 1, smooth) / smooth
    return 0.1 * torch.nn.functional.conv1d(white, kernel, padding="same")[0]


def test_sounds_are_told_apart_at_any_level() -> None:
    kinds = {"bright": 1, "dull": 9, "dark": 41}
    known = [(name, noise(seed, smooth=n)) for name, n in kinds.items() for seed in range(6)]
    probe = fit_probe(torch.stack([features(x) for _, x in known]), [name for name, _ in known])
    for name, n in kinds.items():
        for level in (0.01, 1.0, 5.0):
            assert classify(probe, level * noise(99, smooth=n)) == name


def test_scores_differ_as_log_likelihoods_of_normals_do() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(400, 3) @ torch.randn(3, 3) + torch.tensor([2.0, 0.0, -1.0])
    labels = ["a", "b"] * 200
    vectors[1::2] += torch.tensor([1.0, 2.0, 0.5])
    probe = fit_probe(torch.cat([vectors, torch.ones(400, 1)], dim=1), labels)
    means = [vectors[0::2].mean(dim=0), vectors[1::2].mean(dim=0)]
    rest = torch.cat([vectors[0::2] - means[0], vectors[1::2] - means[1]])
    spread = rest.T @ rest / len(rest)
    spread = 0.7 * spread + 0.3 * spread.diagonal().mean() * torch.eye(3)
    a, b = (MultivariateNormal(mean, spread) for mean in means)
    seen = torch.cat([vectors[:20], torch.ones(20, 1)], dim=1)
    expected = a.log_prob(vectors[:20]) - b.log_prob(vectors[:20])
    torch.testing.assert_close(seen @ (probe["a"] - probe["b"]), expected, rtol=1e-3, atol=1e-3)
