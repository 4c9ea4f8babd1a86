"""Features of fairseq2's wav2vec 2 and w2v-BERT: the backend "fairseq2:" of `load_features`.

Requires fairseq2 (extra `parity`). The public w2v-BERT 2.0 weights are for `transformers`, not for
fairseq2's w2v-BERT.

Shapes: B batch, C channels, N samples, T frames, D width.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from audio_tokenizers.atomic import replacing
from audio_tokenizers.config_file import read_config, write_config
from audio_tokenizers.identity import hash_tensors
from audio_tokenizers.semantic.extractor import (
    WINDOW_SECONDS,
    first_layers,
    hop_and_field,
    num_frames,
)
from audio_tokenizers.semantic.frames import windows
from audio_tokenizers.semantic.inputs import check_layer, mix_to_mono
from audio_tokenizers.semantic.speech_inputs import (
    SAMPLE_RATE,
    LogMelSpectra,
    measure_level,
)
from audio_tokenizers.weights import check_weights, fits_float16, read_pickle, read_safetensors

MODEL_TYPE = "fairseq2-features"
_NORMALIZED = {"base": False, "large": False, "large_lv60k": True}
_W2VBERT_ARCHS = ("300m", "600m")
_USED = ("encoder_frontend", "encoder")


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """config.json of a saved model; fields as in `Fairseq2Features`."""

    arch: str
    normalize: bool


class Fairseq2Features:
    """Features of a wav2vec 2 or w2v-BERT of fairseq2, at 16 kHz and, for all presets, 50 Hz.

    Long audio is processed in windows, as in `features.TransformersFeatures`.

    Args:
        model: modified: set to evaluation mode, without gradients.
        normalize: normalise waveforms to zero mean and unit variance; w2v-BERT always normalises
            its log-mel spectra instead.
        window_seconds: length of the windows.
        arch: name of the model's architecture; required for saving.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        normalize: bool,
        window_seconds: float = WINDOW_SECONDS,
        arch: str | None = None,
    ) -> None:
        from fairseq2.models.w2vbert import W2VBertModel

        if window_seconds < 1:
            raise ValueError(f"Got windows of {window_seconds} s; expected 1 s or more.")
        model.train(False).requires_grad_(False)  # training drops layers at random
        self.is_w2vbert = isinstance(model, W2VBertModel)
        inner: Any = model.w2v2_model if self.is_w2vbert else model
        self.model = inner
        self.arch = arch
        self.normalize = normalize
        self.window_seconds = window_seconds
        extractor = inner.encoder_frontend.feature_extractor
        if self.is_w2vbert:
            self._hop = self._field = extractor.stride  # in spectra
            self._least = LogMelSpectra.window_length + LogMelSpectra.hop_length
        else:
            convs = [layer.conv for layer in extractor.layers]
            self._hop, self._field = hop_and_field(
                [conv.kernel_size[0] for conv in convs], [conv.stride[0] for conv in convs]
            )
            self._least = self._field

    @cached_property
    def identity(self) -> str:
        """Names the model, its settings and its weights; equal identities give equal features."""
        structure = [str(getattr(self.model, name)) for name in _USED]
        weights = hash_tensors(self.weights)
        parts = [*structure, str(self.normalize), str(self.window_seconds), weights]
        kind = "w2vbert" if self.is_w2vbert else "wav2vec2"
        return f"fairseq2-{kind}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights that features depend on, without those of the training objective."""
        weights = self.model.state_dict()
        return {name: weights[name] for name in weights if name.split(".")[0] in _USED}

    @property
    def sample_rate(self) -> int:
        return SAMPLE_RATE

    @property
    def frame_rate(self) -> float:
        return SAMPLE_RATE / (self._hop * (LogMelSpectra.hop_length if self.is_w2vbert else 1))

    @property
    def num_layers(self) -> int:
        return len(self.model.encoder.layers)

    @property
    def width(self) -> int:
        return self.model.model_dim

    def to(self, device: torch.device | str | None) -> "Fairseq2Features":
        """Moves the weights, and returns this extractor."""
        self.model.to(device)
        return self

    def features(self, samples: Tensor, layer: int) -> Tensor:
        """Activations after `layer` (0: the encoder's input) of samples [B, C, N]: [B, T, D]."""
        return torch.cat(list(self.feature_windows(samples, layer)), dim=1)

    @torch.no_grad()
    def feature_windows(self, samples: Tensor, layer: int) -> Iterator[Tensor]:
        """Yields the result of `features` in consecutive pieces along T, in constant memory."""
        from fairseq2.nn import BatchLayout

        check_layer(layer, num_layers=self.num_layers)
        mono = mix_to_mono(samples).to(next(self.model.parameters()).device)
        if mono.shape[1] < self._least:
            raise ValueError(
                f"Got {mono.shape[1]} samples, too few for one frame; expected at least "
                f"{self._least}. Pad them with zeros."
            )
        inputs, mean, deviation = mono, mono.new_zeros(()), mono.new_ones(())
        if self.is_w2vbert:
            inputs = torch.stack([_spectra(row.cpu()) for row in mono]).to(mono.device)
        elif self.normalize:
            mean, deviation = measure_level(mono, correction=0)
        T = num_frames(inputs.shape[1], hop=self._hop, field=self._field)
        # fairseq2's hooks cannot stop its encoder, so pass only the layers that are needed.
        encoder = first_layers(self.model.encoder, layer, layer_norm=None)
        size = round(self.window_seconds * self.frame_rate)
        for seen, kept in windows(T, size=size, margin=size // 10):
            stop = None if seen.stop == T else (seen.stop - 1) * self._hop + self._field
            piece = (inputs[:, seen.start * self._hop : stop] - mean) / deviation
            hidden, layout = self.model.encoder_frontend(piece, BatchLayout.of(piece))
            yield encoder(hidden, layout)[:, kept]


def load_fairseq2_features(
    source: str | Path,
    *,
    arch: str | None = None,
    device: torch.device | str | None = None,
    window_seconds: float = WINDOW_SECONDS,
) -> Fairseq2Features:
    """Loads a model of fairseq2; pickled code in a checkpoint never runs.

    Args:
        source: a fairseq2 model name such as wav2vec2_base, which is downloaded; a checkpoint in
            the layout of fairseq2 or fairseq; or a folder from `save_fairseq2_features`.
        arch: architecture of a checkpoint: base, large or large_lv60k for wav2vec 2, 300m or 600m
            for w2v-BERT; detected from the weights by default.
    """
    _check_installed()
    if Path(source).is_dir():
        extractor = _load_saved(Path(source), window_seconds=window_seconds)
    elif Path(source).is_file():
        arch = arch or find_arch(_read_weights(Path(source)))
        model = _load_checkpoint(Path(source), arch)
        extractor = _extractor(model, arch, window_seconds)
    else:
        model, arch = _load_named(str(source))
        extractor = _extractor(model, arch, window_seconds)
    return extractor.to(device)


def save_fairseq2_features(
    extractor: Fairseq2Features, folder: str | Path, *, half: bool = False
) -> None:
    """Writes config.json and model.safetensors: the weights that features depend on.

    Args:
        half: store float16 if that is exact.
    """
    if extractor.arch is None:
        raise ValueError(
            "Cannot save a fairseq2 model without the name of its architecture; load it with "
            "load_fairseq2_features."
        )
    weights = {name: each.detach().cpu().contiguous() for name, each in extractor.weights.items()}
    if half and fits_float16(weights):
        weights = {n: w.half() if w.is_floating_point() else w for n, w in weights.items()}
    with replacing(Path(folder) / "model.safetensors") as path:
        save_file(weights, path)
    saved = SavedModel(arch=extractor.arch, normalize=extractor.normalize)
    write_config(Path(folder), saved, model_type=MODEL_TYPE)


def find_arch(weights: Mapping[str, Tensor]) -> str:
    """Detects the architecture of weights in the layout of fairseq2 or fairseq."""
    layers = {int(m[1]) for name in weights if (m := re.search(r"encoder\.layers\.(\d+)\.", name))}
    num_layers = max(layers, default=-1) + 1
    if any(re.search(r"\.(depthwise_conv|conv_module)\.", name) for name in weights):
        found = {12: "300m", 24: "600m"}.get(num_layers)
    else:
        normed = re.compile(r"feature_extractor\.(layers\.1\.layer_norm|conv_layers\.1\.2\.1)\.")
        large = "large_lv60k" if any(map(normed.search, weights)) else "large"
        found = {12: "base", 24: large}.get(num_layers)
    if found is None:
        raise ValueError(
            f"Got weights of {num_layers} encoder layers; expected a wav2vec 2 or w2v-BERT of 12 "
            "or 24 layers."
        )
    return found


def _check_installed() -> None:
    try:
        import fairseq2  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "This model needs fairseq2; install it in a separate environment with: pip install "
            "'lm-audio[parity]'."
        ) from error


