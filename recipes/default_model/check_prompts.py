"""Measures how well a model detects prompts for kinds of sound that it was not trained on.

    python recipes/default_model/check_prompts.py                # the model in the package
    python recipes/default_model/check_prompts.py --model runs/default/model

`prompts/examples.json` has examples of each kind that the model was trained on and a threshold;
assemble.py stores both with the model, which gives a notice for prompts below the threshold. The
other two files have prompts of known and of unknown kinds as users might write them. Their odd
lines choose a threshold: the largest with at most `--false-alarms` of known prompts below it. Their
even lines measure it. It takes seconds.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_audio.cli.recipe import run_recipe
from lm_audio.conditioners.known_prompts import KnownPrompts, PromptCheck
from lm_audio.conditioners.sentence import SentenceEncoder
from lm_audio.pretrained import DEFAULT_FOLDER

PROMPTS = Path(__file__).parent / "prompts"


@dataclass(frozen=True, kw_only=True)
class Config:
    model: Path = DEFAULT_FOLDER
    """Folder of a model with a sentence encoder; the bundled model by default."""
    prompts: Path = PROMPTS
    """Folder of examples.json, known.txt and unknown.txt."""
    false_alarms: float = 0.05
    """Maximum share of known prompts that get a notice."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of known and of unknown prompts that get a notice."""

    false_alarms: float
    hits: float


def main(config: Config) -> Rates:
    """Prints the threshold that the odd lines give, and the rates of the stored one."""
    known = read_examples(config.prompts)
    check = PromptCheck(known, SentenceEncoder.load(config.model / "text_encoder"))
    scores = {name: read_scores(config.prompts / f"{name}.txt", check) for name in FILES}
    odd, even = ({name: rows[first::2] for name, rows in scores.items()} for first in (0, 1))
    best = threshold_of([score for _, score in odd["known"]], config.false_alarms)
    for title, rows, threshold in (
        (f"odd lines, best threshold {best:.3f}", odd, best),
        (f"even lines, best threshold {best:.3f}", even, best),
        (f"even lines, stored threshold {known.threshold:.3f}", even, known.threshold),
    ):
        rates = rates_of(rows, threshold)
        print(
            f"{title}: notices for {rates.false_alarms:.1%} of {len(rows['known'])} known prompts "
            f"and for {rates.hits:.1%} of {len(rows['unknown'])} unknown ones"
        )
    for prompt, score in sorted(scores["known"], key=lambda row: row[1]):
        if score < known.threshold:
            print(f"  known, with a notice: {prompt} ({score:.2f})")
    for prompt, score in sorted(scores["unknown"], key=lambda row: -row[1]):
        if score >= known.threshold:
            print(f"  unknown, without a notice: {prompt} ({score:.2f})")
    return rates


FILES = ("known", "unknown")
Scores = Sequence[tuple[str, float]]


def read_examples(folder: Path) -> KnownPrompts:
    return KnownPrompts(**json.loads((folder / "examples.json").read_text(encoding="utf-8")))


def read_scores(path: Path, check: PromptCheck) -> Scores:
    """The prompts of a file and their similarity to the nearest example."""
    prompts = path.read_text(encoding="utf-8").splitlines()
    return [(prompt, check.similarity(prompt)) for prompt in prompts]


def threshold_of(known: Sequence[float], false_alarms: float) -> float:
    """The largest threshold that at most this share of known prompts is below."""
    return sorted(known)[int(false_alarms * len(known))]


def rates_of(scores: dict[str, Scores], threshold: float) -> Rates:
    shares = {
        name: sum(score < threshold for _, score in rows) / len(rows)
        for name, rows in scores.items()
    }
    return Rates(false_alarms=shares["known"], hits=shares["unknown"])


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
