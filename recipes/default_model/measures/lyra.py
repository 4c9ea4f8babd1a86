"""Lyra V2, a public SoundStream codec (arXiv 2107.03312), for comparison.

16 kHz, 50 frames a second, residual quantisers of 16 entries: 4 bits a level and frame, so 16
levels are 3.2 kb/s. Reads its three TFLite files from a folder and needs ai-edge-litert, which this
package does not install.

Shapes: N samples.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SAMPLE_RATE = 16_000
FRAME = 320
BITS_PER_LEVEL = 4
MOST_LEVELS = 46
FILES = ("soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite")


class Lyra:
    """Encodes and decodes sound; each clip starts from silence."""

    sample_rate = SAMPLE_RATE

    def __init__(self, folder: str | Path, *, num_levels: int = 16) -> None:
        if not 1 <= num_levels <= MOST_LEVELS:
            raise ValueError(f"Got {num_levels} Lyra levels; expected 1 to {MOST_LEVELS}.")
        self.bitrate = num_levels * BITS_PER_LEVEL * SAMPLE_RATE / FRAME
        self.name = f"Lyra V2 at {self.bitrate / 1000:g} kb/s"
        self._num_levels = np.array(num_levels, dtype=np.int32)
        self._folder = Path(folder)
        _open(self._folder)

    def __call__(self, samples: Tensor) -> Tensor:
        """The decoded samples [N] of samples [N], both at 16 kHz."""
        # The networks keep state between calls, and resetting their variables does not clear it.
        encoder, quantizer, decoder = _open(self._folder)
        choose = quantizer.get_signature_runner("encode")
        look_up = quantizer.get_signature_runner("decode")
        N = len(samples)
        padded = torch.nn.functional.pad(samples.float().cpu(), (0, -N % FRAME)).numpy()
        made = np.zeros_like(padded)
        for first in range(0, N, FRAME):
            span = slice(first, first + FRAME)
            features = _run(encoder, padded[None, span])
            # Levels past the last one come as -1, which adds nothing.
            tokens = choose(input_frames=features, num_quantizers=self._num_levels)["output_0"]
            made[span] = _run(decoder, look_up(encoding_indices=tokens)["output_0"])[0]
        return torch.from_numpy(made[:N])


def _run(network: Any, values: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """The output of a network with one input; valid until its next call."""
    network.set_tensor(network.get_input_details()[0]["index"], values)
    network.invoke()
    return network.get_tensor(network.get_output_details()[0]["index"])


def _open(folder: Path) -> list[Any]:
    absent = [name for name in FILES if not (folder / name).is_file()]
    if absent:
        raise ValueError(f"{folder} lacks {absent[0]}; pass the folder of Lyra V2's TFLite files.")
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        raise ValueError(
            "Lyra needs ai-edge-litert; install it with: pip install ai-edge-litert."
        ) from error
    networks = [Interpreter(model_path=str(folder / name), num_threads=1) for name in FILES]
    for network in networks:
        network.allocate_tensors()
    return networks
