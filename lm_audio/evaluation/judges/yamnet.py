"""YAMNet: 521 AudioSet classes and an embedding of 1024 dimensions, from a TFLite file by path.

Needs ai-edge-litert, which is not a dependency of this package.

Shapes: B batch, N samples, n windows of 0.975 s, every 0.48 s.
"""

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm_audio.evaluation.judges.embedding import cut_windows

SAMPLE_RATE = 16_000
WINDOW = 15_600
HOP = 7_680  # that of YAMNet's own frames
EMBEDDING_TENSOR = 121
WIDTH = 1024
CLASS_FILE = "yamnet_class_map.csv"


class YamNet:
    """An `AudioEmbedding`; `classifier` shares its network."""

    sample_rate = SAMPLE_RATE

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.name = f"{self._path.name} (YAMNet, global average pooling)"
        self._network = _open(self._path)
        shapes = {x["index"]: list(x["shape"]) for x in self._network.get_tensor_details()}
        if shapes.get(EMBEDDING_TENSOR) != [1, WIDTH]:
            raise ValueError(
                f"Expected shape [1, {WIDTH}] for tensor {EMBEDDING_TENSOR} of {path}, got "
                f"{shapes.get(EMBEDDING_TENSOR)}. Give YAMNet's TFLite classification model."
            )

    def __call__(self, samples: Tensor) -> Tensor:
        """The vectors [n, 1024] of samples [B, N]."""
        return self._run(samples, EMBEDDING_TENSOR)

    def classifier(self) -> "YamNetClassifier":
        return YamNetClassifier(self)

    def scores(self, samples: Tensor) -> Tensor:
        """The score of each class, [n, 521]: independent values from 0 to 1."""
        outputs = self._network.get_output_details()
        return self._run(samples, next(x["index"] for x in outputs if x["shape"][-1] == 521))

    def read_labels(self) -> list[str]:
        """The names of the classes, from the file beside the network."""
        path = self._path.with_name(CLASS_FILE)
        if not path.is_file():
            raise ValueError(f"{path} not found. It lists YAMNet's classes and is required.")
        with path.open(newline="") as file:
            return [row["display_name"] for row in csv.DictReader(file)]

    def _run(self, samples: Tensor, tensor: int) -> Tensor:
        network = self._network
        place = network.get_input_details()[0]["index"]
        windows = cut_windows(samples, length=WINDOW, hop=HOP).flatten(0, 1)  # [n, 15600]
        rows = []
        for window in windows.cpu().numpy().astype(np.float32):
            network.set_tensor(place, window.reshape(network.get_input_details()[0]["shape"]))
            network.invoke()
            rows.append(network.get_tensor(tensor)[0].copy())
        return torch.from_numpy(np.stack(rows))


class YamNetClassifier:
    """An `AudioClassifier`: YAMNet's classes as one distribution, the softmax of their logits.

    The network gives sigmoids; their logits come back exactly, up to rounding near 0 and 1.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, network: YamNet) -> None:
        self._network = network
        self.labels = network.read_labels()
        self.name = f"{network.name.split(' (', maxsplit=1)[0]} (YAMNet, softmax of its logits)"

    def __call__(self, samples: Tensor) -> Tensor:
        """Probabilities [n, 521] of samples [B, N]."""
        return self._network.scores(samples).double().logit(eps=1e-9).softmax(dim=-1).float()


def _open(path: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        raise ValueError(
            "YAMNet needs ai-edge-litert. Install it with: pip install ai-edge-litert."
        ) from error
    if not path.is_file():
        raise ValueError(f"File {path} not found. Give YAMNet as a .tflite file.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about preserving all tensors, which is intended
        network = Interpreter(
            model_path=str(path), experimental_preserve_all_tensors=True, num_threads=1
        )
    network.allocate_tensors()
    return network
