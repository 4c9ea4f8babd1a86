"""A watermark by a generator of random weights, in the layouts in which weights are published."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lm_audio.clip import Clip
from lm_audio.watermark import CARD, MESSAGE, Watermark

builder = pytest.importorskip("audioseal.builder")
loader = pytest.importorskip("audioseal.loader")


@pytest.fixture(scope="module")
def generator() -> Any:
    torch.manual_seed(0)
    settings = loader.OmegaConf.to_container(loader.load_local_model_config(CARD))
    config = loader.AudioSeal.parse_config(settings, builder.AudioSealWMConfig)
    return builder.create_generator(config).eval().requires_grad_(False)


def published(generator: Any, *, normed: bool) -> dict[str, Tensor]:
    """Its weights as Meta's files name them; weight-normed convolutions hold two tensors."""
    found = {}
    for name, weight in generator.state_dict().items():
        name = name.replace(".inner_conv.", ".").replace(".inner_convtr.", ".")
        if normed and ".conv" in name and name.endswith(".weight"):
            found[f"{name}_v"] = 2 * weight
            found[f"{name}_g"] = weight.flatten(1).norm(dim=1)[:, None, None]
        else:
            found[name] = weight
    return found


@pytest.fixture(params=[True, False], ids=["normed", "plain"])
def weights(generator: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "generator.pth"
    torch.save({"model": published(generator, normed=request.param)}, path)
    return path


def new_clip(sample_rate: int, num_channels: int, num_samples: int) -> Clip:
    torch.manual_seed(1)
    return Clip(
        samples=0.1 * torch.randn(num_channels, num_samples),
        sample_rate=sample_rate,
        tokens=torch.zeros(1, 1, dtype=torch.int64),
        stage_values={},
        seed=1,
        prompt=None,
    )


def test_a_clip_of_16_khz_gets_what_the_generator_makes(generator: Any, weights: Path) -> None:
    clip = new_clip(16_000, 1, 8_000)
    marked = Watermark.load(weights).marked(clip)
    message = torch.tensor([MESSAGE])
    expected = clip.samples + generator.get_watermark(clip.samples[None], message=message)[0]
    torch.testing.assert_close(marked.samples, expected, atol=1e-5, rtol=1e-4)
    other = generator.get_watermark(clip.samples[None], message=1 - message)[0]
    assert not torch.allclose(marked.samples - clip.samples, other, atol=1e-5)
    assert (marked.seed, marked.sample_rate) == (clip.seed, clip.sample_rate)


@pytest.mark.parametrize(("rate", "channels", "count"), [(24_000, 2, 30_001), (8_000, 1, 999)])
def test_any_rate_and_channels_keep_their_length_and_all_but_the_mark(
    generator: Any, rate: int, channels: int, count: int
) -> None:
    clip = new_clip(rate, channels, count)
    marked = Watermark(generator).marked(clip)
    assert marked.samples.shape == clip.samples.shape
    mark = marked.samples - clip.samples
    assert 0 < mark.norm() < 5 * clip.samples.norm()
    assert torch.equal(Watermark(generator).marked(clip).samples, marked.samples)


def test_weights_of_something_else_are_refused(generator: Any, tmp_path: Path) -> None:
    path = tmp_path / "generator.pth"
    short = published(generator, normed=True)
    del short["encoder.model.3.conv.conv.weight_g"]
    for content in (short, {"a": torch.zeros(1)}, published(generator, normed=True) | {"b": 1}):
        torch.save({"model": content}, path)
        with pytest.raises(
            ValueError, match=r"does not contain the weights of AudioSeal's generator"
        ):
            Watermark.load(path)
    with pytest.raises(ValueError, match="No such file: "):
        Watermark.load(tmp_path / "none.pth")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_a_pickle_that_would_run_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": {"a": Evil()}}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="Refused to read"):
        Watermark.load(tmp_path / "evil.pth")
    assert capsys.readouterr().out == ""