def _extractor(model: nn.Module, arch: str, window_seconds: float) -> Fairseq2Features:
    normalize = _NORMALIZED.get(arch, False)
    return Fairseq2Features(model, normalize=normalize, window_seconds=window_seconds, arch=arch)


def _hub(arch: str) -> Any:
    from fairseq2.models.w2vbert import get_w2vbert_model_hub
    from fairseq2.models.wav2vec2 import get_wav2vec2_model_hub

    if arch in _W2VBERT_ARCHS:
        return get_w2vbert_model_hub()
    if arch in _NORMALIZED:
        return get_wav2vec2_model_hub()
    known = ", ".join([*_NORMALIZED, *_W2VBERT_ARCHS])
    raise ValueError(f"Unknown architecture '{arch}'. Choose one of: {known}.")


def _read_weights(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    package = read_pickle(path)
    return package.get("model", package) if isinstance(package.get("model"), dict) else package


def _load_checkpoint(path: Path, arch: str) -> nn.Module:
    from fairseq2.model_checkpoint import CorruptModelCheckpointError

    hub = _hub(arch)
    try:
        return hub.load_custom_model(
            path,
            hub.get_arch_config(arch),
            device=torch.device("cpu"),
            dtype=torch.float32,
            restrict=True,
        )
    except CorruptModelCheckpointError as error:
        raise ValueError(
            f"{path} does not contain plain weights of the architecture {arch} ({error}); check "
            "the architecture, or save only the state dict."
        ) from error


def _load_named(name: str) -> tuple[nn.Module, str]:
    """A model from a fairseq2 model card, and its architecture."""
    from fairseq2.assets import AssetDownloadError

    cards = _cards()
    if name not in cards:
        raise ValueError(
            f"{name} is neither a path nor a fairseq2 model. Pass the path of a checkpoint, or one "
            f"of: {', '.join(sorted(cards))}."
        )
    hub, card = cards[name]
    arch = card.field("model_arch").as_(str)
    _hub(arch)  # raises for architectures with unknown input
    try:
        return hub.load_model(card, device=torch.device("cpu"), dtype=torch.float32), arch
    except AssetDownloadError as error:
        raise ConnectionError(f"{name} could not be downloaded ({error}); try again.") from error


def _cards() -> dict[str, tuple[Any, Any]]:
    """The fairseq2 model cards by name, each with its hub."""
    from fairseq2.assets import AssetCardError, AssetStore
    from fairseq2.runtime.dependency import get_dependency_resolver

    families = {"wav2vec2": _hub("base"), "w2vbert": _hub("600m")}
    store: Any = get_dependency_resolver().resolve(AssetStore)
    found = {}
    for name in store.asset_names:
        try:
            card = store.retrieve_card(name.removesuffix("@"))
        except AssetCardError:  # fairseq2 0.8.1 ships cards whose base is missing
            continue
        family = card.field("model_family").as_(str) if card.has_field("model_family") else ""
        if family in families:
            found[card.name] = (families[family], card)
    return found


def _load_saved(folder: Path, *, window_seconds: float) -> Fairseq2Features:
    saved = read_config(folder, SavedModel, model_type=MODEL_TYPE)
    hub = _hub(saved.arch)
    with torch.random.fork_rng():  # for weights that are replaced below
        model = hub.create_new_model(
            hub.get_arch_config(saved.arch), device=torch.device("cpu"), dtype=torch.float32
        )
    extractor = Fairseq2Features(
        model, normalize=saved.normalize, window_seconds=window_seconds, arch=saved.arch
    )
    weights = read_safetensors(folder / "model.safetensors")
    check_weights(weights, extractor.weights, source=folder)
    extractor.model.load_state_dict(weights, strict=False)  # without the training objective
    return extractor


def _spectra(mono: Tensor) -> Tensor:
    """Standardised log-mel spectra of samples [N]: [T', mels]."""
    from fairseq2.data.audio import WaveformToFbankConverter

    convert = WaveformToFbankConverter(
        num_mel_bins=80, waveform_scale=2**15, channel_last=True, standardize=True
    )
    return convert({"waveform": mono[:, None], "sample_rate": float(SAMPLE_RATE)})["fbank"]
