"""What people should know of a model before they use it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class About:
    """None is not known.

    Args:
        licence: of the weights, by its SPDX name, such as CC-BY-NC-4.0.
    """

    name: str | None = None
    licence: str | None = None
    description: str | None = None
