"""Fine-tuning: of models in every layout, in whole or by adapters, with all that was theirs."""

import string
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import load_file
from transformers import EncodecConfig, EncodecModel, T5Config, T5EncoderModel
from transformers import PreTrainedTokenizerFast as FastTokenizer

import lm_audio
from audio_tokenizers.acoustic.registry import load_codec
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.text import T5Encoder, TextConditioner
from lm_audio.data.synthetic_shards import make_up_shards
from lm_audio.families.audiocraft.stages import audiogen
from lm_audio.families.audiolm.stages import RENDERED, audiolm
from lm_audio.model import Model, ModelCard
from lm_audio.networks import presets
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import delayed
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling
from lm_audio.training.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("steady_weights")

STEPS = 20
RANK = 2
LICENCE = "CC-BY-NC-4.0"

LoadRecipe = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def recipe(load_recipe: LoadRecipe) -> ModuleType:
    return load_recipe("finetune")


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of a single layer, as wide as t5-small, which audiocraft knows by its name."""
    folder = tmp_path_factory.mktemp("t5")
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase]
    vocabulary = [(piece, 0.0) for piece in pieces]
    fast = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=2))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    FastTokenizer(tokenizer_object=fast, **names).save_pretrained(folder)
    sizes = {"d_model": 512, "d_kv": 8, "d_ff": 16, "num_heads": 2, "num_layers": 1}
    model = T5EncoderModel(T5Config(vocab_size=len(pieces), **sizes))
    _draw_weights(model)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encodec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random EnCodec of MusicGen's kind, 100 frames a second at 16 kHz."""
    folder = tmp_path_factory.mktemp("encodec")
    model = EncodecModel(
        EncodecConfig(
            sampling_rate=16_000,
            upsampling_ratios=[8, 5, 4],
            use_causal_conv=False,
            use_conv_shortcut=False,
            pad_mode="constant",
            num_filters=4,
            hidden_size=16,
            codebook_size=64,
            target_bandwidths=[4 * 100 * 6 / 1000],
        )
    )
    _draw_weights(model)
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    model.save_pretrained(folder)
    return folder


def _draw_weights(model: torch.nn.Module) -> None:
    """New weights, the same in all versions of transformers."""
    torch.manual_seed(0)
    for _, weight in sorted(model.named_parameters()):
        torch.nn.init.normal_(weight, std=0.3)


@pytest.fixture(scope="module")
def musicgen(t5_folder: Path, encodec_folder: Path) -> AudioPipeline:
    """A random model of MusicGen's shape, half a second long."""
    torch.manual_seed(0)
    transformer = TransformerConfig(
        dim=32,
        num_layers=2,
        num_heads=2,
        hidden_dim=64,
        positions="sinusoidal",
        norm="layer",
        activation="gelu",
        cross_attention=True,
    )
    model = TokenLM(TokenLMConfig(transformer=transformer, num_streams=4, vocab_size=64))
    text = TextConditioner(T5Encoder.load(t5_folder), transformer.dim)
    stages = audiogen(
        model,
        pattern=delayed(range(4)),
        conditioners=Conditioners({"text": text}, {"text": "cross"}),
        frame_rate=Fraction(100),
        window_frames=50,
        overlap_frames=20,
        sampling=Sampling(),
    )
    codec = CodecRenderer(load_codec(encodec_folder))
    return AudioPipeline(Model(stages, codec, card=ModelCard(licence=LICENCE)))


