"""The verbs that hand out recipes, which are made to be copied: recipes list, recipes copy."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import lm_audio
from audio_tokenizers.atomic import replacing

PACKAGE = Path(lm_audio.__file__).parent
PLACES = (PACKAGE / "recipes", PACKAGE.parent / "recipes")
"""In an installed package, and in a checkout."""
RENAMED = dict.fromkeys(
    ("train_semantic", "train_acoustic", "train_coarse", "train_fine", "train_text_to_audio"),
    "train_stage",
)
SUFFIXES = {".py", ".sh", ".yaml"}


@dataclass(frozen=True, kw_only=True)
class List:
    """Lists the recipes with what each makes."""

    def run(self) -> None:
        for name, path in _recipes().items():
            print(f"{name:26}  {_first_line(path)}")


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Copies a recipe to where you are, to be changed."""

    name: tyro.conf.Positional[str]
    """As the list has it."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """A file or a folder; by default the recipe's own name, here."""

    def run(self) -> None:
        known = _recipes()
        if new := RENAMED.get(self.name.removesuffix(".py")):
            raise ValueError(f"The recipe {self.name} is now {new}.py; copy {new} instead.")
        source = known.get(self.name) or known.get(f"{self.name}.py")
        if source is None:
            raise ValueError(
                f"There is no recipe {self.name!r}; choose one of: {', '.join(known)}."
            )
        target = self.output or Path()
        target = target / source.name if target.is_dir() else target
        if target.exists():
            raise FileExistsError(f"{target} is there already; name another file with -o.")
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
        hint = f"; python {target} --help tells its settings" if target.suffix == ".py" else ""
        print(f"{target}: a copy of {source.name}{hint}.")


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """Hands out the scripts that train models: recipes list, recipes copy NAME."""

    verb: Annotated[
        Annotated[List, tyro.conf.subcommand("list")]
        | Annotated[Copy, tyro.conf.subcommand("copy")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> None:
        self.verb.run()


def _recipes() -> dict[str, Path]:
    """All recipes by the name of their file."""
    folder = next((place for place in PLACES if place.is_dir()), None)
    if folder is None:
        raise FileNotFoundError("This installation came without its recipes; install it anew.")
    return {path.name: path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES}


def _first_line(path: Path) -> str:
    """What a recipe says that it is: its first line of words."""
    lines = (line.strip('#" ') for line in path.read_text(encoding="utf-8").splitlines())
    return next(line for line in lines if line and not line.startswith("!"))
