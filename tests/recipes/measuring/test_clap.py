"""The CLAP score, against values worked out by hand."""

import torch

from measuring.clips import clap_scores


def test_a_score_is_the_mean_cosine_of_windows_and_text() -> None:
    windows = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    score = clap_scores([windows[:1], windows], torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
    assert torch.allclose(score, torch.tensor([1.0, 1.0]))
    assert clap_scores([windows[1:]], torch.tensor([[1.0, 0.0]])).item() == 0.0