@pytest.fixture(scope="module", params=["transformers", "audiocraft", "lm-audio"])
def checkpoint(
    request: pytest.FixtureRequest,
    musicgen: AudioPipeline,
    t5_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """The same model in each of the layouts, and what else has to be said to load it."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    if request.param == "lm-audio":
        musicgen.save(folder)
        return {"model": str(folder)}
    musicgen.export(folder, layout=request.param, t5_name="t5-small")
    given = {"text_encoder": str(t5_folder)} if request.param == "audiocraft" else {}
    return {"model": str(folder), **given}


@pytest.fixture(scope="module")
def encodec_shards(encodec_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encodec_shards")
    return make_up_shards(folder, load_codec(encodec_folder), num_clips=9)


@pytest.fixture(scope="module")
def audiolm_folder(codec_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    stages = audiolm(
        presets.tiny(cross_attention=False).transformer,
        num_semantic_tokens=64,
        semantic_rate=Fraction(20),
        num_coarse=2,
        num_fine=2,
        codebook_size=64,
        frame_rate=Fraction(50),
    )
    stages = [replace(stage, window_frames=20, overlap_frames=0) for stage in stages]
    folder = tmp_path_factory.mktemp("audiolm") / "model"
    AudioPipeline(
        Model(stages, CodecRenderer(load_codec(codec_folder)), output_stages=RENDERED)
    ).save(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(recipe: ModuleType) -> Any:
    return replace(recipe.PRESETS["tiny"], steps=STEPS, tokens_per_batch=800)


@pytest.fixture(scope="module")
def adapted(
    recipe: ModuleType,
    tiny: Any,
    musicgen: AudioPipeline,
    encodec_shards: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, list[float]]:
    """The settings and losses of a run by adapters."""
    folder = tmp_path_factory.mktemp("adapted")
    musicgen.save(folder / "base")
    config = replace(
        tiny,
        model=str(folder / "base"),
        data=(encodec_shards,),
        out=folder / "run",
        lora=RANK,
        save_every=7,
    )
    return config, recipe.main(config)


def test_the_tiny_preset_makes_up_a_model_and_learns(
    recipe: ModuleType,
    tiny: Any,
    codec_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recipe, "CODEC_FOLDER", codec_folder)
    losses = recipe.main(replace(tiny, out=tmp_path))
    assert losses[4] == pytest.approx(2.50882, rel=5e-3)
    assert np.mean(losses[-3:]) < 0.95 * np.mean(losses[:3])
    clip = lm_audio.load(tmp_path / "model").generate("rain", duration=0.3, seed=0)
    assert clip.samples.shape == (1, 7200)


def test_a_model_of_any_layout_learns_and_keeps_all_that_was_its_own(
    recipe: ModuleType,
    tiny: Any,
    checkpoint: dict[str, str],
    encodec_shards: Path,
    musicgen: AudioPipeline,
    tmp_path: Path,
) -> None:
    config = replace(tiny, out=tmp_path, data=(encodec_shards,), steps=6, **checkpoint)
    losses = recipe.main(replace(config, learning_rate=1e-3))
    assert losses[0] == pytest.approx(4.7492, rel=5e-3)
    assert losses[-1] < losses[0]
    model = lm_audio.load(tmp_path / "model")
    assert model.card.licence == LICENCE
    before, after = musicgen.stages["acoustic"], model.stages["acoustic"]
    assert (after.pattern, after.sampling, after.window_frames) == (
        before.pattern,
        before.sampling,
        before.window_frames,
    )
    assert isinstance(after.conditioners["text"].encoder, T5Encoder)
    clip = model.generate("a dog", duration=0.4, seed=0)
    assert clip.samples.shape == (1, 6400)


def test_adapters_learn_while_the_model_stays_as_it_is(adapted: tuple[Any, list[float]]) -> None:
    config, losses = adapted
    assert losses[4] == pytest.approx(4.1190, rel=5e-3)
    assert np.mean(losses[-3:]) < 0.99 * np.mean(losses[:3])
    base = load_file(Path(config.model) / "acoustic" / "model.safetensors")
    made = load_file(config.out / "model" / "acoustic" / "model.safetensors")
    learned = load_file(config.out / "adapters" / "adapter_model.safetensors")
    assert base.keys() == made.keys()
    layers = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in learned}
    assert len(layers) == 2 * 7
    for name in base:
        layer = name.removeprefix("model.").removesuffix(".weight")
        if layer not in layers:
            assert torch.equal(made[name], base[name])
            continue
        a, b = (learned[f"base_model.model.{layer}.lora_{part}.weight"] for part in "AB")
        assert b.abs().max() > 0
        torch.testing.assert_close(made[name], base[name] + 2 * b @ a, rtol=0, atol=1e-6)


def test_checkpoints_of_adapters_hold_them_alone(adapted: tuple[Any, list[float]]) -> None:
    config, _ = adapted
    checkpoints = Checkpoints(config.out / "checkpoints")
    latest = checkpoints.latest()
    assert latest is not None
    weights = checkpoints.read(latest)["weights"]
    assert len(weights) == 2 * 2 * 7
    assert all("lora" in name for name in weights)


def test_a_killed_run_by_adapters_goes_on_with_the_same_losses(
    recipe: ModuleType,
    adapted: tuple[Any, list[float]],
    tmp_path: Path,
    killed_at: Callable[..., Any],
) -> None:
    config, losses = adapted
    config = replace(config, out=tmp_path)
    last = int(np.random.default_rng().integers(7, STEPS))
    with killed_at(last):
        recipe.main(config)
    rest = recipe.main(config)
    assert rest == losses[-len(rest) :]
    assert len(rest) == STEPS - last // 7 * 7
    with pytest.raises(ValueError, match=r"was made with lora=2, got 3"):
        recipe.main(replace(config, lora=3))


def test_one_stage_of_a_cascade_learns_and_the_others_stay(
    recipe: ModuleType, tiny: Any, audiolm_folder: Path, token_shards: Path, tmp_path: Path
) -> None:
    config = replace(tiny, model=str(audiolm_folder), data=(token_shards,), out=tmp_path)
    recipe.main(replace(config, stage="coarse", steps=2))
    base, made = (
        {
            name: load_file(folder / name / "model.safetensors")
            for name in ("semantic", "coarse", "fine")
        }
        for folder in (audiolm_folder, tmp_path / "model")
    )
    for name in base:
        same = [torch.equal(weight, made[name][key]) for key, weight in base[name].items()]
        assert all(same) == (name != "coarse")
    assert lm_audio.load(tmp_path / "model").generate(duration=0.4).samples.shape == (1, 9600)
    with pytest.raises(ValueError, match="the semantic stage has no source stage"):
        recipe.main(replace(config, stage="semantic", source_dropout=0.1))
    for stage, message in (
        (None, "The model has the stages semantic, coarse, fine; choose one with --stage"),
        ("fined", "Unknown stage 'fined'. Choose one of: semantic, coarse, fine"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe.main(replace(config, stage=stage))


def test_data_of_another_codec_is_a_mistake(
    recipe: ModuleType, tiny: Any, checkpoint: dict[str, str], token_shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="The acoustic tokens in the data come from frame"):
        recipe.main(replace(tiny, out=tmp_path, data=(token_shards,), **checkpoint))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_alpha": 4.0}, "--lora-alpha has no effect without --lora"),
        ({"preset": "small"}, "No model to start from; pass --model"),
        ({"model": "musicgen-small"}, "No training data; pass --data"),
    ],
)
def test_what_is_not_given_is_a_mistake(
    recipe: ModuleType, tiny: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recipe.main(replace(tiny, out=tmp_path, **changes))


class Staged:
    """A pipeline with stages of other kinds."""

    def __init__(self, *stages: Any) -> None:
        self.stages = {stage.name: stage for stage in stages}


class OtherStage:
    name = "acoustic"


def test_stages_that_are_no_language_models_are_not_suggested(
    recipe: ModuleType, audiolm_folder: Path
) -> None:
    with pytest.raises(ValueError, match=r"no language model.*; the model has none"):
        recipe.find_stage(Staged(OtherStage()), "acoustic")
    coarse = lm_audio.load(audiolm_folder).stages["coarse"]
    with pytest.raises(ValueError, match=r"no language model.*; choose one of: coarse\."):
        recipe.find_stage(Staged(OtherStage(), coarse), "acoustic")
