"""RAVE: a variational autoencoder of bands that runs in real time, as a codec and an instrument.

A model shows its latents [D, T]: change them and decode, or encode a sound with a model that was
trained on another. Tokens are those of the quantiser that a discrete model was trained with, or of
one that was fitted to the leading latent dimensions afterwards (`latent_analysis.py`).

All random numbers are counted, so decoding is deterministic, and every layer gives the same bits
whole and in a stream, causal or not (`layers.py`). Written from the paper (Caillon and Esling,
arXiv 2111.05011) and published figures, not from the code of the authors. For training see
recipes/train_rave.py.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from audio_tokenizers import protocol
from audio_tokenizers.acoustic import inputs
from audio_tokenizers.acoustic.rave.config import RaveConfig
from audio_tokenizers.acoustic.rave.layers import Conv, Downsample, Upsample, row_product
from audio_tokenizers.acoustic.rave.live import Edit, LiveStream
from audio_tokenizers.acoustic.rave.networks import Decoder, Encoder
from audio_tokenizers.acoustic.rave.pqmf import PQMF
from audio_tokenizers.acoustic.rave.streams import (
    LatentStream,
    SampleStream,
    ToLatents,
    ToSamples,
    with_noise,
)
from audio_tokenizers.acoustic.streaming import DecoderStream, EncoderStream
from audio_tokenizers.atomic import replacing
from audio_tokenizers.config_file import read_config, write_config
from audio_tokenizers.identity import hash_model
from audio_tokenizers.weights import check_weights, read_safetensors

MODEL_TYPE = "rave"
PIECE_SAMPLES = 2**15  # of one step of a whole call; the activations of more leave the caches


@dataclass(frozen=True, kw_only=True)
class RaveOutput:
    """Outputs of a training step: samples [B, C, N], bands [B, R, C * M], true and predicted, and
    the regularisation of the latents, a scalar."""

    samples: Tensor
    true_bands: Tensor
    bands: Tensor
    regularisation: Tensor


class RaveCodec(nn.Module):
    """A trainable AcousticTokenizer that shows its latents.

    Args:
        trainable: normalise the weights, and make the quantiser of a discrete model, which takes
            two seconds more to import.
    """

    latent_mean: Tensor
    latent_pca: Tensor
    fidelity: Tensor
    codebooks: Tensor

    def __init__(self, config: RaveConfig, *, trainable: bool = True) -> None:
        super().__init__()
        self.config = config
        D, K, V = config.latent_size, config.num_codebooks, config.codebook_size
        self.pqmf = PQMF(config.num_bands, num_channels=config.num_channels)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.register_buffer("latent_mean", torch.zeros(D))
        self.register_buffer("latent_pca", torch.eye(D))  # a row for each component
        self.register_buffer("fidelity", torch.zeros(D))  # share of variance of the first ones
        self.register_buffer("codebooks", torch.zeros(K, V, config.quantised_dims))
        self.quantizer: Any = None
        if trainable:
            for layer in self.layers():
                weight_norm(layer)
            if config.bottleneck == "discrete":
                self.quantizer = _residual_vq(config)

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def num_channels(self) -> int:
        return self.config.num_channels

    @property
    def hop_length(self) -> int:
        return self.config.hop_length

    @property
    def frame_rate(self) -> float:
        return self.config.sample_rate / self.config.hop_length

    @property
    def num_codebooks(self) -> int:
        return self.config.num_codebooks

    @property
    def codebook_size(self) -> int:
        return self.config.codebook_size

    @property
    def latent_size(self) -> int:
        """D, the number of latent dimensions; the first ones matter most."""
        return self.config.latent_size

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the networks run in."""
        return self.layers()[0].weight.dtype

    @property
    def has_codebooks(self) -> bool:
        """Whether the model can make tokens."""
        return self.config.quantised_dims > 0 and bool(self.codebooks.any())

    @property
    def identity(self) -> str:
        """Names the settings and weights that make tokens. The decoder may still be trained."""
        weights = self.inference_weights()
        making = {name: weights[name] for name in weights if not name.startswith("decoder.")}
        digest = hash_model(repr(asdict(self.config)), making)
        return f"{MODEL_TYPE}-{self.sample_rate}-{digest}"

    def forward(
        self, samples: Tensor, *, sample: bool = True, frozen_encoder: bool = False
    ) -> RaveOutput:
        """The training pass over samples [B, C, N], N a multiple of the hop.

        Args:
            sample: draw latents of a Gaussian model instead of taking their means.
            frozen_encoder: its gradients are 0, and a discrete model's codebooks do not change.
        """
        bands = self.pqmf.analyse(samples)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen_encoder):
            latents, regularisation = self.bottleneck(
                self.encoder(bands), sample=sample, frozen=frozen_encoder
            )
        if frozen_encoder:  # processes wait for the gradients of all weights
            latents = latents + 0 * sum(w.sum() for w in self.encoder.parameters())
        predicted = self.decoder(latents)
        return RaveOutput(
            samples=self.pqmf.synthesise(predicted),
            true_bands=bands,
            bands=predicted,
            regularisation=regularisation,
        )

    def bottleneck(
        self, encoded: Tensor, *, sample: bool, frozen: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Encoded frames [B, T, ...] to latents [B, T, D] and their regularisation."""
        encoded = encoded.float()
        if self.config.bottleneck == "discrete":
            with torch.autocast(encoded.device.type, enabled=False):
                latents, _, losses = self.quantizer(encoded, freeze_codebook=frozen)
            return latents, losses.sum()
        mean, scale = encoded.chunk(2, dim=2)
        deviation = F.softplus(scale) + 1e-4
        divergence = (mean.square() + deviation.square() - 2 * deviation.log() - 1) / 2
        latents = mean + torch.randn_like(mean) * deviation if sample else mean
        return latents, divergence.sum(2).mean()

    @torch.no_grad()
    def latents(self, samples: Tensor) -> Tensor:
        """Samples [B, C, N] -> latents [B, D, T], the dimensions that vary most first."""
        inputs.check_samples(samples, num_channels=self.num_channels)
        stream = self.latent_stream()
        return torch.cat([*map(stream.push, self._pieces(samples)), stream.finish()], dim=2)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor, *, num_samples: int | None = None) -> Tensor:
        """Latents [B, D', T], of the first 1 to D dimensions, -> samples [B, C, N].

        The other dimensions get counted Gaussian noise, which is what they hold in training.
        """
        stream = self.sample_stream()
        pieces = latents.split(max(1, PIECE_SAMPLES // self.hop_length), dim=-1)
        samples = torch.cat([*map(stream.push, pieces), stream.finish()], dim=2)
        if samples.shape[2] == 0:
            raise ValueError(f"Got latents of shape {list(latents.shape)}; expected a frame.")
        return samples[..., : inputs.check_num_samples(num_samples, available=samples.shape[2])]

    @torch.no_grad()
    def encode(self, samples: Tensor, *, num_codebooks: int | None = None) -> Tensor:
        inputs.check_samples(samples, num_channels=self.num_channels)
        stream = self.encoder_stream(num_codebooks=num_codebooks)
        return torch.cat([*map(stream.push, self._pieces(samples)), stream.finish()], dim=2)

    def gains(self, samples: Tensor) -> None:
        """None: this codec does not normalise."""
        inputs.check_samples(samples, num_channels=self.num_channels)

    @torch.no_grad()
    def decode(
        self, tokens: Tensor, *, num_samples: int | None = None, gains: Tensor | None = None
    ) -> Tensor:
        stream = self.decoder_stream(gains=gains)
        inputs.check_tokens(
            tokens, num_codebooks=self.num_codebooks, codebook_size=self.codebook_size
        )
        pieces = tokens.split(max(1, PIECE_SAMPLES // self.hop_length), dim=2)
        samples = torch.cat([*map(stream.push, pieces), stream.finish()], dim=2)
        return samples[..., : inputs.check_num_samples(num_samples, available=samples.shape[2])]

    def encoder_stream(self, *, num_codebooks: int | None = None) -> protocol.EncoderStream:
        self._check_codebooks()
        wanted = inputs.check_num_codebooks(num_codebooks, available=self.num_codebooks)
        return EncoderStream(
            ToLatents(self),
            partial(self.quantize, num_codebooks=wanted),
            num_channels=self.num_channels,
            num_codebooks=wanted,
            whole_frames=self.hop_length,
        )

    def decoder_stream(self, *, gains: Tensor | None = None) -> protocol.DecoderStream:
        self._check_codebooks()
        inputs.check_no_gains(gains)
        return DecoderStream(
            ToSamples(self),
            self.dequantize,
            num_channels=self.num_channels,
            num_codebooks=self.num_codebooks,
            codebook_size=self.codebook_size,
            hop_length=self.hop_length,
        )

    def latents_of(self, tokens: Tensor) -> Tensor:
        """The latents [B, D, T] of tokens [B, K, T]: `decode_latents` decodes them as `decode`."""
        return with_noise(self.dequantize(tokens), first=0, latent_size=self.latent_size)

    def tokens_of(self, latents: Tensor, *, num_codebooks: int | None = None) -> Tensor:
        """The nearest tokens [B, K, T] of latents [B, D, T]."""
        self._check_codebooks()
        wanted = inputs.check_num_codebooks(num_codebooks, available=self.num_codebooks)
        return self.quantize(latents, num_codebooks=wanted)

    def latent_stream(self) -> LatentStream:
        """Samples to latents, piece by piece."""
        return LatentStream(self)

    def sample_stream(self) -> SampleStream:
        """Latents to samples, piece by piece."""
        return SampleStream(self)

    def live_stream(self, block_size: int, *, edit: Edit | None = None) -> LiveStream:
        """Blocks of samples to blocks of the same size, for an audio callback."""
        return LiveStream(
            self,
            block_size,
            encoder_delay=self.encoder_delay,
            decoder_delay=self.decoder_delay,
            edit=edit,
        )

    @property
    def encoder_delay(self) -> int:
        """Samples after a frame's end that its latents depend on."""
        rows = self.encoder.delay(Fraction(self.pqmf.analysis_delay, self.config.num_bands))
        return int(rows * self.hop_length)

    @property
    def decoder_delay(self) -> int:
        """Samples before the end of the last frame so far that are not final."""
        rows = self.decoder.delay(Fraction(0))
        return int(rows) * self.config.num_bands + self.pqmf.synthesis_delay

    def quantize(self, latents: Tensor, *, num_codebooks: int) -> Tensor:
        """The nearest codes of latents [B, D, T], level by level: tokens [B, K, T]."""
        residual = latents.transpose(1, 2)[..., : self.config.quantised_dims].contiguous()
        levels = []
        for codebook in self.codebooks[:num_codebooks]:  # [V, D]
            # |r|^2 - |r - c|^2 = 2 r.c - |c|^2 is largest for the nearest code c.
            score = row_product(residual, 2 * codebook) - codebook.square().sum(-1)
            nearest = score.argmax(-1)
            residual = residual - codebook[nearest]
            levels.append(nearest)
        return torch.stack(levels, dim=1)

    def dequantize(self, tokens: Tensor) -> Tensor:
        """Sums the codebook entries of tokens [B, K, T]: the leading latents [B, D', T]."""
        levels = zip(self.codebooks, tokens.unbind(1), strict=False)
        return torch.stack([codebook[level] for codebook, level in levels]).sum(0).transpose(1, 2)

    def use_dtype(self, dtype: torch.dtype) -> "RaveCodec":
        """Runs the networks in another precision; bands, latents and tokens stay float32."""
        self.encoder.to(dtype)
        self.decoder.to(dtype)
        return self

    def set_codebooks(self, codebooks: Tensor) -> None:
        """Takes codebooks [K, V, D'] for the first D' latent dimensions."""
        K, V, dims = codebooks.shape
        self.config = replace(self.config, num_codebooks=K, codebook_size=V, quantised_dims=dims)
        self.codebooks = codebooks.to(self.latent_mean)

    def trained_codebooks(self) -> Tensor:
        """The codebooks [K, V, D] of a discrete model's quantiser."""
        return torch.stack([layer._codebook.embed[0] for layer in self.quantizer.layers])

    def layers(self) -> list[Conv | Downsample | Upsample]:
        """The layers with weights, in order."""
        return [m for m in self.modules() if isinstance(m, Conv | Downsample | Upsample)]

    def inference_weights(self) -> dict[str, Tensor]:
        """The weights that encoding and decoding use, without normalisation."""
        names = {module: name for name, module in self.named_modules()}
        weights = {f"{names[layer]}.weight": layer.weight.detach() for layer in self.layers()}
        buffers = {n: b for n, b in self.named_buffers() if not n.startswith("quantizer.")}
        return weights | buffers

    def _pieces(self, samples: Tensor) -> Iterator[Tensor]:
        return iter(samples.split(max(PIECE_SAMPLES, self.hop_length), dim=2))

    def _check_codebooks(self) -> None:
        if not self.has_codebooks:
            raise ValueError(
                "This RAVE model has latents but no codebooks, so it makes no tokens. Fit some "
                "with recipes/train_rave.py --start MODEL --steps 0."
            )


def save_rave(codec: RaveCodec, folder: str | Path) -> None:
    """Writes config.json and model.safetensors, without training state."""
    folder = Path(folder)
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in codec.inference_weights().items()
    }
    with replacing(folder / "model.safetensors") as path:
        save_file(weights, path)
    write_config(folder, codec.config, model_type=MODEL_TYPE)


def load_rave(folder: str | Path) -> RaveCodec:
    """Loads a codec from `save_rave` for inference."""
    folder = Path(folder)
    codec = RaveCodec(read_config(folder, RaveConfig, model_type=MODEL_TYPE), trainable=False)
    weights = read_safetensors(folder / "model.safetensors")
    check_weights(weights, codec.inference_weights(), source=folder)
    codec.load_state_dict(weights, assign=True)
    return codec.eval().requires_grad_(False)


def _residual_vq(config: RaveConfig) -> nn.Module:
    from vector_quantize_pytorch import ResidualVQ

    return ResidualVQ(
        dim=config.latent_size,
        num_quantizers=config.num_codebooks,
        codebook_size=config.codebook_size,
        kmeans_init=True,
        decay=0.99,
        threshold_ema_dead_code=0.1,
        quantize_dropout=True,
        quantize_dropout_cutoff_index=1,
    )
