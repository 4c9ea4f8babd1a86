"""Hashes change with the content and with nothing else."""

import hashlib

import pytest
import torch
from torch import nn

from audio_tokenizers.identity import hash_model, hash_tensor, hash_tensors


class Model(nn.Module):
    scale: torch.Tensor
    cache: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("cache", torch.zeros(1), persistent=False)
        nn.init.constant_(self.linear.weight, 0.5)
        nn.init.zeros_(self.linear.bias)


def test_tensor_hash_is_sha256_of_type_shape_and_values() -> None:
    tensor = torch.arange(6, dtype=torch.int32).reshape(2, 3)

    expected = hashlib.sha256(b"torch.int32(2, 3)" + tensor.numpy().tobytes()).hexdigest()

    assert hash_tensor(tensor) == expected


@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([[0.0, 1.0], [2.0, 3.000001]]),
        torch.tensor([[0.0, 1.0, 2.0, 3.0]]),
        torch.tensor([0.0, 1.0, 2.0, 3.0]),
        torch.tensor([[0.0, 1.0], [2.0, 3.0]], dtype=torch.float64),
        torch.tensor([[0, 1], [2, 3]], dtype=torch.int32),
        torch.tensor([[-0.0, 1.0], [2.0, 3.0]]),
    ],
)
def test_tensor_hash_tells_values_shapes_and_types_apart(other: torch.Tensor) -> None:
    assert hash_tensor(other) != hash_tensor(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))


def test_tensor_hash_does_not_depend_on_memory_layout() -> None:
    tensor = torch.randn(4, 6)

    assert hash_tensor(tensor.t().contiguous().t()) == hash_tensor(tensor)
    assert hash_tensor(torch.stack([tensor, tensor], dim=-1)[..., 1]) == hash_tensor(tensor)
    assert hash_tensor(tensor.requires_grad_()) == hash_tensor(tensor.detach())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.0),
        torch.zeros(0, 2),
        torch.ones(3, dtype=torch.bfloat16),
        torch.tensor([True, False]),
    ],
)
def test_every_kind_of_tensor_has_a_hash(tensor: torch.Tensor) -> None:
    assert hash_tensor(tensor) == hash_tensor(tensor.clone())
    assert len(hash_tensor(tensor)) == 64


def of(model: nn.Module, settings: str = "") -> str:
    return hash_model(settings, model.state_dict())


def test_equal_weights_have_equal_hashes() -> None:
    assert of(Model()) == of(Model())
    assert of(Model().requires_grad_(False)) == of(Model())


def test_any_parameter_saved_buffer_or_setting_changes_the_hash() -> None:
    plain = of(Model())
    weight, buffer, name = Model(), Model(), Model()
    with torch.no_grad():
        weight.linear.weight[0, 0] += 1e-6
        buffer.scale[0] = 2
    name.extra = nn.Parameter(torch.zeros(0))

    assert len({plain, of(Model(), "other settings"), *map(of, (weight, buffer, name))}) == 5


def test_the_order_of_weights_does_not_count() -> None:
    weights = Model().state_dict()
    assert hash_tensors(dict(reversed(weights.items()))) == hash_tensors(weights)


@torch.inference_mode()
def test_weights_made_in_inference_mode_have_a_hash() -> None:
    assert len(of(Model())) == 16


def test_buffers_that_are_not_saved_do_not_count() -> None:
    model = Model()
    model.cache[0] = 5

    assert of(model) == of(Model())
