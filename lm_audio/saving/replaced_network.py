"""Copies a model's folder with other weights in its denoising network, in the same layout."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from audio_tokenizers.atomic import replacing_folder
from lm_audio.saving.files import read_weights
from lm_audio.saving.part_folder import link_copy

WEIGHTS = "diffusion_pytorch_model.safetensors"
Names = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
_WEIGHT_FILES = (".safetensors", ".bin", ".index.json", ".ckpt", ".pt", ".pth")


def replace_network(
    source: Path, target: Path, network: nn.Module, *, folder: str, names: Names
) -> None:
    """Writes a copy of a model with the weights of this network, whole or not at all.

    Other files are linked where possible. Weights at the top of the folder, which diffusers' layout
    does not need, are left out: they may be another form of the old network.

    Args:
        network: with the stored part as itself or as one of its children.
        folder, names: as for `NetworkFiles`.
    """
    with replacing_folder(target) as new:
        for path in sorted(source.iterdir()):
            if path.name != folder and not path.name.endswith(_WEIGHT_FILES):
                link_copy(path, new / path.name)
        for path in sorted((source / folder).iterdir()):
            if not path.name.endswith(_WEIGHT_FILES):
                link_copy(path, new / folder / path.name)
        weights = _stored(source / folder, network, names)
        save_file(weights, new / folder / WEIGHTS, metadata={"format": "pt"})


@torch.no_grad()
def _stored(folder: Path, network: nn.Module, names: Names) -> dict[str, Tensor]:
    """The weights of the network under the stored names, in float32."""
    stored = {name: weight.float().clone() for name, weight in read_weights(folder).items()}
    ours = names(stored)  # the same tensors, or views of them
    for name, weight in stored_part(network, ours).state_dict().items():
        ours[name].copy_(weight)
    return stored


def stored_part(network: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The part of a network whose weights have these names."""
    for part in (network, *network.children()):
        if (own := part.state_dict().keys()) and own <= weights.keys():
            return part
    raise ValueError(f"The stored weights are not those of a {type(network).__name__}.")
