"""The verbs over recipes, the scripts that train models: recipes list, recipes copy."""

import ast
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import lm_audio
from audio_tokenizers.atomic import replacing, replacing_folder
from lm_audio.cli.arguments import Arg, VerbGroup

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
    """List the recipes (training and evaluation scripts) and what each one does."""

    EXAMPLES: ClassVar = ("lm-audio recipes list",)

    def run(self) -> None:
        known = _recipes()
        width = max(map(len, known))
        for name, path in known.items():
            print(f"{name:{width}}  {_first_line(path)}")


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Copy a recipe, or a folder of recipes, so you can edit it."""

    EXAMPLES: ClassVar = (
        "lm-audio recipes copy train_stage -o my_stage.py",
        "lm-audio recipes copy default_model",
    )

    name: Annotated[str, Arg("NAME", positional=True)]
    """Name of a recipe from `lm-audio recipes list`, or of a folder of recipes, such as
    default_model."""
    output: Annotated[Path | None, Arg("PATH", short="-o")] = None
    """File to write, or folder to copy into (default: the same name, in the current folder)."""

    def run(self) -> None:
        known = _recipes()
        if new := RENAMED.get(self.name.removesuffix(".py")):
            raise ValueError(f"The recipe {self.name} was renamed to {new}.py; copy {new}.")
        folders = {path.parent.name: path.parent for name, path in known.items() if "/" in name}
        name = self.name.rstrip("/")
        source = known.get(name) or known.get(f"{name}.py") or folders.get(name)
        if source is None:
            choices = ", ".join([*known, *folders])
            raise ValueError(f"Unknown recipe {self.name!r}. Choose one of: {choices}.")
        target = self.output or Path()
        target = target / source.name if target.is_dir() else target
        if target.exists():
            raise FileExistsError(f"{target} exists. Choose another name with -o.")
        if source.is_dir():
            _copy_folder(source, target)
            print(f"{target}: copied the recipes in {name}.")
            return
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
        hint = f"; python {target} --help shows its settings" if target.suffix == ".py" else ""
        print(f"{target}: copied {source.name}{hint}.")
        for package in _packages_beside(source):
            _bring(package, target.parent / package.name)


RECIPES = VerbGroup(
    help="List and copy scripts that prepare data, train and evaluate.",
    verbs={"list": List, "copy": Copy},
)


def _recipes() -> dict[str, Path]:
    """All recipes by file name, or by `folder/file`."""
    root = next((place for place in PLACES if place.is_dir()), None)
    if root is None:
        raise FileNotFoundError("This installation has no recipes. Reinstall lm-audio.")
    packages = {path.parent for path in root.glob("*/__init__.py")}  # of the recipes beside them
    folders = [root, *sorted({path for path in root.iterdir() if path.is_dir()} - packages)]
    return {
        path.relative_to(root).as_posix(): path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix in SUFFIXES
    }


def _packages_beside(recipe: Path) -> list[Path]:
    """The packages beside a recipe that it imports."""
    if recipe.suffix != ".py":
        return []
    tree = ast.parse(recipe.read_text(encoding="utf-8"))
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = sorted({module.split(".")[0] for module in modules})
    return [
        recipe.parent / name for name in names if (recipe.parent / name / "__init__.py").exists()
    ]


def _bring(package: Path, target: Path) -> None:
    if target.exists():  # from a recipe copied earlier, and perhaps edited since
        print(f"{target}/: exists, not copied.")
        return
    _copy_folder(package, target)
    print(f"{target}/: copied the package that it imports.")


def _copy_folder(source: Path, target: Path) -> None:
    with replacing_folder(target) as new:
        shutil.copytree(
            source, new, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
        )


def _first_line(path: Path) -> str:
    """The first line of a recipe's description."""
    lines = (line.strip('#" ') for line in path.read_text(encoding="utf-8").splitlines())
    return next(line for line in lines if line and not line.startswith("!"))
