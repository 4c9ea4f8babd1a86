"""The optional CPU kernels of kernels.cpp and attention.cpp, compiled once per machine.

Without a compiler torch's operators are used, and so they are where they are faster: after
compilation a product is timed both ways.
"""

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_tokenizers.atomic import replacing
from audio_tokenizers.compiled import Operators

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
KERNELS = Operators(
    name="lm_audio_kernels",
    sources=(_HERE / "kernels.cpp", _HERE / "attention.cpp"),
    purpose="generation",
    seconds=30,
)
PANEL = 64
"""The number of outputs per panel of weights; the last panel is padded with zeros."""
HEAD_WIDTHS = range(16, 129, 16)


@functools.cache
def available() -> bool:
    """Whether torch.ops.lm_audio has the kernels; compiles them if necessary."""
    return _has_vectors() and KERNELS.load() and _are_faster()


def summary() -> str:
    """The kernels that are used, for people."""
    if not available():
        return "none"
    kinds = ["float32", "bfloat16"]
    kinds += ["int8"] if multiplies_bytes() else []
    kinds += ["attention"] if attends() else []
    return ", ".join(kinds)


def multiplies_bytes() -> bool:
    """Whether there is an int8 kernel, which needs a CPU with AVX2 or VNNI."""
    return available() and hasattr(torch.ops.lm_audio, "linear_int8")


def attends() -> bool:
    """Whether there is an attention kernel, which needs a CPU that multiplies bfloat16."""
    return available() and hasattr(torch.ops.lm_audio, "attend")


def panels(weight: Tensor) -> Tensor:
    """Weights [N, K] in the format of `multiply`: [P, K, 64]."""
    weight = F.pad(weight, (0, 0, 0, -len(weight) % PANEL))
    weight = weight.view(-1, PANEL, weight.shape[1]).transpose(1, 2)
    if weight.dtype == torch.bfloat16:  # two to a word, 16 outputs apart
        weight = weight.unflatten(2, (-1, 2, 16)).transpose(3, 4)
    return weight.reshape(*weight.shape[:2], PANEL).contiguous()


def from_panels(weight: Tensor, out_features: int) -> Tensor:
    """The weights [N, K] of panels [P, K, 64]."""
    if weight.dtype == torch.bfloat16:
        weight = weight.unflatten(2, (-1, 16, 2)).transpose(3, 4).flatten(2)
    return weight.transpose(1, 2).flatten(0, 1)[:out_features].contiguous()


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """[M, N]: rows [M, K], float32, times weights in panels, float32 or bfloat16."""
    bias = None if bias is None else bias.float()
    return torch.ops.lm_audio.linear(x.float().contiguous(), weight, bias, out_features)


def byte_panels(weight: Tensor) -> Tensor:
    """Integers [N, K] in the format of `multiply_bytes`: [P, K / 4, 64, 4]."""
    weight = F.pad(weight, (0, -weight.shape[1] % 4, 0, -len(weight) % PANEL))
    return weight.view(-1, PANEL, weight.shape[1] // 4, 4).transpose(1, 2).contiguous()


def multiply_bytes(
    x: Tensor, weight: Tensor, scale: Tensor, sums: Tensor, bias: Tensor | None
) -> Tensor:
    """[M, N]: rows [M, K], quantised to bytes, times byte weights with a scale [N] each.

    Args:
        sums: [N], of the weights of each output.
    """
    return torch.ops.lm_audio.linear_int8(
        x.float().contiguous(), weight, scale, sums, bias, len(scale)
    )


def _are_faster() -> bool:
    """Whether a product takes them less time than torch; measured once and stored."""
    note = KERNELS.library.with_suffix(".measured")
    if not note.is_file():
        x, weight = torch.ones(2, 1024), torch.ones(1024, 1024)
        packed = panels(weight)
        own, torchs = _shortest(
            lambda: multiply(x, packed, None, 1024), lambda: F.linear(x, weight)
        )
        with replacing(note) as path:
            path.write_text(f"{'faster' if own < torchs else 'slower'}\n")
        if own >= torchs:
            logger.warning(
                "The CPU kernels are slower than torch here, so they are not used. Delete %s to "
                "measure again.",
                note,
            )
    return note.read_text() == "faster\n"


def _shortest(*calls: Callable[[], object], rounds: int = 20) -> list[float]:
    """The shortest time of each call in seconds; they take turns."""
    times: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for _ in range(rounds):
            for call, own in zip(calls, times, strict=True):
                begin = time.perf_counter()
                call()
                own.append(time.perf_counter() - begin)
    return [min(own) for own in times]


def _has_vectors() -> bool:
    """Whether the CPU has vectors for which the kernels were measured: AVX-512 or AVX2."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX512", "AVX2")
