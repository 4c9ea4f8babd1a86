"""Our own masked audio model: a transformer over log-mel patches, for speech, music and effects.

It turns 24 kHz audio into features at 25 Hz; k-means over one of its layers gives semantic tokens.
It is trained to predict the codes of masked patches under a random projection quantiser (BEST-RQ,
arXiv 2202.01855): see `masked_prediction.py`. Reasons: docs/adr/0003-masked-model.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from audio_tokenizers.atomic import replacing
from audio_tokenizers.config_file import read_config, write_config
from audio_tokenizers.identity import hash_model
from audio_tokenizers.semantic.frames import windows
from audio_tokenizers.semantic.inputs import check_layer, mix_to_mono
from audio_tokenizers.spectra import mel_filterbank, windows_of_hops
from audio_tokenizers.weights import check_weights, read_safetensors

MODEL_TYPE = "masked-audio-model"
OVERLAP = 4  # hops in a window


@dataclass(frozen=True, kw_only=True)
class MaskedModelConfig:
    sample_rate: int = 24_000
    spectrum_hop: int = 240
    spectra_per_frame: int = 4
    num_mels: int = 80
    width: int = 384
    num_layers: int = 12
    num_heads: int = 6
    window_seconds: float = 30.0
    """Window length for longer audio; windows overlap by a tenth on each side."""

    def __post_init__(self) -> None:
        if self.width % (2 * self.num_heads):
            raise ValueError(
                f"width must be a multiple of {2 * self.num_heads}, twice num_heads, got "
                f"{self.width}."
            )

    @property
    def hop_length(self) -> int:
        return self.spectrum_hop * self.spectra_per_frame

    @property
    def patch_size(self) -> int:
        return self.spectra_per_frame * self.num_mels


def tiny() -> MaskedModelConfig:
    """A tiny config for tests and first runs of a recipe."""
    return MaskedModelConfig(num_mels=20, width=32, num_layers=2, num_heads=2)


class MaskedAudioModel(nn.Module):
    """A feature extractor: log-mel patches through a bidirectional transformer."""

    window: Tensor
    filterbank: Tensor
    patch_mean: Tensor
    patch_std: Tensor

    def __init__(self, config: MaskedModelConfig) -> None:
        super().__init__()
        self.config = config
        length = OVERLAP * config.spectrum_hop
        bank = mel_filterbank(
            num_mels=config.num_mels, num_bins=length // 2, sample_rate=config.sample_rate
        )
        self.register_buffer("window", torch.hann_window(length), persistent=False)
        self.register_buffer("filterbank", bank, persistent=False)
        self.register_buffer("patch_mean", torch.full((config.patch_size,), -4.0))
        self.register_buffer("patch_std", torch.full((config.patch_size,), 3.0))
        self.embed = nn.Linear(config.patch_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def frame_rate(self) -> float:
        return self.config.sample_rate / self.config.hop_length

    @property
    def num_layers(self) -> int:
        return self.config.num_layers

    @property
    def width(self) -> int:
        return self.config.width

    @property
    def identity(self) -> str:
        """Names the model, its settings and its current weights."""
        return f"{MODEL_TYPE}-{hash_model(repr(self.config), self.state_dict())}"

    @property
    def margin(self) -> int:
        """Samples that a frame's windows extend beyond it on each side."""
        return (OVERLAP - 1) * self.config.spectrum_hop // 2

    def patches(self, samples: Tensor) -> Tensor:
        """Standardised log-mels of samples [B, C, N], in mono: [B, T, spectra * mels]."""
        mono = mix_to_mono(samples)
        missing = -mono.shape[1] % self.config.hop_length
        return self.patches_of(F.pad(mono, (self.margin, missing + self.margin)))

    def patches_of(self, padded: Tensor) -> Tensor:
        """Patches [B, T, spectra * mels] of whole frames with both margins: [B, N]."""
        blocks = padded.unflatten(1, (-1, self.config.spectrum_hop))
        frames = windows_of_hops(blocks, overlap=OVERLAP) * self.window
        magnitudes = torch.fft.rfft(frames.float())[..., :-1].abs()
        mels = F.linear(magnitudes, self.filterbank).clamp(min=1e-5).log()  # [B, J, mels]
        patches = mels.unflatten(1, (-1, self.config.spectra_per_frame)).flatten(2)
        return (patches - self.patch_mean) / self.patch_std

    def encode_patches(self, embedded: Tensor, *, num_layers: int | None = None) -> Tensor:
        """The transformer over embedded patches [B, T, D], up to a layer; the last has a norm."""
        x = embedded
        angles = rotary_angles(x.shape[1], self.config.width // self.config.num_heads, x.device)
        for block in self.blocks[:num_layers]:
            x = block(x, angles)
        return x if num_layers is not None else self.norm(x)

    def up_to(self, layer: int) -> "MaskedAudioModel":
        """A smaller model with the same features up to this layer."""
        check_layer(layer, num_layers=self.num_layers)
        part = MaskedAudioModel(replace(self.config, num_layers=max(1, layer)))
        weights = self.state_dict()
        part.load_state_dict({name: weights[name] for name in part.state_dict()})
        return part.to(self.patch_mean.device).train(self.training)

    def features(self, samples: Tensor, layer: int) -> Tensor:
        """Activations after `layer` (0: the embedded patches) of samples [B, C, N]: [B, T, D]."""
        return torch.cat(list(self.feature_windows(samples, layer)), dim=1)

    @torch.no_grad()
    def feature_windows(self, samples: Tensor, layer: int) -> Iterator[Tensor]:
        """Yields the result of `features` in consecutive pieces along T, in constant memory."""
        check_layer(layer, num_layers=self.num_layers)
        hop, margin = self.config.hop_length, self.margin
        mono = mix_to_mono(samples)
        T = -(-mono.shape[1] // hop)
        padded = F.pad(mono, (margin, T * hop - mono.shape[1] + margin))
        size = max(10, round(self.config.window_seconds * self.frame_rate))
        for seen, kept in windows(T, size=size, margin=size // 10):
            patches = self.patches_of(padded[:, seen.start * hop : seen.stop * hop + 2 * margin])
            yield self.encode_patches(self.embed(patches), num_layers=layer)[:, kept]


class Block(nn.Module):
    """Self-attention with rotary positions, then an MLP; both pre-norm."""

    def __init__(self, config: MaskedModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """x: [B, T, D]; angles: [T, head / 2]."""
        heads = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # [B, H, T, D / H] each
        mixed = F.scaled_dot_product_attention(rotate(q, angles), rotate(k, angles), v)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


def rotary_angles(length: int, head_size: int, device: torch.device) -> Tensor:
    """[length, head_size / 2]"""
    speeds = 10_000 ** (-torch.arange(0, head_size, 2, device=device) / head_size)
    return torch.arange(length, device=device)[:, None] * speeds


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotates the pairs of x [B, H, T, D] by angles [T, D / 2]."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def save_masked_model(model: MaskedAudioModel, folder: str | Path, *, half: bool = False) -> None:
    """Writes config.json and model.safetensors.

    Args:
        half: store float16 for half the size; features are still float32.
    """
    folder = Path(folder)
    dtype = torch.float16 if half else torch.float32
    weights = {
        name: tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    with replacing(folder / "model.safetensors") as path:
        save_file(weights, path)
    write_config(folder, model.config, model_type=MODEL_TYPE)


def load_masked_model(folder: str | Path) -> MaskedAudioModel:
    """Loads a model from `save_masked_model`."""
    folder = Path(folder)
    model = MaskedAudioModel(read_config(folder, MaskedModelConfig, model_type=MODEL_TYPE))
    weights = read_safetensors(folder / "model.safetensors")
    check_weights(weights, model.state_dict(), source=folder)
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model.eval()
