"""gradio_space: the function behind its form."""

from collections.abc import Callable
from types import ModuleType

import numpy as np

import lm_audio


def test_the_form_gives_the_clip_of_generate(load_recipe: Callable[[str], ModuleType]) -> None:
    model = lm_audio.load(device="cpu")
    generate = load_recipe("gradio_space").generator(model)
    rate, samples = generate(" rain ", 0.2, "7")
    clip = model.generate("rain", duration=0.2, seed=7)
    assert rate == clip.sample_rate
    assert samples.shape == (clip.samples.shape[1], 1)
    np.testing.assert_allclose(samples[:, 0] / 2**15, clip.samples[0].numpy(), atol=2**-15)
    assert len(generate("", 0.1, "")[1]) == round(0.1 * rate)
