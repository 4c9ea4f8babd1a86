"""The notice for unknown prompts: the threshold that is stored is one that its own files give."""

from collections.abc import Callable
from types import ModuleType

import pytest

from lm_audio.pretrained import DEFAULT_FOLDER


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("default_model/check_prompts")


def test_most_unknown_prompts_get_a_notice_and_few_known_ones(
    recipe: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = recipe.main(recipe.Config())
    assert rates.false_alarms < 0.06
    assert rates.hits > 0.8
    assert "stored threshold 0.635: notices for" in capsys.readouterr().out


def test_the_model_in_the_package_has_the_stored_examples(recipe: ModuleType) -> None:
    from lm_audio.saving.folder import read_config

    stored = recipe.read_examples(recipe.PROMPTS)
    assert read_config(DEFAULT_FOLDER)["about"]["known"] == {
        "threshold": stored.threshold,
        "examples": stored.examples,
    }


def test_the_lists_are_long_distinct_and_apart_from_the_examples(recipe: ModuleType) -> None:
    lists = {
        name: (recipe.PROMPTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        for name in recipe.FILES
    }
    together = [prompt for prompts in lists.values() for prompt in prompts]
    assert min(map(len, lists.values())) >= 60
    assert len(set(together)) == len(together)
    examples = {p for ps in recipe.read_examples(recipe.PROMPTS).examples.values() for p in ps}
    assert len(examples & set(lists["known"])) < 0.1 * len(lists["known"])


def test_a_threshold_lets_at_most_the_share_below_it(recipe: ModuleType) -> None:
    scores = [n / 100 for n in range(100)]
    threshold = recipe.threshold_of(scores, 0.05)
    assert sum(score < threshold for score in scores) == 5
    rates = recipe.rates_of({"known": [("a", 0.9)], "unknown": [("b", 0.1), ("c", 0.6)]}, 0.5)
    assert (rates.false_alarms, rates.hits) == (0.0, 0.5)
