"""The diffusion transformer against a naive version that handles each row and position alone."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lm_audio.networks.condition import Fused, Known, stack
from lm_audio.networks.dit import DiT, DiTConfig
from lm_audio.networks.transformer import TransformerConfig

TRANSFORMER = TransformerConfig(
    dim=24, num_layers=2, num_heads=3, hidden_dim=40, causal=False, cross_attention=True
)
CONFIG = DiTConfig(width=5, transformer=TRANSFORMER, registers=2)
B, T = 3, 7


def random_dit(config: DiTConfig = CONFIG) -> DiT:
    """With random weights everywhere, also where new ones are zero."""
    torch.manual_seed(0)
    network = DiT(config).eval()
    for weight in network.parameters():
        weight.data = torch.randn(weight.shape) * (0.5 if weight.dim() < 2 else 0.2)
    return network


def inputs(config: DiTConfig = CONFIG, *, lengths: tuple[int, ...] = (2, 4, 1)) -> tuple:
    torch.manual_seed(1)
    E = config.transformer.dim
    fused = Fused(
        cross=stack([torch.randn(length, E) for length in lengths]),
        prepend=stack([torch.randn(length - 1, E) for length in lengths]),
        sum=torch.randn(B, T, E),
    )
    known = Known(values=torch.randn(B, config.width, T), mask=torch.rand(B, T) > 0.5)
    x, times = torch.randn(B, config.width, T), torch.tensor([0.1, 0.5, 0.99])
    return x, times, fused, known


def row(fused: Fused, b: int) -> Fused:
    """The conditions of one row alone, without padding."""
    assert fused.cross is not None
    assert fused.prepend is not None
    assert fused.sum is not None
    return Fused(
        cross=stack([fused.cross.embeddings[b, fused.cross.mask[b]]]),
        prepend=stack([fused.prepend.embeddings[b, fused.prepend.mask[b]]]),
        sum=fused.sum[b : b + 1],
    )


def naive(network: DiT, x: Tensor, time: float, fused: Fused, known: Known | None) -> Tensor:
    """The output [D, T] for one row, with explicit loops over positions and heads."""
    config, shape = network.config, network.config.transformer
    weights = {name: w.detach().double() for name, w in network.state_dict().items()}
    D, frames = x.shape
    H, W = shape.num_heads, shape.head_dim

    def linear(name: str, v: Tensor) -> Tensor:
        y = weights[f"{name}.weight"] @ v
        return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y

    def normed(v: Tensor) -> Tensor:
        return v / (v.square().mean() + shape.norm_eps).sqrt()

    def turned(v: Tensor, position: int) -> Tensor:
        pairs = torch.complex(v[: W // 2], v[W // 2 :])
        angles = position * 10_000.0 ** -(torch.arange(0, W, 2).double() / W)
        pairs = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([pairs.real, pairs.imag])

    def attended(queries: list[Tensor], keys: list[Tensor], values: list[Tensor]) -> list[Tensor]:
        made = []
        for q in queries:
            parts = []
            for h in range(H):
                part = slice(h * W, (h + 1) * W)
                scores = torch.stack([q[part] @ k[part] / math.sqrt(W) for k in keys])
                share = scores.softmax(0)
                parts.append(sum(s * v[part] for s, v in zip(share, values, strict=True)))
            made.append(torch.cat(parts))
        return made

    channels = [x.double()]
    if known is not None:
        mask = known.mask.double()
        channels += [known.values.double() * mask, mask[None]]
    stacked = torch.cat(channels)
    patch = config.patch
    padding = -frames % patch
    stacked = torch.nn.functional.pad(stacked, (0, padding))
    summed = torch.nn.functional.pad(fused.sum[0].double(), (0, 0, 0, padding))
    h, positions = [], []
    prefix = fused.prepend.embeddings[0].double()
    for i, vector in enumerate(prefix):
        h.append(vector)
        positions.append(i - len(prefix) - config.registers)
    for i, vector in enumerate(weights["registers"]):
        h.append(vector)
        positions.append(i - config.registers)
    for s in range(stacked.shape[1] // patch):
        some = slice(s * patch, (s + 1) * patch)
        h.append(linear("input", stacked[:, some].T.flatten()) + summed[some].mean(0))
        positions.append(s)
    angles = 1000 * time * torch.exp(-math.log(10_000) / 127 * torch.arange(128).double())
    waves = torch.cat([angles.cos(), angles.sin()])
    silu = torch.nn.functional.silu
    embedded = linear("time.2", silu(linear("time.0", waves)))
    shared = linear("modulation", silu(embedded)).view(6, -1)
    for i in range(shape.num_layers):
        name = f"blocks.{i}"
        table = weights[f"{name}.table"] + shared
        mixed = [
            linear(f"{name}.attention.input", normed(v) * (1 + table[1]) + table[0]).chunk(3)
            for v in h
        ]

        def placed(which: int, mixed: list = mixed) -> list[Tensor]:
            return [
                torch.cat([turned(part, p) for part in each[which].split(W)])
                for each, p in zip(mixed, positions, strict=True)
            ]

        found = attended(placed(0), placed(1), [each[2] for each in mixed])
        h = [
            v + table[2] * linear(f"{name}.attention.output", f)
            for v, f in zip(h, found, strict=True)
        ]
        scale = weights[f"{name}.cross_attention_norm.weight"]
        queries = [linear(f"{name}.cross_attention.query", normed(v) * scale) for v in h]
        pairs = [
            linear(f"{name}.cross_attention.key_value", c.double()).chunk(2)
            for c in fused.cross.embeddings[0]
        ]
        found = attended(queries, [k for k, _ in pairs], [v for _, v in pairs])
        h = [v + linear(f"{name}.cross_attention.output", f) for v, f in zip(h, found, strict=True)]
        after = []
        for v in h:
            gate, up = linear(
                f"{name}.feed_forward.input", normed(v) * (1 + table[4]) + table[3]
            ).chunk(2)
            after.append(v + table[5] * linear(f"{name}.feed_forward.output", silu(gate) * up))
        h = after
    shift, scale = weights["last_shift_scale"] + embedded
    columns = [
        linear("output", normed(v) * (1 + scale) + shift).view(patch, D)
        for v in h[len(prefix) + config.registers :]
    ]
    return torch.cat(columns)[:frames].T.float()


@pytest.mark.parametrize("patch", [1, 2, 3])
@pytest.mark.parametrize("sees_known", [True, False])
def test_it_equals_a_naive_version_row_by_row(patch: int, sees_known: bool) -> None:
    config = replace(CONFIG, patch=patch, sees_known=sees_known)
    network = random_dit(config)
    x, times, fused, known = inputs(config)
    with torch.no_grad():
        made = network(x, times, fused, known=known if sees_known else None)
    for b in range(B):
        one = Known(values=known.values[b], mask=known.mask[b]) if sees_known else None
        expected = naive(network, x[b], float(times[b].double()), row(fused, b), one)
        torch.testing.assert_close(made[b], expected, rtol=1e-3, atol=1e-4)


def test_a_row_does_not_depend_on_its_batch_mates_or_padding() -> None:
    network = random_dit()
    x, times, fused, known = inputs()
    lengths = torch.tensor([7, 4, 6])
    mask = torch.arange(T) < lengths[:, None]
    with torch.no_grad():
        together = network(x, times, fused, known=known, mask=mask)
    for b, length in enumerate(lengths.tolist()):
        alone = row(fused, b)
        alone = replace(alone, sum=alone.sum[:, :length])
        with torch.no_grad():
            made = network(
                x[b : b + 1, :, :length],
                times[b : b + 1],
                alone,
                known=Known(values=known.values[b : b + 1, :, :length],
                            mask=known.mask[b : b + 1, :length]),
            )  # fmt: skip
        torch.testing.assert_close(together[b, :, :length], made[0], rtol=1e-4, atol=1e-5)


def test_unknown_frames_of_known_values_have_no_effect() -> None:
    network = random_dit()
    x, times, fused, known = inputs()
    other = replace(known, values=torch.where(known.mask[:, None], known.values, 9.0))
    with torch.no_grad():
        made, same = (network(x, times, fused, known=each) for each in (known, other))
    assert torch.equal(made, same)


def test_new_weights_give_zeros() -> None:
    x, times, fused, known = inputs()
    assert not DiT(CONFIG)(x, times, fused, known=known).any()


def test_bfloat16_weights_compute_in_float32_on_a_cpu_without_its_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    network = random_dit()
    x, times, fused, known = inputs()
    with torch.no_grad():
        exact = network(x, times, fused, known=known)
        network.bfloat16()
        rounded = network(x, times, fused, known=known)
        network.float()
        same = network(x, times, fused, known=known)
    assert rounded.dtype == torch.float32
    error = (rounded - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 0 < error < 0.02
    torch.testing.assert_close(rounded, same, rtol=1e-3, atol=1e-3)

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    with torch.no_grad():
        products = network.bfloat16()(x, times, fused, known=known)
    assert products.dtype == torch.bfloat16
    error = (products - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 0 < error < 0.04


def test_recomputed_activations_give_the_same_gradients() -> None:
    network = random_dit().train()
    x, times, fused, known = inputs()
    found = []
    for recomputes in (False, True):
        network.recomputes = recomputes
        network.zero_grad()
        network(x, times, fused, known=known).square().sum().backward()
        found.append([weight.grad.clone() for weight in network.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_mistakes_are_refused() -> None:
    network = random_dit()
    x, times, fused, known = inputs()
    with pytest.raises(ValueError, match="if and only if it sees them"):
        network(x, times, fused)
    with pytest.raises(ValueError, match="require each other"):
        network(x, times, replace(fused, cross=None), known=known)
    with pytest.raises(ValueError, match="sums for 1 or 7 frames, got 6"):
        network(x, times, replace(fused, sum=fused.sum[:, :6]), known=known)
    with pytest.raises(ValueError, match="causal=False"):
        replace(CONFIG, transformer=replace(TRANSFORMER, causal=True))
    with pytest.raises(ValueError, match="patch must be at least 1"):
        replace(CONFIG, patch=0)
