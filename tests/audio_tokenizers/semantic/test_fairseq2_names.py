"""Choosing fairseq2 by name, where it is not installed; its models: test_fairseq2_features.py."""

import sys
from pathlib import Path

import pytest
import torch

from audio_tokenizers.semantic.fairseq2_features import find_arch
from audio_tokenizers.semantic.features import load_features

FRONTEND = "encoder_frontend.feature_extractor.layers"
WAV2VEC2 = "encoder.layers.{}.ffn.inner_proj.weight"
FAIRSEQ = "encoder.layers.{}.fc1.weight"
W2VBERT = "w2v2_model.encoder.layers.{}.conv.depthwise_conv.weight"


@pytest.mark.parametrize(
    ("name", "num_layers", "others", "arch"),
    [
        (WAV2VEC2, 12, [f"{FRONTEND}.0.group_norm.bias"], "base"),
        (WAV2VEC2, 24, [f"{FRONTEND}.0.group_norm.bias"], "large"),
        (WAV2VEC2, 24, [f"{FRONTEND}.1.layer_norm.bias"], "large_lv60k"),
        (FAIRSEQ, 24, ["feature_extractor.conv_layers.1.2.1.bias"], "large_lv60k"),
        (FAIRSEQ, 12, ["feature_extractor.conv_layers.0.2.bias"], "base"),
        (W2VBERT, 12, [], "300m"),
        ("encoder.layers.{}.conv_module.depthwise_conv.weight", 24, [], "600m"),
    ],
)
def test_the_architecture_is_read_off_the_weights(
    name: str, num_layers: int, others: list[str], arch: str
) -> None:
    names = [*(name.format(layer) for layer in range(num_layers)), *others]
    assert find_arch(dict.fromkeys(names, torch.zeros(1))) == arch


def test_other_weights_have_no_architecture() -> None:
    with pytest.raises(ValueError, match="Got weights of 3 encoder layers; expected a wav2vec 2"):
        find_arch({WAV2VEC2.format(2): torch.zeros(1)})


@pytest.mark.parametrize("saved", [False, True])
def test_without_the_package_the_message_names_the_extra(
    saved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fairseq2", None)
    (tmp_path / "config.json").write_text('{"model_type": "fairseq2-features"}')
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lm-audio\[parity\]'"):
        load_features(tmp_path if saved else "fairseq2:wav2vec2_base")
