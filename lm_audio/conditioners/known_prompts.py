"""The prompts that a model was trained on, and a notice for unfamiliar prompts.

Shapes: n examples, E width of a sentence embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from lm_audio.conditioners.sentence import SentenceEncoder

MOST_LETTERS = 60  # of a prompt quoted in a notice
MOST_KINDS = 6  # listed in a notice


@dataclass(frozen=True, kw_only=True)
class KnownPrompts:
    """The kinds of sound that a model was trained on.

    Args:
        examples: prompts by kind; the kinds that the model makes best come first.
        threshold: the cosine similarity to the nearest example below which a prompt is unknown.
        embeddings: of all examples in order, [n, E]; computed on first use by default.
    """

    examples: Mapping[str, Sequence[str]]
    threshold: float
    embeddings: Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.examples or not all(self.examples.values()) or not 0 < self.threshold < 1:
            raise ValueError(
                "Expected at least one kind, an example of each, and a threshold between 0 and 1, "
                f"got {len(self.examples)} kinds and threshold {self.threshold}."
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.examples)

    @property
    def prompts(self) -> list[str]:
        """All examples in order."""
        return [prompt for prompts in self.examples.values() for prompt in prompts]

    @property
    def first_examples(self) -> list[str]:
        """One prompt per kind."""
        return [prompts[0] for prompts in self.examples.values()]


class PromptCheck:
    """Compares prompts with the known ones, using the model's text encoder."""

    def __init__(self, known: KnownPrompts, encoder: SentenceEncoder) -> None:
        given, shape = known.embeddings, (len(known.prompts), encoder.dim)
        if given is not None and given.shape != shape:
            raise ValueError(
                f"Expected embeddings of {shape[0]} prompts with {shape[1]} values each, got shape "
                f"{list(given.shape)}."
            )
        self.known, self._encoder = known, encoder

    @cached_property
    def embeddings(self) -> Tensor:
        """Of the examples: [n, E]."""
        if self.known.embeddings is not None:
            return self.known.embeddings.to(self._encoder.model.head.weight)
        return self._encoder.sentences(self.known.prompts)

    def similarity(self, prompt: str) -> float:
        """Cosine similarity to the nearest example; -1 for a text without a known word."""
        if not self._encoder.tokenizer.knows(prompt):
            return -1.0
        return float((self._encoder.sentences([prompt]) @ self.embeddings.T).max())

    def notice(self, prompt: str) -> str | None:
        """One sentence if the model was not trained on prompts like this one."""
        words = " ".join(prompt.split())
        if not words or self.similarity(words) >= self.known.threshold:
            return None
        quoted = words if len(words) <= MOST_LETTERS else f"{words[: MOST_LETTERS - 3]}..."
        kinds = self.known.kinds
        more = ", ..." if len(kinds) > MOST_KINDS else ""
        return (
            f"The model was not trained on prompts like {quoted!r}. It was trained on: "
            f"{', '.join(kinds[:MOST_KINDS])}{more} (lm-audio info lists all {len(kinds)} kinds)."
        )
