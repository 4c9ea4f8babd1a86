"""Packing a model: all its linear layers, or none where the machine cannot."""

import logging

import pytest
import torch

from lm_audio.networks import presets
from lm_audio.networks.cpu.int8 import Int8Linear
from lm_audio.networks.cpu.linear import Linear
from lm_audio.networks.packing import Kind, _warn, num_parameters, pack
from lm_audio.networks.token_lm import TokenLM

pytestmark = pytest.mark.usefixtures("backend")


def model() -> TokenLM:
    torch.manual_seed(0)
    return TokenLM(presets.tiny(cross_attention=False)).eval()


@pytest.mark.parametrize(("kind", "bound"), [("same", 1e-5), ("int8", 0.05)])
def test_all_layers_are_packed_and_logits_stay_near(kind: Kind, bound: float) -> None:
    packed, plain = model(), model()
    pack(packed, kind)
    layers = [layer for layer in packed.modules() if isinstance(layer, Linear | Int8Linear)]
    assert len(layers) == sum(isinstance(layer, Linear) for layer in plain.modules()) == 9
    assert all(isinstance(layer, Int8Linear) or layer.packed for layer in layers)
    tokens = torch.randint(0, 64, (2, 4, 10))
    with torch.inference_mode():
        found, expected = packed(tokens), plain(tokens)
    assert (found - expected).norm() < bound * expected.norm()
    assert not torch.equal(found, expected) or kind == "same"


@pytest.mark.parametrize("kind", ["same", "int8"])
def test_packing_changes_no_number_of_parameters(kind: Kind) -> None:
    packed, plain = model(), model()
    pack(packed, kind)
    count = sum(weight.numel() for weight in plain.parameters())
    assert num_parameters(packed) == num_parameters(plain) == count


def test_a_machine_that_cannot_pack_says_so_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lacking(*_: object) -> None:
        raise NotImplementedError("no such operator\nand more")

    monkeypatch.setattr(Linear, "pack", lacking)
    _warn.cache_clear()
    packed = model()
    with caplog.at_level(logging.WARNING):
        pack(packed)
        pack(model())
    (record,) = caplog.records
    assert "no such operator" in record.getMessage()
    tokens = torch.randint(0, 64, (1, 4, 5))
    with torch.inference_mode():
        assert torch.equal(packed(tokens), model()(tokens))
