"""Seed images: loops whose beats are where they belong, read like any audio."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from audio_tokenizers.audio_files import read_audio

LoadRecipe = Callable[[str], ModuleType]


def test_the_tiny_preset_writes_images_that_are_read_as_sound(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    recipe = load_recipe("make_seed_images")
    paths = recipe.main(recipe.Config(preset="tiny", out=tmp_path / "seeds"))
    assert [path.stem for path in paths] == list(recipe.KINDS)
    sizes = set()
    for path in paths:
        sound = read_audio(path)
        assert sound.samples.shape == (1, 28_224)
        assert float(sound.samples.abs().max()) > 0.1
        sizes.add(path.read_bytes())
    assert len(sizes) == len(paths)
    before = paths[0].read_bytes()
    recipe.main(recipe.Config(preset="tiny", out=tmp_path / "seeds"))
    assert paths[0].read_bytes() == before


def test_beats_are_evenly_spaced_and_the_loop_closes(load_recipe: LoadRecipe) -> None:
    recipe = load_recipe("make_seed_images")
    loop = recipe.rhythm("beat", seconds=5.12, beats=8)
    assert loop.shape == (225_792,)
    assert np.abs(loop).max() == pytest.approx(0.8)
    energy = np.square(loop).reshape(512, 441).sum(axis=1)  # in steps of 10 ms
    rises = np.diff(np.concatenate([energy[-1:], energy]))
    strongest = np.sort(np.argsort(rises)[-8:])
    assert np.abs(strongest - 64 * np.arange(8)).max() <= 1
    for kind in recipe.KINDS:
        made = recipe.rhythm(kind, seconds=1.28, beats=2)
        steps = np.abs(np.diff(made, append=made[:1]))
        assert steps[-1] <= 1.05 * steps[:-1].max()


def test_a_loop_needs_beats(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    recipe = load_recipe("make_seed_images")
    with pytest.raises(ValueError, match="beats must be at least 1, got 0"):
        recipe.main(recipe.Config(beats=0, out=tmp_path))
