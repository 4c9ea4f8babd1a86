"""A recipe's command line: its settings over those of a preset."""

import argparse
from collections.abc import Mapping
from typing import TypeVar

import tyro

Config = TypeVar("Config")


def read_preset(presets: Mapping[str, Config], *, description: str | None) -> Config:
    """Reads the command line over the preset that `--preset` names, "small" by default."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default="small")
    name = parser.parse_known_args()[0].preset
    if name not in presets:
        parser.error(f"unknown preset {name!r}; choose one of: {', '.join(presets)}")
    return tyro.cli(type(presets[name]), default=presets[name], description=description)
