"""DNSMOS: reference-free speech quality ratings (arXiv 2010.15258, P.835: 2110.01763).

Reads the network `sig_bak_ovr.onnx` by path, or that of the package speechmos. Needs onnxruntime.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SPEECHMOS = "speechmos"
SAMPLE_RATE = 16_000
SECONDS = 9.01
WINDOW = int(SECONDS * SAMPLE_RATE)
# The authors' calibration of each raw output, the highest power first.
_CALIBRATION = {
    "speech": (-0.08397278, 1.22083953, 0.0052439),
    "background": (-0.13166888, 1.60915514, -0.39604546),
    "overall": (-0.06766283, 1.11546468, 0.04602535),
}


@dataclass(frozen=True, kw_only=True)
class Quality:
    """From 1 to 5."""

    speech: float
    background: float
    overall: float


class Dnsmos:
    """Rates speech in windows of 9 s, a second apart, as speechmos does."""

    sample_rate = SAMPLE_RATE

    def __init__(self, source: str | Path = SPEECHMOS) -> None:
        path = _installed() if str(source) == SPEECHMOS else Path(source)
        if not path.is_file():
            raise ValueError(f"File {path} not found. Give sig_bak_ovr.onnx of DNSMOS.")
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ValueError(
                "DNSMOS needs onnxruntime. Install it with: pip install onnxruntime."
            ) from error
        self._network: Any = onnxruntime.InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )
        self.name = f"{path.name} (DNSMOS P.835, onnxruntime)"

    def __call__(self, samples: Tensor) -> Quality:
        """The quality of speech [N]; short clips are repeated."""
        windows = rating_windows(samples).numpy()
        place = self._network.get_inputs()[0].name
        raw = np.stack([self._network.run(None, {place: x[None]})[0][0] for x in windows])
        rated = {
            name: float(np.polyval(weights, raw[:, i]).mean())
            for i, (name, weights) in enumerate(_CALIBRATION.items())
        }
        return Quality(**rated)


def rating_windows(samples: Tensor) -> Tensor:
    """Samples [N] as windows [W, 144160], a second apart; a short clip doubles until it is long."""
    samples = samples.float().cpu()
    if not len(samples):
        raise ValueError("DNSMOS cannot rate a clip without samples.")
    while len(samples) < WINDOW:
        samples = torch.cat([samples, samples])
    # The authors' exact arithmetic: windows that its rounding cuts short are skipped.
    num_windows = int(len(samples) // SAMPLE_RATE - SECONDS) + 1
    spans = [(i * SAMPLE_RATE, int((i + SECONDS) * SAMPLE_RATE)) for i in range(num_windows)]
    windows = [samples[first:last] for first, last in spans]
    return torch.stack([window for window in windows if len(window) == WINDOW])


def _installed() -> Path:
    spec = find_spec(SPEECHMOS)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "The package speechmos is missing. Install it with: pip install speechmos, or give the "
            "path of sig_bak_ovr.onnx."
        )
    return Path(spec.submodule_search_locations[0]) / "dnsmos_models" / "sig_bak_ovr.onnx"
