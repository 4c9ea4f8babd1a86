"""Reads Bark's original files: three separate models, identified by their content.

The codec and the text tokenizer are not included; they come from the hub or from given paths.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from audio_tokenizers.acoustic.encodec_checkpoints import load_encodec
from lm_audio.families.bark.parts import (
    BarkParts,
    BarkSettings,
    Shape,
    build_coarse,
    build_fine_model,
    build_semantic,
    load_text_tokenizer,
    voices_of,
)
from lm_audio.saving.pickles import is_torch_file, read_pickle

CODEC = "facebook/encodec_24khz"
TEXT_TOKENIZER = "google-bert/bert-base-multilingual-cased"
_PREFIX = "_orig_mod."  # of models saved after torch.compile


def holds_original_bark(folder: Path) -> bool:
    """Whether a file in the folder is one of Bark's three models."""
    return any(_is_readable_model(file) for file in _torch_files(folder))


def read_original_bark(
    source: str | Path | Sequence[str | Path],
    *,
    codec: str | Path = CODEC,
    text_tokenizer: str | Path = TEXT_TOKENIZER,
) -> BarkParts:
    """Reads the three files, given as paths or as a folder that contains exactly these."""
    if isinstance(source, str | Path):
        folder, files = Path(source), _torch_files(Path(source))
    else:
        folder, files = Path(source[0]).parent, [Path(file) for file in source]
    packages = _by_role(files, source=folder)
    settings = BarkSettings()
    build: dict[str, Callable[..., Any]] = {
        "semantic": build_semantic,
        "coarse": partial(build_coarse, settings=settings),
        "fine": build_fine_model,
    }
    models: dict[str, Any] = {}
    for role, (file, package) in packages.items():
        state = {name.removeprefix(_PREFIX): x for name, x in package["model"].items()}
        models[role] = build[role](state, _shape(package["model_args"], file), source=file)
    parts = BarkParts(
        **models,
        codec=load_encodec(codec),
        text_tokenizer=load_text_tokenizer(text_tokenizer),
        voices=voices_of(settings, folder),
        settings=settings,
    )
    parts.check(source=folder)
    return parts


def _torch_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and is_torch_file(path)]


def _by_role(files: Sequence[Path], *, source: Path) -> dict[str, tuple[Path, Mapping[str, Any]]]:
    found: dict[str, list[tuple[Path, Mapping[str, Any]]]] = {
        "semantic": [], "coarse": [], "fine": [],
    }  # fmt: skip
    for file in files:
        package = read_pickle(file)
        if _is_model(package):
            found[_role(package)].append((file, package))
    for role, packages in found.items():
        if len(packages) != 1:
            names = ", ".join(file.name for file, _ in packages) or "none"
            raise ValueError(
                f"Expected one {role} model of Bark in {source}, found {len(packages)} ({names}). "
                "Give the three files that belong together."
            )
    return {role: packages[0] for role, packages in found.items()}


def _is_model(package: Mapping[str, Any]) -> bool:
    return isinstance(package.get("model"), dict) and isinstance(package.get("model_args"), dict)


def _is_readable_model(file: Path) -> bool:
    try:
        return _is_model(read_pickle(file))
    except ValueError:  # not a Bark file; other readers report what is wrong with it
        return False


def _role(package: Mapping[str, Any]) -> str:
    """The role of a model: only the semantic one reads text, so it has more input tokens."""
    if any(".wtes." in name for name in package["model"]):
        return "fine"
    sizes = package["model_args"]
    reads_more = sizes.get("input_vocab_size", 0) > sizes.get("output_vocab_size", 0)
    return "semantic" if reads_more else "coarse"


def _shape(arguments: Mapping[str, Any], file: Path) -> Shape:
    size = arguments.get("vocab_size")
    try:
        return Shape(
            dim=arguments["n_embd"],
            num_layers=arguments["n_layer"],
            num_heads=arguments["n_head"],
            num_positions=arguments["block_size"],
            bias=arguments.get("bias", True),
            num_inputs=arguments.get("input_vocab_size") or size or 0,
            vocab_size=arguments.get("output_vocab_size") or size or 0,
            num_codebooks=arguments.get("n_codes_total", 8),
            num_given=arguments.get("n_codes_given", 1),
        )
    except KeyError as error:
        raise ValueError(
            f"{error} is missing in the model_args of {file}. Download it again."
        ) from None
