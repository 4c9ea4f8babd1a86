"""Loads public models through transformers, from a folder or by hub id, without running code."""

from pathlib import Path
from typing import Any

import torch

from audio_tokenizers.hub import hub_access

# Some public checkpoints of the wav2vec 2 family lack it: only training uses it.
_ONLY_FOR_TRAINING = "masked_spec_embed"


def load_pretrained(cls: Any, source: str | Path, *, device: str = "cpu") -> Any:
    """A model of a class of transformers, in float32, with all of its weights in safetensors."""
    try:
        with hub_access(source):
            model, info = cls.from_pretrained(
                source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError) as error:  # of the hub: no such id, or none that is valid
        raise ValueError(
            f"No model with safetensors found at {source}. Give another folder or hub id."
        ) from error
    lacking = [x for x in sorted(info["missing_keys"]) if not x.endswith(_ONLY_FOR_TRAINING)]
    if lacking:
        raise ValueError(
            f"{source} lacks weights of {type(model).__name__}, such as {lacking[0]}. Use a "
            "checkpoint that was trained for this task."
        )
    return model.eval().to(device)


def load_feature_extractor(source: str | Path) -> Any:
    from transformers import AutoFeatureExtractor

    extractor: Any = AutoFeatureExtractor
    with hub_access(source):
        return extractor.from_pretrained(source)
