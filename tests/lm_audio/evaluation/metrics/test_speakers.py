"""Speakers are found by the mean direction of their enrolled clips."""

import numpy as np
import pytest
import torch

from lm_audio.evaluation.metrics.speakers import nearest_speakers, speaker_similarity


def test_the_nearest_speaker_is_that_of_the_nearest_mean_direction() -> None:
    random = np.random.default_rng(0)
    centres = {"ann": [1.0, 0, 0], "bob": [0, 1.0, 0], "eve": [0.7, 0.7, 0]}
    speakers = [name for name in centres for _ in range(20)]
    drawn = np.array([centres[name] for name in speakers]) + 0.05 * random.standard_normal((60, 3))
    enrolled = torch.from_numpy(drawn * random.uniform(0.1, 10, (60, 1)))  # levels do not count
    asked = torch.tensor([[5.0, 0.3, 0], [0.1, 1, 0], [0.01, 0.01, 0]])
    assert nearest_speakers(asked, enrolled, speakers) == ["ann", "bob", "eve"]
    assert speaker_similarity(asked[:2], asked[:2] * 3).tolist() == pytest.approx([1.0, 1.0])


def test_a_clip_is_left_out_of_the_voice_that_it_is_compared_with() -> None:
    # With its own clip ann's centroid would be the nearest; her other clip is not.
    enrolled = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0.6, 0.8, 0], [0.6, 0.8, 0]])
    speakers = ["ann", "ann", "bob", "bob"]
    asked = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0]])
    assert nearest_speakers(asked, enrolled, speakers) == ["ann", "bob"]
    assert nearest_speakers(asked, enrolled, speakers, own=[0, 2]) == ["bob", "bob"]
    alone = nearest_speakers(asked[:1], enrolled[[0, 2]], ["ann", "bob"], own=[0])
    assert alone == ["ann"]  # all that there is of her
