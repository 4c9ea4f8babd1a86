"""The language of audio of a recording: the pooled embeddings of its spectrogram.

AudioLDM 2 was trained on those of AudioMAE (arXiv 2207.06405), a vision transformer over log-mels:
the mean of the outputs of its last three blocks, each normalised. Models that we train can have our
own masked audio model in its place.

Shapes: C channels, N samples, T places in time, P places in frequency, D width, L vectors.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_tokenizers.identity import hash_model
from audio_tokenizers.semantic.masked_model import (
    MODEL_TYPE,
    MaskedAudioModel,
    load_masked_model,
    rotary_angles,
)
from audio_tokenizers.semantic.speech_inputs import SAMPLE_RATE, LogMelSpectra
from audio_tokenizers.weights import no_progress_bars
from lm_audio.saving.files import folder_of, read_json, read_weights
from lm_audio.saving.part_folder import read_config

SECONDS = 10.24
"""The window of our own model, which is AudioMAE's."""
NUM_STATES = 3  # the last outputs of blocks that are averaged
# Of AudioSet's log-mels; AudioMAE divides by twice the deviation.
MEAN, DEVIATION = -4.2677393, 4.5689974
HEAD_DIM = 64  # of timm's vision transformers of the usual sizes
_UNUSED = ("pooler.", "head.", "classifier.")
_LAYER = "encoder.layer."
TIMM_NAMES = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "norm": "layernorm",
}
TIMM_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


class PatchEncoder(Protocol):
    """Embeds the patches of a window of sound."""

    sample_rate: int
    num_samples: int
    """In a window."""

    @property
    def dim(self) -> int: ...

    @property
    def settings(self) -> str:
        """What the result depends on besides the weights."""

    def grid(self, samples: Tensor) -> Tensor:
        """The embeddings [T, P, D] of a whole window [N]."""


