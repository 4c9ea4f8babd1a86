"""The prompts that a model was trained on, and a notice for a prompt unlike all of them.

Shapes: n examples, E width of a sentence embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from lm_audio.conditioners.sentence import SentenceEncoder

MOST_LETTERS = 60  # of a prompt that a notice quotes
MOST_KINDS = 6  # that it names


@dataclass(frozen=True, kw_only=True)
class KnownPrompts:
    """The kinds of sound that a model was trained on.

    Args:
        examples: prompts of each kind, by its name; kinds that the model makes best come first.
        threshold: the cosine similarity to the nearest example below which a prompt is unknown.
    """

    examples: Mapping[str, Sequence[str]]
    threshold: float

    def __post_init__(self) -> None:
        if not self.examples or not all(self.examples.values()) or not 0 < self.threshold < 1:
            raise ValueError(
                f"Got {len(self.examples)} kinds and the threshold {self.threshold}; give at least "
                "one kind, an example of each, and a threshold between 0 and 1."
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.examples)

    @property
    def first_examples(self) -> list[str]:
        """One prompt per kind."""
        return [prompts[0] for prompts in self.examples.values()]


class PromptCheck:
    """Compares prompts with the known ones by the model's own text encoder."""

    def __init__(self, known: KnownPrompts, encoder: SentenceEncoder) -> None:
        self.known, self._encoder = known, encoder

    @cached_property
    def _examples(self) -> Tensor:  # [n, E]
        return self._encoder.sentences(
            [prompt for prompts in self.known.examples.values() for prompt in prompts]
        )

    def similarity(self, prompt: str) -> float:
        """Cosine similarity to the nearest example; -1 for a text without a known word."""
        if not self._encoder.tokenizer.knows(prompt):
            return -1.0
        return float((self._encoder.sentences([prompt]) @ self._examples.T).max())

    def notice(self, prompt: str) -> str | None:
        """One sentence if the model was not trained on prompts like this one."""
        words = " ".join(prompt.split())
        if not words or self.similarity(words) >= self.known.threshold:
            return None
        quoted = words if len(words) <= MOST_LETTERS else f"{words[: MOST_LETTERS - 3]}..."
        kinds = self.known.kinds
        more = ", ..." if len(kinds) > MOST_KINDS else ""
        return (
            f"The model was not trained on prompts like {quoted!r}; it knows "
            f"{', '.join(kinds[:MOST_KINDS])}{more} (lm-audio info lists all {len(kinds)} kinds)."
        )
