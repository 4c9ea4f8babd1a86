"""Recipes are scripts: they are loaded by their path, as a user would copy one."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from audio_tokenizers.acoustic.frame_codec import (
    FrameCodec,
    load_frame_codec,
    save_frame_codec,
    tiny,
)
from audio_tokenizers.semantic.features import save_features
from audio_tokenizers.semantic.kmeans import FeatureSource, KMeansCodebook
from audio_tokenizers.semantic.masked_model import MaskedAudioModel
from audio_tokenizers.semantic.masked_model import tiny as tiny_masked_model
from audio_tokenizers.semantic.tokenizer import (
    FeatureTokenizer,
    load_feature_tokenizer,
    save_feature_tokenizer,
)
from lm_audio.data.shards import Example, Shards, Stream, shard_path, write_shard
from lm_audio.data.synthetic import synthetic_clips
from lm_audio.data.synthetic_shards import make_up_shards
from lm_audio.data.tokenizing import Tokenizers, TokenizingConfig
from lm_audio.training.optimization import EMA

FOLDER = Path(__file__).parents[2] / "recipes"
AUDIOLDM = Path(__file__).parents[1] / "lm_audio/families/audioldm/conftest.py"
STAGE_STEPS = 30
STAGE_SETTINGS: dict[str, dict[str, Any]] = {
    "duet semantic": {"context_seconds": 1.0, "tokens_per_batch": 200},
    "duet acoustic": {
        "context_seconds": 0.4,
        "tokens_per_batch": 800,
        "evaluate_every": 20,
        "save_every": 4,
    },
    "audiolm semantic": {"context_seconds": 1.0, "tokens_per_batch": 200},
    "audiolm coarse": {"context_seconds": 0.5},
    "audiolm fine": {"context_seconds": 0.2, "tokens_per_batch": 400},
    "audiocraft acoustic": {"context_seconds": 0.5, "tokens_per_batch": 800},
    "soundstorm acoustic": {"context_seconds": 0.4, "tokens_per_batch": 800},
}
EARLIER_STAGES = {"duet acoustic": ("semantic",), "audiolm fine": ("semantic", "coarse")}


@pytest.fixture(scope="session")
def killed_at() -> Callable[[int], AbstractContextManager[None]]:
    """Kills a recipe at the end of a step: `with killed_at(step): recipe.main(...)`."""

    @contextmanager
    def kill(last: int) -> Iterator[None]:
        update = EMA.update

        def killed(average: EMA, step: int) -> None:
            if step == last:
                raise KeyboardInterrupt
            update(average, step)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(EMA, "update", killed)
            with pytest.raises(KeyboardInterrupt):
                yield

    return kill


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


@pytest.fixture(scope="session")
def write_audioldm2() -> Callable[[Path, int], Path]:
    """Writes a tiny AudioLDM 2 of random weights, whose U-Net reads vectors of a given width."""

    def write(folder: Path, width: int) -> Path:
        spec = importlib.util.spec_from_file_location("audioldm_checkpoints", AUDIOLDM)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        parts = module.small_parts(cross_attention_dim=[[None, width, 20]] * 2)
        made: Path = module.write(parts, folder)
        return made

    return write


@pytest.fixture(scope="session")
def change_shards(token_shards: Path) -> Callable[..., Path]:
    """Copies those shards with changed streams; None leaves a stream out."""

    def change(target: Path, **changes: Callable[[Stream], Stream] | None) -> Path:
        for split in ("train", "held_out"):
            shards = Shards(token_shards, split)
            streams = dict(shards.streams)
            for kind, new in changes.items():
                stream = streams.pop(kind)
                streams |= {} if new is None else {kind: new(stream)}
            examples = [
                replace(
                    each,
                    streams={
                        kind: each.streams[kind][: stream.num_codebooks]
                        for kind, stream in streams.items()
                    },
                )
                for each in shards
            ]
            write_shard(shard_path(target, split, 0), examples, streams)
        return target

    return change


@pytest.fixture(scope="session")
def train_stage(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("train_stage")


@pytest.fixture(scope="session")
def tiny_stage(
    train_stage: ModuleType, token_shards: Path, codec_folder: Path
) -> Callable[..., Any]:
    """Makes the settings of a short run, such as `tiny_stage("duet semantic", out=folder)`."""

    def make(name: str, **changes: Any) -> Any:
        family, stage = name.split()
        given = {
            "data": (token_shards,),
            "codec": codec_folder,
            "steps": STAGE_STEPS,
            **STAGE_SETTINGS[name],
        }
        return replace(train_stage.PRESETS[family][stage]["tiny"], **given | changes)

    return make


@pytest.fixture(scope="session")
def semantic_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one of 64 tokens with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("semantic_tokenizer")
    model = MaskedAudioModel(tiny_masked_model()).eval()
    codebook = KMeansCodebook(
        centroids=torch.randn(64, model.width),
        mean=torch.zeros(model.width),
        std=torch.ones(model.width),
        source=FeatureSource(model=model.identity, layer=1),
    )
    save_features(model, folder / "model")
    save_feature_tokenizer(FeatureTokenizer(model, codebook), folder, model="model")
    return folder


@pytest.fixture(scope="session")
def tokenizer_shards(
    semantic_tokenizer: Path,
    change_shards: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The shared shards, as if this tokenizer had made their semantic tokens."""
    identity = load_feature_tokenizer(semantic_tokenizer).identity
    return change_shards(
        tmp_path_factory.mktemp("shards"),
        semantic=lambda stream: replace(stream, identity=identity),
    )


@pytest.fixture(scope="session")
def trained(
    train_stage: ModuleType,
    tiny_stage: Callable[..., Any],
    tokenizer_shards: Path,
    semantic_tokenizer: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Any, list[float]]]:
    """Trains a stage, and those before it, once in a session: its settings and losses."""
    runs: dict[str, tuple[Any, list[float]]] = {}

    def train(name: str) -> tuple[Any, list[float]]:
        if name in runs:
            return runs[name]
        family, stage = name.split()
        special: dict[str, Any] = {"labels": ("label",)} if family == "audiocraft" else {}
        if family == "audiolm":
            special = {"data": (tokenizer_shards,)}
        for earlier in EARLIER_STAGES.get(name, ()):
            special[earlier] = train(f"{family} {earlier}")[0].out
        if family == "soundstorm":
            special["semantic"] = train("duet semantic")[0].out
        if stage == "fine":
            special["semantic_tokenizer"] = semantic_tokenizer
        config = tiny_stage(name, out=tmp_path_factory.mktemp(family), **special)
        with _the_same_in_all_versions():
            runs[name] = config, train_stage.main(config)
        return runs[name]

    return train


@pytest.fixture(scope="session")
def stereo_shards(
    token_shards: Path, codec_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The shared ones as both channels, as recipes/tokenize_dataset.py --channels 2 has them."""
    folder = tmp_path_factory.mktemp("stereo")
    tokenizers = Tokenizers(TokenizingConfig(codec=str(codec_folder), num_channels=2))
    for split in ("train", "held_out"):
        examples = [
            replace(
                each, streams={"acoustic": each.streams["acoustic"].repeat_interleave(2, dim=0)}
            )
            for each in Shards(token_shards, split)
        ]
        write_shard(folder / f"{split}-00000.safetensors", examples, tokenizers.streams)
    return folder
