"""Features of self-supervised models: loading by name, and the backend `transformers`.

`load_features` chooses the backend: `transformers` for wav2vec 2, HuBERT, WavLM and w2v-BERT 2.0,
`masked_model` for our own, `fairseq2_features` for names that begin with "fairseq2:". Models of
`transformers` run up to the requested layer, on input prepared as by their own feature extractors.
Clusters of these features are semantic tokens (AudioLM, arXiv 2209.03143): see `kmeans` and
`tokenizer`. Checkpoints cannot run code.

Shapes: B batch, C channels, N samples, T frames, D width.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audio_tokenizers.hub import hub_access, is_hub_id
from audio_tokenizers.identity import hash_tensors
from audio_tokenizers.semantic.extractor import (
    WINDOW_SECONDS,
    FeatureExtractor,
    first_layers,
    hop_and_field,
    num_frames,
)
from audio_tokenizers.semantic.fairseq2_features import MODEL_TYPE as FAIRSEQ2_TYPE
from audio_tokenizers.semantic.fairseq2_features import (
    Fairseq2Features,
    load_fairseq2_features,
    save_fairseq2_features,
)
from audio_tokenizers.semantic.frames import windows
from audio_tokenizers.semantic.inputs import check_layer, mix_to_mono
from audio_tokenizers.semantic.masked_model import MODEL_TYPE as MASKED_MODEL_TYPE
from audio_tokenizers.semantic.masked_model import (
    MaskedAudioModel,
    load_masked_model,
    save_masked_model,
)
from audio_tokenizers.semantic.speech_inputs import (
    SAMPLE_RATE,
    LogMelSpectra,
    measure_level,
)
from audio_tokenizers.weights import fits_float16

FAIRSEQ2_PREFIX = "fairseq2:"
SPECTRA_PER_FRAME = 2  # of w2v-BERT
_CLASSES = {
    "hubert": "HubertModel",
    "wav2vec2": "Wav2Vec2Model",
    "wav2vec2-bert": "Wav2Vec2BertModel",
    "wavlm": "WavLMModel",
}
_SETTINGS = (
    "conv_bias", "conv_depthwise_kernel_size", "conv_kernel", "conv_pos_batch_norm", "conv_stride",
    "do_stable_layer_norm", "feat_extract_activation", "feat_extract_norm", "feat_proj_layer_norm",
    "hidden_act", "layer_norm_eps", "left_max_position_embeddings", "max_bucket_distance",
    "max_source_positions", "num_attention_heads", "num_buckets", "num_conv_pos_embedding_groups",
    "num_conv_pos_embeddings", "num_hidden_layers", "position_embeddings_type",
    "right_max_position_embeddings", "rotary_embedding_base",
)  # fmt: skip
_USED_WEIGHTS = ("encoder.", "feature_extractor.", "feature_projection.")


class TransformersFeatures:
    """Features of a model of `transformers`, at 16 kHz and, for all public models, 50 Hz.

    Audio longer than a window is processed in windows that overlap by a tenth on each side. Since
    these models attend to their whole input, frames of long audio differ slightly from those of a
    single pass, most of all near the joins. Input normalisation still uses the whole audio.

    Args:
        model: modified: set to evaluation mode, without gradients.
        normalize: normalise waveforms to zero mean and unit variance, as set by `do_normalize` in
            the model's preprocessor settings; w2v-BERT always normalises its log-mel spectra
            instead.
        window_seconds: length of the windows.
    """

    def __init__(
        self, model: nn.Module, *, normalize: bool, window_seconds: float = WINDOW_SECONDS
    ) -> None:
        if window_seconds < 1:
            raise ValueError(f"Got windows of {window_seconds} s; expected 1 s or more.")
        self.model: Any = model
        self.model.train(False).requires_grad_(False)
        self.normalize = normalize
        self.window_seconds = window_seconds
        config: Any = self.model.config
        self._spectra = LogMelSpectra() if config.model_type == "wav2vec2-bert" else None
        if self._spectra is not None:
            self._hop = self._field = SPECTRA_PER_FRAME
            self._least = LogMelSpectra.window_length + LogMelSpectra.hop_length
        else:
            self._hop, self._field = hop_and_field(config.conv_kernel, config.conv_stride)
            self._least = self._field

    @cached_property
    def identity(self) -> str:
        """Names the model, its settings and its weights; equal identities give equal features."""
        config = self.model.config
        settings = [getattr(config, name, None) for name in _SETTINGS]
        weights = self.model.state_dict()
        used = {name: weights[name] for name in weights if name.startswith(_USED_WEIGHTS)}
        parts = [settings, self.normalize, self.window_seconds, hash_tensors(used)]
        digest = hashlib.sha256(json.dumps(parts, default=list).encode()).hexdigest()
        return f"{config.model_type}-{digest[:16]}"

    @property
    def sample_rate(self) -> int:
        return SAMPLE_RATE

    @property
    def frame_rate(self) -> float:
        step = 1 if self._spectra is None else LogMelSpectra.hop_length
        return self.sample_rate / (self._hop * step)

    @property
    def num_layers(self) -> int:
        return self.model.config.num_hidden_layers

    @property
    def width(self) -> int:
        return self.model.config.hidden_size

    def to(self, device: torch.device | str) -> "TransformersFeatures":
        """Moves the weights, and returns this extractor."""
        self.model.to(device)
        return self

    def features(self, samples: Tensor, layer: int) -> Tensor:
        """Activations after `layer` (0: the encoder's input) of samples [B, C, N]: [B, T, D].

        They are the layer's own output, `hidden_states[layer]`, also for the last layer, which
        version 4 of `transformers` normalises in models with a final norm.
        """
        return torch.cat(list(self.feature_windows(samples, layer)), dim=1)

    @torch.no_grad()
    def feature_windows(self, samples: Tensor, layer: int) -> Iterator[Tensor]:
        """Yields the result of `features` in consecutive pieces along T, in constant memory."""
        check_layer(layer, num_layers=self.num_layers)
        mono = mix_to_mono(samples).to(self.model.device)
        if mono.shape[1] < self._least:
            raise ValueError(
                f"Got {mono.shape[1]} samples, too few for one frame; expected at least "
                f"{self._least}. Pad them with zeros."
            )
        inputs = mono if self._spectra is None else self._spectra(mono)
        mean, deviation = self._level(inputs)
        T = num_frames(inputs.shape[1], hop=self._hop, field=self._field)
        ends_normed = getattr(self.model.config, "do_stable_layer_norm", False)
        identity = {"layer_norm": nn.Identity()} if ends_normed else {}
        encoder = first_layers(self.model.encoder, layer, **identity)
        size = round(self.window_seconds * self.frame_rate)
        for seen, kept in windows(T, size=size, margin=size // 10):
            stop = None if seen.stop == T else (seen.stop - 1) * self._hop + self._field
            piece = (inputs[:, seen.start * self._hop : stop] - mean) / deviation
            yield encoder(self._project(piece)).last_hidden_state[:, kept]

    def _level(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The mean to subtract from the inputs, and the deviation to divide them by."""
        if self._spectra is not None:
            return measure_level(inputs, correction=1)
        if self.normalize:
            return measure_level(inputs, correction=0)
        return inputs.new_zeros(()), inputs.new_ones(())

    def _project(self, inputs: Tensor) -> Tensor:
        """From samples [B, N'] or spectra [B, 2 T', mels] to the encoder's input [B, T', D]."""
        if self._spectra is None:
            inputs = self.model.feature_extractor(inputs).transpose(1, 2)  # [B, T', D']
        else:
            inputs = inputs[:, : inputs.shape[1] // SPECTRA_PER_FRAME * SPECTRA_PER_FRAME]
            inputs = inputs.unflatten(1, (-1, SPECTRA_PER_FRAME)).flatten(2)  # [B, T', 2 mels]
        projected = self.model.feature_projection(inputs)
        return projected[0] if isinstance(projected, tuple) else projected


def load_features(
    source: str | Path,
    *,
    device: torch.device | str | None = None,
    window_seconds: float = WINDOW_SECONDS,
) -> FeatureExtractor:
    """Loads wav2vec 2, HuBERT, WavLM, w2v-BERT 2.0 or our masked model.

    Args:
        source: a folder, a hub id, or "fairseq2:" and a model name or checkpoint of fairseq2.
        window_seconds: as in `TransformersFeatures`; ignored by our masked model.
    """
    if str(source).startswith(FAIRSEQ2_PREFIX):
        name = str(source).removeprefix(FAIRSEQ2_PREFIX)
        return load_fairseq2_features(name, device=device, window_seconds=window_seconds)
    if not is_hub_id(source) and not Path(source).is_dir():
        raise ValueError(f"No such folder: {source}")
    with hub_access(source):
        kind = _model_type(source)
        if kind == MASKED_MODEL_TYPE:
            return load_masked_model(source).to(device)
        if kind == FAIRSEQ2_TYPE:
            return load_fairseq2_features(source, device=device, window_seconds=window_seconds)
        return _load_transformers(source, kind, device=device, window_seconds=window_seconds)


def _model_type(source: str | Path) -> str | None:
    path = Path(source, "config.json")
    if path.is_file():  # without transformers, which takes a second to import
        config = json.loads(path.read_text())
        return config.get("model_type") if isinstance(config, dict) else None
    from transformers import Wav2Vec2Config

    try:
        return Wav2Vec2Config.get_config_dict(source)[0].get("model_type")
    except OSError as error:
        if Path(source).is_dir():
            raise
        raise ValueError(
            f"Found no model {source!r}: not a local folder, not in the cache, and not on the hub "
            "or the hub is not reachable."
        ) from error


def _load_transformers(
    source: str | Path,
    kind: str | None,
    *,
    device: torch.device | str | None,
    window_seconds: float,
) -> FeatureExtractor:
    import transformers

    if kind not in _CLASSES:
        known = ", ".join([*_CLASSES, MASKED_MODEL_TYPE, FAIRSEQ2_TYPE])
        raise ValueError(f"Got {source}, a model of type {kind}; expected one of: {known}.")
    normalize = kind != "wav2vec2-bert" and _reads_normalized(source)
    model, report = getattr(transformers, _CLASSES[kind]).from_pretrained(
        source, dtype=torch.float32, output_loading_info=True
    )
    wrong = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    if wrong := [name for name in wrong if name.startswith(_USED_WEIGHTS)]:
        raise ValueError(
            f"{source}: missing weights or weights of wrong shape: {', '.join(sorted(wrong))}; "
            "expected a complete checkpoint."
        )
    return TransformersFeatures(
        model.to(device), normalize=normalize, window_seconds=window_seconds
    )


def save_features(extractor: FeatureExtractor, folder: str | Path, *, half: bool = False) -> None:
    """Saves a model for `load_features`; the loaded model has the same identity.

    The window length is not saved here, but by `save_feature_tokenizer`.

    Args:
        half: store float16 if that is exact.
    """
    import transformers

    if isinstance(extractor, MaskedAudioModel):
        half = half and fits_float16(extractor.state_dict())
        save_masked_model(extractor, folder, half=half)
    elif isinstance(extractor, Fairseq2Features):
        save_fairseq2_features(extractor, folder, half=half)
    elif isinstance(extractor, TransformersFeatures):
        extractor.model.save_pretrained(folder)
        if extractor.model.config.model_type != "wav2vec2-bert":
            preparation: Any = transformers.Wav2Vec2FeatureExtractor
            preparation(do_normalize=extractor.normalize).save_pretrained(folder)
    else:
        raise ValueError(
            f"Cannot save a model of class {type(extractor).__name__}; supported types: "
            f"{', '.join([*_CLASSES, MASKED_MODEL_TYPE, FAIRSEQ2_TYPE])}."
        )


def _reads_normalized(source: str | Path) -> bool:
    from transformers import Wav2Vec2FeatureExtractor

    try:
        settings, _ = Wav2Vec2FeatureExtractor.get_feature_extractor_dict(source)
    except OSError as error:
        raise ValueError(
            f"{source} lacks preprocessor_config.json, which sets whether the model's input is "
            "normalised (do_normalize); add the file."
        ) from error
    rate = settings.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise ValueError(
            f"{source} takes audio at {rate} Hz; expected a model for {SAMPLE_RATE} Hz."
        )
    return bool(settings.get("do_normalize", True))
