"""Files of clips, and tiny random models in the layouts in which they are published."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from audio_tokenizers.audio_writer import write_audio


@pytest.fixture
def write_noise(tmp_path: Path) -> Callable[..., Path]:
    """Writes a noise file: `write_noise("a/b.wav", seconds=1.0, seed=0)`."""

    def write(name: str, seconds: float = 1.0, seed: int = 0) -> Path:
        samples = np.random.default_rng(seed).standard_normal(round(16_000 * seconds))
        write_audio(tmp_path / name, torch.from_numpy(0.1 * samples)[None].float(), 16_000)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of lower-case letters that transformers reads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("letters")
    pieces = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
