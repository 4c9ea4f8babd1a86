"""Mistakes on the command line itself, and help."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import fields

import pytest

from lm_audio.cli import main
from lm_audio.cli.arguments import VerbGroup, groups, parse
from lm_audio.cli.generate import Generate
from lm_audio.cli.verbs import VERBS

Fails = Callable[[list[str]], str]


ALL: list[tuple[str, type]] = []
for name, verb in VERBS.items():
    if isinstance(verb, VerbGroup):
        ALL += [(f"{name} {below}", kind) for below, kind in verb.verbs.items()]
    else:
        ALL.append((name, verb))


def parsed(line: str) -> object:
    return parse(VERBS, shlex.split(line), program="lm-audio", description="")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "No command given. Choose one of: generate, continue, inpaint, vary, encode"),
        ("make", "Unknown command 'make'. Choose one of: generate, "),
        ("generat", "Unknown command 'generat'. Did you mean generate?"),
        ("--quick", "Unknown option --quick. See lm-audio --help."),
        ("recipes", "No command given. Choose one of: list, copy. See lm-audio recipes --help."),
        ("recipes lits", "Unknown command 'lits'. Did you mean list?"),
        ("generate a --ouput x", "Unknown option --ouput. Did you mean --output? See lm-audio gen"),
        ("generate a b", "'b'. Put a prompt of several words in quotes. See lm-audio generate"),
        ("continue a.wav applause", "'applause'. Describe the new audio with --text. See lm-audio"),
        ("encode a.wav b -o c.safetensors", "Unexpected argument 'b'. See lm-audio encode --help."),
        ("generate -5", "Unknown option -5; put a PROMPT that starts with a dash after --."),
        ("generate -- --dog -o x.wav", "Unexpected argument '-o' after --; put options before it."),
        ("generate --play=yes", "--play takes no value."),
        ("generate --duration", "--duration needs a value."),
        ("generate --duration 3,5", "--duration takes a number such as 2.5; got '3,5'."),
        ("generate --duration nan", "--duration takes a number such as 2.5; got 'nan'."),
        ("generate --duration 0", "--duration must be from 0.01 to 86400; got 0."),
        ("generate --duration 0.0001", "--duration must be from 0.01 to 86400; got 0.0001."),
        ("generate --duration 1e9", "--duration must be from 0.01 to 86400; got 1e9."),
        ("generate --seed abc", "--seed takes a whole number; got 'abc'."),
        ("generate --seed -1", "--seed must be at least 0; got -1."),
        ("generate --top-k 2.5", "--top-k takes a whole number; got '2.5'."),
        ("generate --top-p 5", "--top-p must be from 0 to 1; got 5."),
        ("generate --temperature -1", "--temperature must be at least 0; got -1."),
        ("generate --num-clips 0", "--num-clips must be at least 1; got 0."),
        ("generate --batch-size 0", "--batch-size must be at least 1; got 0."),
        ("generate --dtype int4", "--dtype must be one of float32, bfloat16, float16, int8, auto;"),
        ("continue", "Missing AUDIO. See lm-audio continue --help."),
        ("inpaint a.wav --start 1", "Missing --end."),
        ("inpaint a.wav --start nan --end 1", "--start takes a number such as 2.5; got 'nan'."),
        ("inpaint", "Missing AUDIO and --start and --end."),
    ],
)
def test_a_wrong_command_gets_one_line_without_torch(
    line: str, message: str, fails_with: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_audio.loading", None)  # importing it would fail
    assert message in fails_with(shlex.split(line))


def test_options_and_values_are_found_in_any_order() -> None:
    lines = [
        "generate rain --seed 3 --top_k 5 -o x.wav --condition a=1 --condition b=2 --play",
        "generate --condition=a=1 --play --output=x.wav --condition b=2 --top-k 5 rain --seed 3",
        "generate --play -o x.wav --seed 3 --condition a=1 --condition b=2 --top-k=5 -- rain",
    ]
    found = [parsed(line) for line in lines]
    assert found[0] == found[1] == found[2]
    verb = found[0]
    assert isinstance(verb, Generate)
    assert (verb.prompt, verb.request.seed, verb.sampling.top_k) == ("rain", 3, 5)
    assert (verb.out.output, verb.out.play) == ("x.wav", True)
    assert verb.request.condition == ("a=1", "b=2")
    assert parsed("generate") == Generate()


def test_a_prompt_may_start_with_a_dash() -> None:
    verb = parsed("generate --seed 1 -- '--dog'")
    assert isinstance(verb, Generate)
    assert verb.prompt == "--dog"


@pytest.mark.parametrize(("name", "verb"), ALL)
def test_help_explains_every_option(
    name: str, verb: type, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in ("60", "200"):
        monkeypatch.setenv("COLUMNS", width)
        with pytest.raises(SystemExit) as stopped:
            main([*name.split(), "--help"])
        assert not stopped.value.code
        shown = capsys.readouterr().out
        end = shown.split("\n\n")[-1]
        assert f"Usage: lm-audio {name} " in shown
        assert "None" not in shown
        for option in [option for _, some in groups(verb) for option in some]:
            assert option.help
            assert option.usage in shown
        longest = max(len(line) for line in shown.replace(end, "").splitlines())
        assert longest <= min(int(width), 100)


@pytest.mark.parametrize(("name", "verb"), ALL)
def test_examples_in_the_help_are_commands(name: str, verb: type) -> None:
    for example in getattr(verb, "EXAMPLES", ()):
        words = shlex.split(example.partition(" | grep")[0].partition(" > ")[0])
        words = words[words.index("lm-audio") + 1 :]
        words = words[: words.index("|")] if "|" in words else words
        assert " ".join(words).startswith(name)
        assert isinstance(parsed(shlex.join(words)), verb)


def test_the_overview_has_a_line_for_each_verb(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert not stopped.value.code
    verbs = capsys.readouterr().out.split("Commands:\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in verbs] == list(VERBS)


def test_option_names_are_unique_in_each_verb() -> None:
    for _, verb in ALL:
        names = [option.name for _, some in groups(verb) for option in some]
        assert len(names) == len(set(names))
        assert len(names) >= len(fields(verb)) - 4
