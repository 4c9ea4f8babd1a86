"""Training objective of the masked audio model: predict quantised patches under a mask (BEST-RQ).

A fixed random projection and fixed random codebooks turn every patch into tokens. The model
receives audio with spans replaced by noise and predicts their tokens. There is no teacher, and no
codebook that could collapse.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vector_quantize_pytorch import RandomProjectionQuantizer

from audio_tokenizers.semantic.masked_model import MaskedAudioModel


@dataclass(frozen=True, kw_only=True)
class PredictionConfig:
    num_codebooks: int = 4
    codebook_size: int = 1024
    code_width: int = 16
    mask_share: float = 0.4
    """Expected share of masked frames."""
    span_frames: int = 8


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """loss: a scalar; accuracy: share of masked tokens predicted correctly; mask: [B, T], bool;
    targets: [B, T, codebooks]."""

    loss: Tensor
    accuracy: Tensor
    mask: Tensor
    targets: Tensor


class MaskedPrediction(nn.Module):
    """The training pass of a masked audio model."""

    def __init__(self, model: MaskedAudioModel, config: PredictionConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.targets = RandomProjectionQuantizer(
            dim=model.config.patch_size,
            codebook_size=config.codebook_size,
            codebook_dim=config.code_width,
            num_codebooks=config.num_codebooks,
            norm=False,  # patches are standardised already
        )
        self.heads = nn.Linear(model.width, config.num_codebooks * config.codebook_size)

    def forward(self, samples: Tensor, *, generator: torch.Generator | None = None) -> Prediction:
        """samples: [B, C, N]"""
        patches = self.model.patches(samples)  # [B, T, patch]
        B, T, _ = patches.shape
        mask = span_mask(
            B, T, share=self.config.mask_share, span=self.config.span_frames, generator=generator
        ).to(patches.device)
        with torch.no_grad(), torch.autocast(patches.device.type, enabled=False):
            targets = self.targets(patches).view(B, T, self.config.num_codebooks)
        noise = 0.1 * torch.randn(patches.shape, generator=generator).to(patches.device)
        seen = torch.where(mask[..., None], noise, patches)
        hidden = self.model.encode_patches(self.model.embed(seen))[mask]  # [masked, D]
        logits = self.heads(hidden).float().unflatten(-1, (self.config.num_codebooks, -1))
        wanted = targets[mask]  # [masked, codebooks]
        return Prediction(
            loss=F.cross_entropy(logits.flatten(0, 1), wanted.flatten()),
            accuracy=(logits.argmax(-1) == wanted).float().mean(),
            mask=mask,
            targets=targets,
        )


@torch.no_grad()
def measure_patches(model: MaskedAudioModel, batches: list[Tensor]) -> None:
    """Sets the model's mean and deviation of patches from batches of samples [B, C, N]."""
    model.patch_mean.zero_()
    model.patch_std.fill_(1)
    patches = torch.cat([model.patches(samples).flatten(0, 1) for samples in batches]).double()
    model.patch_mean.copy_(patches.mean(0))
    model.patch_std.copy_(patches.std(0).clamp(min=1e-3))


def span_mask(
    B: int, T: int, *, share: float, span: int, generator: torch.Generator | None = None
) -> Tensor:
    """Random spans of True, about `share` of all frames, at least one per row: [B, T]."""
    start_share = 1 - (1 - share) ** (1 / span)  # spans overlap
    starts = torch.rand(B, T, generator=generator) < start_share
    starts[torch.arange(B), torch.randint(T, (B,), generator=generator)] = True
    mask = starts.clone()
    for offset in range(1, span):
        mask[:, offset:] |= starts[:, : T - offset] if offset < T else False
    return mask
