"""ABX of semantic tokens, and likelihood pairs for a stage over them.

Shapes: C channels, N samples, T frames, D width.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_tokenizers.audio_files import find_audio, read_audio
from audio_tokenizers.protocol import SemanticTokenizer
from audio_tokenizers.semantic.tokenizer import FeatureTokenizer
from lm_audio.evaluation.report import Measurement, mean_of, missing
from lm_audio.generation.lm_stage import LMStage
from measuring.abx import (
    Distance,
    Mode,
    abx_error,
    angular_distance,
    read_items,
    token_distance,
    token_edits,
)
from measuring.likelihood import log_likelihood, pair_wins

_MODES: tuple[Mode, ...] = ("within", "across")


@torch.inference_mode()
def measure_abx(
    item_file: Path,
    folder: Path,
    tokenizer: SemanticTokenizer,
    *,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> list[Measurement]:
    """ABX of a tokenizer's tokens, and of its features if it has any.

    Args:
        folder: contains the audio that the item file names, in any subfolder.
    """
    items = read_items(item_file)
    paths = {path.stem: path for path in find_audio(folder)}
    lacking = sorted({item.file for item in items} - paths.keys())
    if lacking:
        raise ValueError(
            f"Found no audio for {lacking[0]} in {folder}; pass the folder that contains it."
        )
    tokens, features = dict[str, Tensor](), dict[str, Tensor]()
    for name in dict.fromkeys(item.file for item in items):
        samples = read_audio(paths[name], sample_rate=tokenizer.sample_rate, num_channels=1).samples
        tokens[name] = tokenizer.encode(samples[None])[0, 0].cpu()
        if isinstance(tokenizer, FeatureTokenizer):
            layer = tokenizer.codebook.source.layer
            features[name] = tokenizer.features(samples[None], layer)[0].cpu()
        progress()
    ways: list[tuple[str, dict[str, Tensor], Distance]] = [
        ("tokens, equality", tokens, token_distance),
        ("tokens, edits without repeats", tokens, token_edits),
    ]
    if features:
        ways.insert(0, ("features, angle", features, angular_distance))
    found = []
    for name, sequences, distance in ways:
        frames = [x.frames(sequences[x.file], frame_rate=tokenizer.frame_rate) for x in items]
        for mode in _MODES:
            error = abx_error(items, frames, distance, mode=mode, seed=seed)
            row = Measurement(
                metric=f"ABX error {mode} speakers, {name}",
                implementation=f"Libri-Light eval_ABX; {tokenizer.identity}",
                value=error,
                num_items=sum(len(x) > 0 for x in frames),
                better="lower",
                note="" if error is not None else "the items form no triplets",
            )
            found.append(row)
    return found


def read_pairs(
    path: Path, tokenizer: SemanticTokenizer | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Reads lines of {"preferred": ..., "other": ...}, each an audio file or tokens: [1, T] each.

    Args:
        tokenizer: for audio files, whose names are relative to the folder of `path`.
    """

    def read(value: Any, number: int) -> Tensor:
        if isinstance(value, list) and value and all(isinstance(x, int) for x in value):
            return torch.tensor([value])
        if not isinstance(value, str):
            raise ValueError(
                f'Line {number} of {path} needs both "preferred" and "other", each an audio file '
                "or a list of tokens."
            )
        if tokenizer is None:
            raise ValueError(f"{path} names audio files; encoding them needs a semantic tokenizer.")
        audio = read_audio(path.parent / value, sample_rate=tokenizer.sample_rate, num_channels=1)
        return tokenizer.encode(audio.samples[None])[0].cpu()

    pairs = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
                sides = row.get("preferred"), row.get("other")
            except (ValueError, AttributeError):
                raise ValueError(f"Line {number} of {path} is not a JSON object.") from None
            pairs.append((read(sides[0], number), read(sides[1], number)))
    return pairs


def measure_pairs(
    pairs: list[tuple[Tensor, Tensor]],
    stage: LMStage,
    *,
    progress: Callable[[], object] = lambda: None,
) -> list[Measurement]:
    """How often a stage assigns the preferred tokens [1, T] the higher likelihood."""
    scores = []
    for pair in pairs:
        scores.append([log_likelihood(stage, tokens) for tokens in pair])
        progress()
    if not scores:
        return [missing("likelihood pairs", reason="no pairs")]
    preferred, others = ([score[side] for score in scores] for side in (0, 1))
    return [
        mean_of(
            pair_wins(preferred, others, per_token=per_token),
            metric=f"likelihood pairs, {name}",
            implementation=f"ZeroSpeech 2021, ties one half; stage {stage.name}",
            better="higher",
        )
        for name, per_token in (("per token", True), ("in sum", False))
    ]
