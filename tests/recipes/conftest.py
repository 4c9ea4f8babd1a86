"""Recipes are scripts: they are loaded by their path, as a user would copy one."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import pytest
import torch

from audio_tokenizers.acoustic.frame_codec import (
    FrameCodec,
    load_frame_codec,
    save_frame_codec,
    tiny,
)
from lm_audio.data.shards import Example, Stream, shard_path, write_shard
from lm_audio.data.synthetic import synthetic_clips
from lm_audio.data.synthetic_shards import make_up_shards

FOLDER = Path(__file__).parents[2] / "recipes"


@pytest.fixture(autouse=True)
def accelerate_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has an accelerate of its own, which else keeps the precision of the first."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    yield
    if (state := sys.modules.get("accelerate.state")) is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of samples: nine seconds of made-up sounds, three of them held out."""
    folder = tmp_path_factory.mktemp("sounds")
    stream = Stream(rate=Fraction(24_000), num_codebooks=1, num_tokens=None, identity="sounds")
    clips = synthetic_clips(num_clips=9, seconds=1.0, sample_rate=24_000, seed=0)
    for split, part in (("train", clips[:6]), ("held_out", clips[6:])):
        examples = [
            Example(
                id=clip.name, streams={"samples": torch.tensor(clip.samples)[None]}, conditions={}
            )
            for clip in part
        ]
        write_shard(shard_path(folder, split, 0), examples, {"samples": stream})
    return folder


@pytest.fixture(scope="module")
def steady_weights() -> Iterator[None]:
    """Makes a seed give the same new weights in all versions of torch, for losses to be pinned."""
    with _the_same_in_all_versions():
        yield


@contextmanager
def _the_same_in_all_versions() -> Iterator[None]:
    def trunc_normal(tensor: torch.Tensor, std: float = 1.0) -> torch.Tensor:
        with torch.no_grad():
            return tensor.normal_(std=std).clamp_(-2 * std, 2 * std)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.init, "trunc_normal_", trunc_normal)  # torch drew otherwise once
        yield


@pytest.fixture(scope="session")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec of 4 codebooks of 64 tokens with random weights, 50 frames a second at 24 kHz."""
    folder = tmp_path_factory.mktemp("codec")
    with torch.random.fork_rng(), _the_same_in_all_versions():
        torch.manual_seed(0)
        codec = FrameCodec(tiny()).eval()
        for layer in codec.quantizer.layers:
            layer._codebook.embed.normal_()
            layer._codebook.initted.fill_(True)
    save_frame_codec(codec, folder)
    return folder


@pytest.fixture(scope="session")
def token_shards(codec_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of that codec's tokens and of 64 semantic ones: two minutes of made-up sounds."""
    return make_up_shards(tmp_path_factory.mktemp("tokens"), load_frame_codec(codec_folder))


@pytest.fixture(scope="session")
def load_recipe() -> Callable[[str], ModuleType]:
    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(
            f"recipe_{name.replace('/', '_')}", FOLDER / f"{name}.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load
