"""A diffusion transformer over latents in time (DiT, arXiv 2212.09748).

The time of the noise level scales and shifts the norms of all blocks through one projection and a
table per block (adaLN-single, arXiv 2310.00426). All frames attend to each other, with rotary
positions. Known frames of a track can be two more inputs: their values and a mask.

Shapes: B batch, D latent width, T frames, S positions (patches of frames, after a prefix and
registers), L condition length, E width of the transformer.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lm_audio.networks.attention import Attend, CrossAttention, SelfAttention
from lm_audio.networks.condition import Fused, Known
from lm_audio.networks.cpu.attention import attention
from lm_audio.networks.cpu.linear import Linear, product_dtype
from lm_audio.networks.positions import rotate, rotation, sinusoids
from lm_audio.networks.transformer import FeedForward, TransformerConfig

_TIME_WIDTH = 256


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The shape of a diffusion transformer.

    Args:
        width: D, of the latents.
        transformer: two-sided, with rotary positions and RMS norms.
        time_scale: multiplies the noise schedule's time, to values of up to about 1000.
        patch: frames per position; 2 takes half the time, but a position then means two frames.
        registers: learned vectors before the first frame. Attention to them tells frames how far
            they are from the start, which rotary positions alone do not.
        sees_known: whether the known frames of a track are inputs.
    """

    width: int
    transformer: TransformerConfig
    time_scale: float = 1000.0
    patch: int = 1
    registers: int = 4
    sees_known: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.transformer, dict):  # as config.json has it
            object.__setattr__(self, "transformer", TransformerConfig(**self.transformer))
        for name in ("width", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not self.time_scale > 0:
            raise ValueError(f"time_scale must be above 0, got {self.time_scale}.")
        if self.registers < 0:
            raise ValueError(f"registers must be at least 0, got {self.registers}.")
        shape = self.transformer
        if shape.causal or shape.positions != "rotary" or shape.norm != "rms":
            raise ValueError(
                "A diffusion transformer needs causal=False, rotary positions and RMS norms, got "
                f"causal={shape.causal}, {shape.positions} positions and {shape.norm} norms."
            )

    @property
    def num_inputs(self) -> int:
        """Input channels per frame: the noisy latents, the known ones and their mask."""
        return 2 * self.width + 1 if self.sees_known else self.width


class DiT(nn.Module):
    """Maps noisy latents, the time of their noise level and conditions to an output of their size.

    New weights give an output of zeros: training starts from the mean.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        E, patch = config.transformer.dim, config.patch
        self.input = Linear(config.num_inputs * patch, E)
        self.registers = nn.Parameter(torch.randn(config.registers, E) * E**-0.5)
        self.time = nn.Sequential(Linear(_TIME_WIDTH, E), nn.SiLU(), Linear(E, E))
        self.modulation = Linear(E, 6 * E)
        self.blocks = nn.ModuleList(
            DiTBlock(config.transformer, i) for i in range(config.transformer.num_layers)
        )
        self.last_shift_scale = nn.Parameter(torch.zeros(2, E))
        self.output = Linear(E, config.width * patch)
        self.recomputes = False  # activation checkpointing in training
        self.apply(_initialise)
        for layer in (self.modulation, self.output):
            nn.init.zeros_(layer.weight)

    def forward(
        self,
        x: Tensor,
        times: Tensor,
        fused: Fused,
        *,
        known: Known | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The output [B, D, T] for noisy latents x [B, D, T] at times [B].

        Args:
            known: the known frames, if the network sees them.
            mask: [B, T], False on padding.
        """
        T = x.shape[2]
        dtype = product_dtype(self.last_shift_scale.dtype, x.device)
        h = self._positions(self._with_known(x, known).to(dtype))
        h = self.input(h)  # [B, S, E]
        if fused.sum is not None:
            h = h + self._per_position(fused.sum.to(dtype), T)
        h, positions, real = self._prefixed(h, fused, self._real(mask))
        attend = AllAttend(
            rotation=rotation(positions, self.config.transformer.head_dim),
            mask=real,
            condition=self._condition(fused, dtype),
        )
        waves = sinusoids(times[:, None].float() * self.config.time_scale, _TIME_WIDTH)
        time = self.time(waves[:, 0].to(dtype))  # [B, E]
        shared = self.modulation(F.silu(time)).unflatten(1, (6, -1))[:, :, None]  # [B, 6, 1, E]
        for block in self.blocks:
            if self.recomputes and torch.is_grad_enabled():
                h = checkpoint(block, h, shared, attend, use_reentrant=False)
            else:
                h = block(h, shared, attend)
        shift, scale = (self.last_shift_scale[:, None] + time[:, None, None]).unbind(1)
        num_positions = -(-T // self.config.patch)
        h = self.output(_modulated(h[:, -num_positions:], shift, scale, self._eps))
        h = h.unflatten(2, (-1, self.config.width)).flatten(1, 2)  # [B, S * patch, D]
        return h[:, :T].transpose(1, 2)

    @property
    def _eps(self) -> float:
        return self.config.transformer.norm_eps

    def _with_known(self, x: Tensor, known: Known | None) -> Tensor:
        """The input channels [B, C, T]."""
        if (known is not None) != self.config.sees_known:
            raise ValueError("The network needs known frames if and only if it sees them.")
        if known is None:
            return x
        mask = known.mask[:, None].to(x.dtype)
        return torch.cat([x, known.values * mask, mask], dim=1)

    def _positions(self, x: Tensor) -> Tensor:
        """Channels [B, C, T] as positions [B, S, patch * C]; the last patch is padded with 0."""
        patch = self.config.patch
        x = F.pad(x, (0, -x.shape[2] % patch)).transpose(1, 2)
        return x.unflatten(1, (-1, patch)).flatten(2)

    def _per_position(self, total: Tensor, num_frames: int) -> Tensor:
        """Embeddings to add [B, 1 or T, E], averaged over the frames of each position."""
        if total.shape[1] not in (1, num_frames):
            raise ValueError(f"Expected sums for 1 or {num_frames} frames, got {total.shape[1]}.")
        if total.shape[1] == 1 or self.config.patch == 1:
            return total
        missing = -num_frames % self.config.patch
        total = F.pad(total, (0, 0, 0, missing))
        return total.unflatten(1, (-1, self.config.patch)).mean(dim=2)

    def _real(self, mask: Tensor | None) -> Tensor | None:
        """Whether each position [B, S] has a frame."""
        if mask is None or bool(mask.all()):
            return None
        patch = self.config.patch
        mask = F.pad(mask, (0, -mask.shape[1] % patch), value=False)
        return mask.unflatten(1, (-1, patch)).any(dim=2)

    def _prefixed(
        self, h: Tensor, fused: Fused, real: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Adds the registers and before them the prefix; frames count from 0 whatever its length.

        Returns:
            All vectors, their positions, and whether they are real; None if all are.
        """
        B, num_registers = len(h), self.config.registers
        h = torch.cat([self.registers.to(h.dtype).expand(B, -1, -1), h], dim=1)
        positions = torch.arange(h.shape[1], device=h.device).expand(B, -1) - num_registers
        if real is not None:
            real = F.pad(real, (num_registers, 0), value=True)
        prefix = fused.prepend
        if prefix is None or prefix.embeddings.shape[1] == 0:
            return h, positions, real
        before = torch.arange(prefix.mask.shape[1], device=h.device) - prefix.mask.sum(1)[:, None]
        if real is None and not bool(prefix.mask.all()):
            real = torch.ones(h.shape[:2], dtype=torch.bool, device=h.device)
        h = torch.cat([prefix.embeddings.to(h.dtype), h], dim=1)
        if real is not None:
            real = torch.cat([prefix.mask, real], dim=1)
        return h, torch.cat([before - num_registers, positions], dim=1), real

    def _condition(self, fused: Fused, dtype: torch.dtype) -> tuple[Tensor, Tensor | None] | None:
        if (fused.cross is not None) != self.config.transformer.cross_attention:
            raise ValueError("Cross-attention and a condition for it require each other.")
        if fused.cross is None:
            return None
        mask = fused.cross.mask
        return fused.cross.embeddings.to(dtype), None if bool(mask.all()) else mask


class DiTBlock(nn.Module):
    """Attention, cross-attention if any, and a feed-forward part, modulated by the time."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.eps, self.dropout = config.norm_eps, config.dropout
        self.table = nn.Parameter(torch.zeros(6, config.dim))
        self.attention = SelfAttention(config.dim, config.num_heads, bias=config.bias)
        self.cross_attention: CrossAttention | None = None
        if config.cross_attention:
            self.cross_attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
            self.cross_attention = CrossAttention(config.dim, config.num_heads, bias=config.bias)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, shared: Tensor, attend: Attend) -> Tensor:
        """x: [B, S, E]; shared: [B, 6, 1, E], shift, scale and gate of both parts."""
        parts = (self.table[:, None] + shared).to(x.dtype).unbind(1)
        shift, scale, gate = parts[:3]
        h = self.attention(_modulated(x, shift, scale, self.eps), self.layer, attend)
        x = x + gate * self._dropped(h)
        if self.cross_attention is not None:
            weight = self.cross_attention_norm.weight.to(x.dtype)
            queries = F.rms_norm(x, x.shape[-1:], weight, self.eps)
            x = x + self._dropped(self.cross_attention(queries, self.layer, attend))
        shift, scale, gate = parts[3:]
        h = self.feed_forward(_modulated(x, shift, scale, self.eps))
        return x + gate * self._dropped(h)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training else x


class AllAttend:
    """Attends to all positions, before and after.

    Args:
        mask: [B, S], False on padding, which attends to all positions and nothing attends to.
        condition: [B, L, E], and its mask [B, L]; None: no padding.
    """

    def __init__(
        self,
        *,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        condition: tuple[Tensor, Tensor | None] | None,
    ) -> None:
        self._rotation = rotation
        self._mask = None if mask is None else mask[:, None, None]
        self._condition = condition

    def to_self(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG002
        q, k = rotate(q, self._rotation), rotate(k, self._rotation)
        return attention(q, k, v, self._mask)

    def to_condition(self, layer: int, q: Tensor, module: CrossAttention) -> Tensor:  # noqa: ARG002
        assert self._condition is not None
        embeddings, mask = self._condition
        k, v = module.keys_values(embeddings)
        return attention(q, k, v, None if mask is None else mask[:, None, None])


def _modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    x = F.rms_norm(x, x.shape[-1:], eps=eps)
    return torch.addcmul(shift.to(x.dtype), x, 1 + scale.to(x.dtype))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, DiTBlock) and module.cross_attention is not None:
        nn.init.zeros_(module.cross_attention.output.weight)
