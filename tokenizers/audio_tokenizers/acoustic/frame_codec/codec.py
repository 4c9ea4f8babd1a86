"""Our own codec: bands to residual-quantised tokens at 25 Hz and back; phases are not coded.

All layers run at frame rate, so both directions cost a few percent of real time on one CPU core.
The decoder predicts the level and roughness of each band, and how much its level varies randomly:
rain, surf and breath get the texture of counter-based noise. The Griffin-Lim algorithm then finds
consistent phases, starting from those of the noise (`phases.py`). Every layer is causal except for
a look-ahead of a few frames.
For training see recipes/train_codec.py, for the reasons docs/adr/0002-frame-codec.md.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from audio_tokenizers.acoustic.frame_codec.bands import Bands
from audio_tokenizers.acoustic.frame_codec.networks import Decoder, Encoder, FrameCodecConfig
from audio_tokenizers.acoustic.frame_codec.streams import (
    FrameDecoderStream,
    FrameEncoderStream,
    FrameLatentStream,
    FrameSampleStream,
    check_latents,
)
from audio_tokenizers.acoustic.inputs import (
    check_no_gains,
    check_num_codebooks,
    check_num_samples,
    check_samples,
    check_tokens,
)
from audio_tokenizers.acoustic.rows import row_linear
from audio_tokenizers.atomic import replacing
from audio_tokenizers.config_file import read_config, write_config
from audio_tokenizers.identity import hash_model
from audio_tokenizers.weights import check_weights, read_safetensors

Decoding = TypeVar("Decoding", bound=FrameDecoderStream)
MODEL_TYPE = "frame-codec"
TRAINING_ONLY = ("initted", "cluster_size", "embed_avg")  # the quantiser's own statistics


@dataclass(frozen=True, kw_only=True)
class CodecOutput:
    """Outputs for a training step: the true and the predicted bands, [B, J, bands] each, and the
    commitment loss, a scalar."""

    true_levels: Tensor
    true_roughness: Tensor
    levels: Tensor
    roughness: Tensor
    noisiness: Tensor
    commitment: Tensor


class Codebooks(nn.Module):
    """The codebooks of a residual quantiser without its training, by the names of its weights."""

    def __init__(self, config: FrameCodecConfig) -> None:
        super().__init__()
        shape = (1, config.codebook_size, config.code_width)
        levels = [nn.Module() for _ in range(config.num_codebooks)]
        for level in levels:
            level._codebook = nn.Module()
            level._codebook.register_buffer("embed", torch.zeros(shape))
            level._codebook.register_buffer("initted", torch.tensor(True))
        self.layers = nn.ModuleList(levels)


class FrameCodec(nn.Module):
    """A trainable AcousticTokenizer: 24 kHz mono, 25 frames per second, 0.25 kb/s per codebook.

    Args:
        trainable: whether the codebooks can be trained, which takes two seconds more to import.
    """

    num_channels = 1

    def __init__(self, config: FrameCodecConfig, *, trainable: bool = True) -> None:
        super().__init__()
        self.config = config
        self.bands = Bands(
            num_bands=config.num_bands, num_linear=config.linear_bands, hop=config.spectrum_hop
        )
        self.encoder = Encoder(config)
        self.quantizer: Any = _residual_vq(config) if trainable else Codebooks(config)
        self.decoder = Decoder(config)

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

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
    def identity(self) -> str:
        """Names the encoder's current settings and weights. The decoder may still be trained."""
        settings = {
            name: value
            for name, value in asdict(self.config).items()
            if not name.startswith(("decoder_", "phase_"))
        }
        weights = self.inference_weights()
        making = {name: weights[name] for name in weights if not name.startswith("decoder.")}
        digest = hash_model(repr(settings), making)
        return f"{MODEL_TYPE}-{self.sample_rate}-{digest}"

    def forward(
        self, samples: Tensor, *, quantize: bool = True, num_codebooks: int | None = None
    ) -> CodecOutput:
        """The training pass over samples [B, 1, N], N a multiple of the hop.

        Args:
            quantize: False for the first steps, before the codebooks are initialised.
            num_codebooks: decode the tokens of this many codebooks, to train only the decoder.
        """
        truth, true_roughness = self._truth(samples)
        with torch.set_grad_enabled(torch.is_grad_enabled() and num_codebooks is None):
            latents = self.encoder(truth)
        commitment = latents.new_zeros(())
        with torch.autocast(latents.device.type, enabled=False):
            if num_codebooks is not None:
                tokens = self.quantize(latents.float(), num_codebooks=num_codebooks)
                latents = self.dequantize(tokens)
            elif quantize:
                latents, _, losses = self.quantizer(latents.float())
                commitment = losses.sum()
        levels, roughness, noisiness = self.decoder(latents)
        return CodecOutput(
            true_levels=truth,
            true_roughness=true_roughness,
            levels=levels,
            roughness=roughness,
            noisiness=noisiness,
            commitment=commitment,
        )

    def levels(self, samples: Tensor) -> Tensor:
        """Levels [B, J, bands] of samples [B, 1, N], N a multiple of the hop."""
        return self._truth(samples)[0]

    @torch.no_grad()
    def _truth(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Levels and roughness of samples, in float32 even under autocast."""
        margin = self.bands.margin
        with torch.autocast(samples.device.type, enabled=False):
            spectra = self.bands.spectra(F.pad(samples[:, 0], (margin, margin)))
            return self.bands.levels(spectra), self.bands.roughness(spectra)

    @torch.no_grad()
    def encode(self, samples: Tensor, *, num_codebooks: int | None = None) -> Tensor:
        check_samples(samples, num_channels=self.num_channels)
        stream = self.encoder_stream(num_codebooks=num_codebooks)
        return torch.cat([stream.push(samples), stream.finish()], dim=2)

    def gains(self, samples: Tensor) -> None:
        """None: this codec does not normalise."""
        check_samples(samples, num_channels=self.num_channels)

    @torch.no_grad()
    def decode(
        self, tokens: Tensor, *, num_samples: int | None = None, gains: Tensor | None = None
    ) -> Tensor:
        check_tokens(tokens, num_codebooks=self.num_codebooks, codebook_size=self.codebook_size)
        stream = self.decoder_stream(gains=gains)
        waveform = torch.cat([stream.push(tokens), stream.finish()], dim=2)
        return waveform[:, :, : check_num_samples(num_samples, available=waveform.shape[2])]

    def encoder_stream(self, *, num_codebooks: int | None = None) -> FrameEncoderStream:
        wanted = check_num_codebooks(num_codebooks, available=self.num_codebooks)
        return FrameEncoderStream(
            self.bands,
            self.encoder,
            partial(self.quantize, num_codebooks=wanted),
            hop_length=self.hop_length,
            num_codebooks=wanted,
        )

    def decoder_stream(self, *, gains: Tensor | None = None) -> FrameDecoderStream:
        check_no_gains(gains)
        return self._decoding(FrameDecoderStream)

    @property
    def latent_size(self) -> int:
        """D, the number of latent dimensions."""
        return self.config.code_width

    @torch.no_grad()
    def latents(self, samples: Tensor) -> Tensor:
        """Samples [B, 1, N] -> latents [B, D, T], before quantisation."""
        check_samples(samples, num_channels=self.num_channels)
        stream = self.latent_stream()
        return torch.cat([stream.push(samples), stream.finish()], dim=2)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor, *, num_samples: int | None = None) -> Tensor:
        """Latents [B, D, T] -> samples [B, 1, N]; those of tokens give what `decode` does."""
        stream = self.sample_stream()
        waveform = torch.cat([stream.push(latents), stream.finish()], dim=2)
        return waveform[:, :, : check_num_samples(num_samples, available=waveform.shape[2])]

    def latents_of(self, tokens: Tensor) -> Tensor:
        """The latents [B, D, T] of tokens [B, K, T]."""
        return self.dequantize(tokens).transpose(1, 2)

    def tokens_of(self, latents: Tensor, *, num_codebooks: int | None = None) -> Tensor:
        """The nearest tokens [B, K, T] of latents [B, D, T]."""
        wanted = check_num_codebooks(num_codebooks, available=self.num_codebooks)
        check_latents(latents, latent_size=self.latent_size)
        return self.quantize(latents.transpose(1, 2), num_codebooks=wanted)

    def latent_stream(self) -> FrameLatentStream:
        """Samples to latents, piece by piece."""
        return FrameLatentStream(
            self.bands,
            self.encoder,
            lambda latents: latents.transpose(1, 2),
            hop_length=self.hop_length,
            num_codebooks=self.latent_size,
        )

    def sample_stream(self) -> FrameSampleStream:
        """Latents to samples, piece by piece."""
        return self._decoding(FrameSampleStream)

    def _decoding(self, kind: type[Decoding]) -> Decoding:
        return kind(
            self.bands,
            self.decoder,
            self.dequantize,
            num_codebooks=self.num_codebooks,
            codebook_size=self.codebook_size,
            phase_iterations=self.config.phase_iterations,
        )

    def quantize(self, latents: Tensor, *, num_codebooks: int) -> Tensor:
        """The nearest codes of latents [B, T, D], level by level: tokens [B, K, T]."""
        residual, levels = latents, []
        for codebook in self.codebooks()[:num_codebooks]:  # [V, D]
            # |r|^2 - |r - c|^2 = 2 r.c - |c|^2 is largest for the nearest code c.
            score = row_linear(residual, 2 * codebook, -codebook.square().sum(-1))
            nearest = score.argmax(-1)
            residual = residual - codebook[nearest]
            levels.append(nearest)
        return torch.stack(levels, dim=1)

    def dequantize(self, tokens: Tensor) -> Tensor:
        """Sums the codebook entries of tokens [B, K, T]: latents [B, T, D]."""
        levels = zip(self.codebooks(), tokens.unbind(1), strict=False)
        return torch.stack([codebook[level] for codebook, level in levels]).sum(0)

    @property
    def has_codebooks(self) -> bool:
        """Whether the codebooks were initialised by training or loaded."""
        return all(bool(layer._codebook.initted) for layer in self.quantizer.layers)

    def codebooks(self) -> list[Tensor]:
        """One codebook [V, D] per level."""
        return [layer._codebook.embed[0] for layer in self.quantizer.layers]

    def inference_weights(self) -> dict[str, Tensor]:
        """The weights that encoding and decoding use."""
        weights = self.state_dict()
        return {name: weights[name] for name in weights if not name.endswith(TRAINING_ONLY)}


def save_frame_codec(codec: FrameCodec, folder: str | Path, *, half: bool = False) -> None:
    """Writes config.json and model.safetensors, without training state.

    Args:
        half: store float16 for half the size; encoding and decoding still use float32.
    """
    folder = Path(folder)
    dtype = torch.float16 if half else torch.float32
    weights = {
        name: tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in codec.inference_weights().items()
    }
    with replacing(folder / "model.safetensors") as path:
        save_file(weights, path)
    write_config(folder, codec.config, model_type=MODEL_TYPE)


def load_frame_codec(folder: str | Path) -> FrameCodec:
    """Loads a codec from `save_frame_codec` for inference; its codebooks cannot be trained."""
    folder = Path(folder)
    config = read_config(folder, FrameCodecConfig, model_type=MODEL_TYPE)
    codec = FrameCodec(config, trainable=False)
    weights = read_safetensors(folder / "model.safetensors")
    check_weights(weights, codec.inference_weights(), source=folder)
    codec.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
    return codec.eval()


def _residual_vq(config: FrameCodecConfig) -> nn.Module:
    from vector_quantize_pytorch import ResidualVQ

    return ResidualVQ(
        dim=config.code_width,
        num_quantizers=config.num_codebooks,
        codebook_size=config.codebook_size,
        kmeans_init=True,
        decay=0.99,
        # Of latents in a batch; one may hold fewer than there are codes.
        threshold_ema_dead_code=0.1,
        quantize_dropout=True,
        quantize_dropout_cutoff_index=1,
    )