class VitPatches(nn.Module):
    """AudioMAE's encoder: all patches of log-mel spectra, without the class token.

    Args:
        model: a ViTModel of transformers; its images are [time, mels].
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.num_spectra, num_mels = model.config.image_size
        self.places = tuple(size // model.config.patch_size for size in model.config.image_size)
        self._spectra = LogMelSpectra(num_mels=num_mels, window="hann", full_scale=1)

    @property
    def num_samples(self) -> int:
        return int(self.num_spectra * LogMelSpectra.hop_length)

    @property
    def dim(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def settings(self) -> str:
        config = self.model.config
        heads, eps = config.num_attention_heads, config.layer_norm_eps
        return f"vit {config.image_size} {config.patch_size} {heads} {eps} {config.hidden_act}"

    def grid(self, samples: Tensor) -> Tensor:
        spectra = self._spectra(samples[None])
        missing = self.num_spectra - spectra.shape[1]
        image = (F.pad(spectra, (0, 0, 0, missing)) - MEAN) / (2 * DEVIATION)
        made = self.model(image[None], output_hidden_states=True)  # [1, 1, time, mels]
        outputs = made.hidden_states[1:][-NUM_STATES:]  # the first are the embedded patches
        states = [self.model.layernorm(x)[0, 1:] for x in outputs]
        return torch.stack(states).mean(dim=0).unflatten(0, self.places)


class MaskedPatches(nn.Module):
    """Our own masked audio model, whose patches span all frequencies: P = 1."""

    def __init__(self, model: MaskedAudioModel) -> None:
        super().__init__()
        self.model = model
        self.sample_rate = model.sample_rate
        self.num_samples = round(SECONDS * model.frame_rate) * model.config.hop_length

    @property
    def dim(self) -> int:
        return self.model.width

    @property
    def settings(self) -> str:
        return repr(self.model.config)

    def grid(self, samples: Tensor) -> Tensor:
        model = self.model
        x = model.embed(model.patches(samples[None, None]))
        head_size = model.config.width // model.config.num_heads
        angles = rotary_angles(x.shape[1], head_size, x.device)
        states = []
        for block in model.blocks:
            x = block(x, angles)
            states.append(model.norm(x[0]))
        return torch.stack(states[-NUM_STATES:]).mean(dim=0)[:, None]


class AudioLanguageEncoder:
    """Sound to the language of audio.

    Args:
        num_vectors: of the result.
    """

    def __init__(self, patches: PatchEncoder, *, num_vectors: int) -> None:
        assert isinstance(patches, nn.Module)
        self.patches: Any = patches.eval().requires_grad_(False)
        self.num_vectors = num_vectors
        self.pooled(torch.zeros(1, patches.num_samples))  # raises unless their number fits

    @property
    def sample_rate(self) -> int:
        return int(self.patches.sample_rate)

    @property
    def num_samples(self) -> int:
        """In the window that it encodes."""
        return int(self.patches.num_samples)

    @property
    def dim(self) -> int:
        return int(self.patches.dim)

    @property
    def identity(self) -> str:
        """Names the encoder, its weights and the number of vectors."""
        settings = f"{self.num_vectors} {self.patches.settings}"
        return f"audio-language-{hash_model(settings, self.patches.state_dict())}"

    def encode(self, samples: Tensor) -> Tensor:
        """The vectors [D, L] of samples [C, N]; a short sound is padded with silence."""
        if samples.shape[1] > self.num_samples:
            warnings.warn(
                f"The language of audio describes the first "
                f"{self.num_samples / self.sample_rate:g} seconds of a sound. The rest is ignored.",
                stacklevel=2,
            )
        return self.pooled(samples[:, : self.num_samples])

    @torch.no_grad()
    def pooled(self, samples: Tensor) -> Tensor:
        """The vectors [D, L] of at most one window [C, N]."""
        device = next(self.patches.parameters()).device
        mono = samples.float().mean(dim=0).to(device)
        grid = self.patches.grid(F.pad(mono, (0, self.num_samples - len(mono))))
        return pool(grid.cpu(), self.num_vectors)


def pool(grid: Tensor, num_vectors: int) -> Tensor:
    """The mean of average and maximum over equal squares, or stretches of time: [D, L].

    Args:
        grid: embeddings [T, P, D].
    """
    T, P, _ = grid.shape
    size = pool_sizes(T, P).get(num_vectors)
    if size is None:
        known = ", ".join(map(str, sorted(pool_sizes(T, P))))
        raise ValueError(
            f"The audio encoder can make {known} vectors of a sound, but the model needs "
            f"{num_vectors}."
        )
    image = grid.permute(2, 0, 1)[None]  # [1, D, T, P]
    both = (F.avg_pool2d(image, size) + F.max_pool2d(image, size)) / 2
    return both[0].flatten(1)


def pool_sizes(T: int, P: int) -> dict[int, tuple[int, int]]:
    """The sizes that divide a grid [T, P], by the number of vectors that they give."""
    sizes = [(i, i if P > 1 else 1) for i in range(1, T + 1)]
    return {T // t * (P // p): (t, p) for t, p in sizes if T % t == 0 and P % p == 0}


def load_audio_encoder(source: str | Path, *, num_vectors: int) -> AudioLanguageEncoder:
    """Reads a vision transformer in the layout of transformers or timm, or our masked audio model.

    Raises ValueError for anything else.
    """
    folder = folder_of(source)
    config = read_json(folder / "config.json")
    patches: Any
    if config.get("model_type") == MODEL_TYPE:
        patches = MaskedPatches(load_masked_model(folder))
    elif config.get("model_type") == "vit" or "architecture" in config:
        patches = VitPatches(_vit(folder, config))
    else:
        raise ValueError(
            f"{folder} has no audio encoder that we know. Expected a config.json of a ViTModel of "
            f"transformers, of a vision transformer of timm, or of a {MODEL_TYPE}."
        )
    return AudioLanguageEncoder(patches, num_vectors=num_vectors)


def _vit(folder: Path, config: Mapping[str, Any]) -> Any:
    """A ViTModel; transformers translates between its own names of weights."""
    from transformers import ViTModel

    weights = read_weights(folder)
    if "architecture" in config:
        weights = _transformers_names(weights)
    made = read_config(folder / "config.json", lambda found: _vit_config(found, weights))
    bare = {name.removeprefix("vit."): weight.float() for name, weight in weights.items()}
    with no_progress_bars():
        loaded: Any = ViTModel.from_pretrained(
            None,
            config=made,
            state_dict={n: w for n, w in bare.items() if not n.startswith(_UNUSED)},
            add_pooling_layer=False,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    model, info = loaded
    misshapen = [x if isinstance(x, str) else x[0] for x in info["mismatched_keys"]]
    if wrong := {*info["missing_keys"], *info["unexpected_keys"], *misshapen}:
        raise ValueError(
            f"{folder}: weights that are missing, unexpected or of another shape: "
            f"{', '.join(sorted(wrong))}."
        )
    return model


def _vit_config(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    """A ViTConfig; timm states only what differs from the named architecture."""
    from transformers import ViTConfig

    if "architecture" in config:
        width, _, patch, _ = weights["embeddings.patch_embeddings.projection.weight"].shape
        given = config.get("model_args", {})
        made = ViTConfig(
            image_size=given.get("img_size", (1024, 128)),
            num_channels=given.get("in_chans", 1),
            patch_size=given.get("patch_size", patch),
            hidden_size=width,
            num_hidden_layers=1 + max(int(x.split(".")[2]) for x in weights if _LAYER in x),
            num_attention_heads=given.get("num_heads", width // HEAD_DIM),
            intermediate_size=len(weights[f"{_LAYER}0.intermediate.dense.bias"]),
            layer_norm_eps=1e-6,
        )
    else:
        made = ViTConfig(**config)
    size = made.image_size
    if made.num_channels != 1 or not isinstance(size, list | tuple) or len(size) != 2:
        raise ValueError(
            f"expected images of one channel, [time, mels], got {made.num_channels} channels of "
            f"{size}."
        )
    return made


def _transformers_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with timm's names under those of transformers' files."""
    made: dict[str, Tensor] = {}
    for name, weight in weights.items():
        stem, _, kind = name.rpartition(".")
        if name in TIMM_NAMES:
            made[TIMM_NAMES[name]] = weight
        elif stem in TIMM_NAMES:
            made[f"{TIMM_NAMES[stem]}.{kind}"] = weight
        elif stem.startswith("blocks."):
            _, number, part = stem.split(".", 2)
            prefix = f"{_LAYER}{number}."
            if part == "attn.qkv":
                parts = zip(("query", "key", "value"), weight.chunk(3), strict=True)
                made |= {f"{prefix}attention.attention.{x}.{kind}": w for x, w in parts}
            else:
                made[f"{prefix}{TIMM_BLOCK.get(part, part)}.{kind}"] = weight
        else:
            made[name] = weight
    return made
