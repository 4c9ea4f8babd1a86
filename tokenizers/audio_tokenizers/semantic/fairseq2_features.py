"""Features of fairseq2's wav2vec 2 and w2v-BERT, as `features` gives those of `transformers`.

Needs the package `fairseq2` (extra `parity`). Public w2v-BERT 2.0 weights are for `transformers`,
not for the w2v-BERT of fairseq2.

Shapes: B batch, C channels, N samples, T frames, D width.
"""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audio_tokenizers.identity import hash_tensors
from audio_tokenizers.semantic.features import (
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

_NORMALIZED = {"base": False, "large": False, "large_lv60k": True}
_W2VBERT_ARCHS = ("300m", "600m")
_USED = ("encoder_frontend", "encoder")


class Fairseq2Features:
    """Features of a wav2vec 2 or w2v-BERT of fairseq2, at 16 kHz and, for all presets, 50 Hz.

    Long audio is seen in windows, as by `features.TransformersFeatures`.

    Args:
        model: taken over: put in evaluation mode, without gradients.
        normalize: give waveforms zero mean and unit variance; w2v-BERT always normalises its
            log-mel spectra instead.
        window_seconds: the length of the windows.
    """

    def __init__(
        self, model: nn.Module, *, normalize: bool, window_seconds: float = WINDOW_SECONDS
    ) -> None:
        from fairseq2.models.w2vbert import W2VBertModel

        if window_seconds < 1:
            raise ValueError(f"Got windows of {window_seconds} s; expected 1 s or more.")
        model.train(False).requires_grad_(False)  # in training, layers are dropped at random
        self.is_w2vbert = isinstance(model, W2VBertModel)
        inner: Any = model.w2v2_model if self.is_w2vbert else model
        self.model = inner
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
        weights = self.model.state_dict()
        used = {name: weights[name] for name in weights if name.split(".")[0] in _USED}
        structure = [str(getattr(self.model, name)) for name in _USED]
        parts = [*structure, str(self.normalize), str(self.window_seconds), hash_tensors(used)]
        kind = "w2vbert" if self.is_w2vbert else "wav2vec2"
        return f"fairseq2-{kind}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"

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

    def to(self, device: torch.device | str) -> "Fairseq2Features":
        """Moves the weights, and returns this extractor."""
        self.model.to(device)
        return self

    def features(self, samples: Tensor, layer: int) -> Tensor:
        """Activations after `layer` (0: the encoder's input) of samples [B, C, N]: [B, T, D]."""
        return torch.cat(list(self.feature_windows(samples, layer)), dim=1)

    @torch.no_grad()
    def feature_windows(self, samples: Tensor, layer: int) -> Iterator[Tensor]:
        """What `features` gives, in consecutive pieces along T, in constant memory."""
        from fairseq2.nn import BatchLayout

        check_layer(layer, num_layers=self.num_layers)
        mono = mix_to_mono(samples).to(next(self.model.parameters()).device)
        if mono.shape[1] < self._least:
            raise ValueError(
                f"Got {mono.shape[1]} samples, too few for one frame; expected {self._least} or "
                "more, pad them with zeros."
            )
        inputs, mean, deviation = mono, mono.new_zeros(()), mono.new_ones(())
        if self.is_w2vbert:
            inputs = torch.stack([_spectra(row.cpu()) for row in mono]).to(mono.device)
        elif self.normalize:
            mean, deviation = measure_level(mono, correction=0)
        T = num_frames(inputs.shape[1], hop=self._hop, field=self._field)
        # The hooks of fairseq2 cannot stop its encoder, so it gets no more layers than it needs.
        encoder = first_layers(self.model.encoder, layer, layer_norm=None)
        size = round(self.window_seconds * self.frame_rate)
        for seen, kept in windows(T, size=size, margin=size // 10):
            stop = None if seen.stop == T else (seen.stop - 1) * self._hop + self._field
            piece = (inputs[:, seen.start * self._hop : stop] - mean) / deviation
            hidden, layout = self.model.encoder_frontend(piece, BatchLayout.of(piece))
            yield encoder(hidden, layout)[:, kept]


def load_fairseq2_features(
    path: str | Path,
    *,
    arch: str,
    device: torch.device | str = "cpu",
    window_seconds: float = WINDOW_SECONDS,
) -> Fairseq2Features:
    """Loads a checkpoint in the layout of fairseq2 or fairseq; pickled code in it never runs.

    Args:
        arch: base, large or large_lv60k for wav2vec 2; 300m or 600m for w2v-BERT.
    """
    from fairseq2.model_checkpoint import CorruptModelCheckpointError
    from fairseq2.models.w2vbert import get_w2vbert_model_hub
    from fairseq2.models.wav2vec2 import get_wav2vec2_model_hub

    if arch in _W2VBERT_ARCHS:
        hub: Any = get_w2vbert_model_hub()
    elif arch in _NORMALIZED:
        hub = get_wav2vec2_model_hub()
    else:
        known = ", ".join([*_NORMALIZED, *_W2VBERT_ARCHS])
        raise ValueError(f"Unknown architecture '{arch}'. Choose one of: {known}.")
    if not Path(path).is_file():
        raise ValueError(f"Found no file {path}; check the path.")
    try:
        model = hub.load_custom_model(
            Path(path),
            hub.get_arch_config(arch),
            device=torch.device(device),
            dtype=torch.float32,
            restrict=True,
        )
    except CorruptModelCheckpointError as error:
        raise ValueError(
            f"{path} does not hold plain weights of the architecture {arch} ({error}); check "
            "the architecture, or save the state dict alone."
        ) from error
    normalize = _NORMALIZED.get(arch, False)
    return Fairseq2Features(model, normalize=normalize, window_seconds=window_seconds)


def _spectra(mono: Tensor) -> Tensor:
    """Standardised log-mel spectra of samples [N]: [T', mels]."""
    from fairseq2.data.audio import WaveformToFbankConverter

    convert = WaveformToFbankConverter(
        num_mel_bins=80, waveform_scale=2**15, channel_last=True, standardize=True
    )
    return convert({"waveform": mono[:, None], "sample_rate": float(SAMPLE_RATE)})["fbank"]
