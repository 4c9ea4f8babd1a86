"""What a model was trained on, and the notice that a prompt unlike it gets."""

from pathlib import Path

import pytest
import torch

from lm_audio.conditioners.known_prompts import KnownPrompts, PromptCheck
from lm_audio.conditioners.sentence import SentenceEncoder

EXAMPLES = {"dog": ["a dog barks"], "sea": ["sea", "birds sing over the sea"]}


@pytest.fixture
def check(sentence_folder: Path) -> PromptCheck:
    known = KnownPrompts(examples=EXAMPLES, threshold=0.99)
    return PromptCheck(known, SentenceEncoder.load(sentence_folder))


def test_an_example_is_known_in_any_case_and_spacing(check: PromptCheck) -> None:
    for prompt in ("a dog barks", "A DOG  barks ", "birds sing over the sea"):
        assert check.similarity(prompt) == pytest.approx(1.0, abs=1e-5)
        assert check.notice(prompt) is None


def test_sentences_of_a_batch_are_those_of_each_text_alone(sentence_folder: Path) -> None:
    encoder = SentenceEncoder.load(sentence_folder)
    texts = ["sea", "birds sing in the rain over the sea"]
    alone = torch.cat([encoder.sentences([text]) for text in texts])
    torch.testing.assert_close(encoder.sentences(texts), alone)
    torch.testing.assert_close(alone.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("prompt", ["狗在叫", "🐶 🔥"])
def test_a_prompt_of_bytes_alone_is_never_known(sentence_folder: Path, prompt: str) -> None:
    known = KnownPrompts(examples=EXAMPLES, threshold=0.01)  # everything else is near enough
    check = PromptCheck(known, SentenceEncoder.load(sentence_folder))
    assert not check._encoder.tokenizer.knows(prompt)
    assert check.notice(prompt) == (
        f"The model was not trained on prompts like {prompt!r}. It was trained on: "
        "dog, sea (lm-audio info lists all 2 kinds)."
    )


def test_a_notice_is_one_line_of_bounded_length(check: PromptCheck) -> None:
    notice = check.notice("rain\n" * 1000)
    assert notice is not None
    assert "\n" not in notice
    assert "rain rain ra..." in notice
    assert len(notice) < 200


def test_no_prompt_gets_no_notice(check: PromptCheck) -> None:
    assert check.notice("") is check.notice(" \n") is None


@pytest.mark.parametrize(
    ("examples", "threshold"), [({}, 0.5), ({"dog": []}, 0.5), (EXAMPLES, 1.5), (EXAMPLES, 0.0)]
)
def test_known_prompts_without_examples_or_a_threshold_are_refused(
    examples: dict[str, list[str]], threshold: float
) -> None:
    with pytest.raises(ValueError, match="Expected at least one kind, an example of each"):
        KnownPrompts(examples=examples, threshold=threshold)
