"""Old option names work as the new ones do, with a warning on stderr."""

import pytest

from lm_audio.cli.arguments import groups
from lm_audio.cli.deprecated import RENAMED, with_new_names
from lm_audio.cli.verbs import VERBS

OLD = [(verb, old, new) for verb, names in RENAMED.items() for old, new in names.items()]
NAMES = {"--keys": "--api-keys-file", "--max-waiting": "--max-queue"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--keys", "file"], ["--api-keys-file", "file"]),
        (["--keys=a=b", "--port", "1"], ["--api-keys-file=a=b", "--port", "1"]),
        (["--max_waiting", "3"], ["--max-queue", "3"]),
    ],
)
def test_an_old_name_is_replaced_with_one_warning(
    given: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert with_new_names(given, NAMES) == expected
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.startswith("lm-audio: warning: --")
    assert shown.endswith(f" is deprecated; use {expected[0].partition('=')[0]}.\n")


@pytest.mark.parametrize(
    "given", [["--max-queue", "3"], ["keys"], ["--", "--keys"], ["--keys-file", "x"], []]
)
def test_other_arguments_are_left_alone(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert with_new_names(given, NAMES) == given
    assert not capsys.readouterr().err


def test_an_option_given_twice_is_warned_about_once(capsys: pytest.CaptureFixture[str]) -> None:
    with_new_names(["--keys", "a", "--keys", "b"], NAMES)
    assert capsys.readouterr().err == (
        "lm-audio: warning: --keys is deprecated; use --api-keys-file.\n"
    )


@pytest.mark.parametrize(("verb", "old", "new"), OLD)
def test_new_names_exist_and_old_ones_do_not(verb: str, old: str, new: str) -> None:
    kind = VERBS[verb]
    assert isinstance(kind, type)
    names = {option.name for _, some in groups(kind) for option in some}
    assert new.removeprefix("--").removeprefix("no-").replace("-", "_") in names
    assert old.removeprefix("--").removeprefix("no-").replace("-", "_") not in names
