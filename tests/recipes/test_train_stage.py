"""The recipe for the stages of language models: each family's, one by one and as whole models."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lm_audio
from lm_audio.data.shards import Shards
from lm_audio.data.synthetic import demo_clip
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.saving.stage_folder import read_stage, write_stage
from lm_audio.training.checkpoints import Checkpoints
from lm_audio.training.samples import sample_tokens
from lm_audio.training.stage_batches import Dropout, StageBatches

pytestmark = pytest.mark.usefixtures("steady_weights")

STEPS = 30

Run = tuple[Any, list[float]]
"""The settings and the losses of a whole run."""


def read_log(out: Path) -> EventAccumulator:
    log = EventAccumulator(str(out / "log"))
    log.Reload()
    return log


# What every stage does


@pytest.mark.parametrize(
    ("name", "loss", "share"),
    [
        ("duet semantic", 1.33822, 0.8),
        ("duet acoustic", 3.28325, 0.9),
        ("audiolm semantic", 1.90742, 0.8),
        ("audiolm coarse", 1.79545, 0.8),
        ("audiolm fine", 2.92659, 0.9),
        ("audiocraft acoustic", 3.15567, 0.9),
        ("soundstorm acoustic", 3.09292, 0.95),
    ],
)
def test_the_loss_after_five_steps_is_pinned_and_it_falls(
    trained: Callable[[str], Run], name: str, loss: float, share: float
) -> None:
    _, losses = trained(name)
    assert len(losses) == STEPS
    assert losses[4] == pytest.approx(loss, rel=5e-3)
    assert np.mean(losses[-5:]) < share * np.mean(losses[:5])


@pytest.mark.parametrize(
    ("name", "folders"),
    [
        ("duet semantic", {"stage"}),
        ("duet acoustic", {"stage", "model"}),
        ("audiolm semantic", {"stage"}),
        ("audiolm coarse", {"stage"}),
        ("audiolm fine", {"stage", "model"}),
        ("audiocraft acoustic", {"model"}),
        ("soundstorm acoustic", {"stage", "model"}),
    ],
)
def test_the_last_stage_of_a_family_makes_a_whole_model(
    trained: Callable[[str], Run], name: str, folders: set[str]
) -> None:
    config, _ = trained(name)
    assert {path.name for path in config.out.iterdir()} == {"checkpoints", "log", *folders}


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("duet semantic", "tiny"),
        ("duet acoustic", "tiny"),
        ("audiolm semantic", "tiny"),
        ("audiolm coarse", "tiny"),
        ("audiolm fine", "tiny"),
        ("audiocraft acoustic", "paper"),
        ("soundstorm acoustic", "tiny"),
    ],
)
def test_a_dry_run_counts_the_weights_and_writes_nothing(
    train_stage: ModuleType,
    token_shards: Path,
    codec_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    preset: str,
) -> None:
    family, stage = name.split()
    given = {"data": (token_shards,), "codec": codec_folder, "out": tmp_path, "dry_run": True}
    if stage == "fine":
        given |= {"semantic": Path("none"), "coarse": Path("none")}  # which are not read
    config = replace(train_stage.PRESETS[family][stage][preset], **given)
    assert train_stage.main(config) == []
    assert "million weights are trained" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_published_model_of_audiogen_has_its_settings(train_stage: ModuleType) -> None:
    paper = train_stage.PRESETS["audiocraft"]["acoustic"]["paper"]
    assert (paper.learning_rate, paper.weight_decay, paper.warmup_steps) == (5e-4, 0.1, 3000)
    assert (paper.schedule, paper.joint_dropout, paper.context_seconds) == ("cosine", 0.1, 10.0)


# The loop: checkpoints and continuing


def test_the_last_checkpoints_and_the_best_are_kept(trained: Callable[[str], Run]) -> None:
    checkpoints = Checkpoints(trained("duet acoustic")[0].out / "checkpoints")
    found, best = checkpoints.found(), checkpoints.best()
    assert [each.step for each in found[-2:]] == [28, 30]
    assert best in found
    assert {20, 30} >= {each.step for each in found if each.loss is not None}


def test_a_run_killed_at_any_step_goes_on_with_the_same_losses(
    train_stage: ModuleType,
    trained: Callable[[str], Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole_run, losses = trained("duet acoustic")
    config = replace(whole_run, out=tmp_path)
    random = np.random.default_rng()
    update = train_stage.EMA.update
    first, again = sorted(random.choice(np.arange(1, STEPS), 2, replace=False).tolist())
    made: list[float] = []
    for last in (first, again, STEPS):

        def killed(average: Any, step: int, last: int = last) -> None:
            if step == last:
                raise KeyboardInterrupt
            update(average, step)

        with monkeypatch.context() as patch:
            patch.setattr(train_stage.EMA, "update", killed)
            if last < STEPS:
                with pytest.raises(KeyboardInterrupt):
                    train_stage.main(config)
            else:
                made = train_stage.main(config)
    assert made == losses[again // 4 * 4 :]
    whole, resumed = (
        torch.load(each.path, weights_only=True)
        for folder in (whole_run.out, tmp_path)
        if (each := Checkpoints(folder / "checkpoints").latest())
    )
    for name, weight in whole["average"].items():
        assert torch.equal(resumed["average"][name], weight)


def test_the_stage_that_is_written_is_the_best_one_also_when_written_again(
    train_stage: ModuleType, tiny_stage: Callable[..., Any], tmp_path: Path
) -> None:
    high = {"steps": 4, "evaluate_every": 2, "learning_rate": 0.5, "warmup_steps": 1}
    config = tiny_stage("duet acoustic", out=tmp_path, **high)
    train_stage.main(config)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    best = checkpoints.best()
    assert best is not None
    assert best.step < config.steps  # so high a rate makes it worse
    averaged = checkpoints.read(best)["average"]
    for _ in range(2):
        stage = read_stage(tmp_path / "stage")
        for name, weight in stage.model.state_dict().items():
            assert torch.equal(weight, averaged[f"model.{name}"]), name
        shutil.rmtree(tmp_path / "stage")
        assert train_stage.main(config) == []


def test_a_run_does_not_go_on_with_other_settings(
    train_stage: ModuleType, trained: Callable[[str], Run]
) -> None:
    config, _ = trained("duet acoustic")
    with pytest.raises(ValueError, match=r"was made with seed=0, got 1"):
        train_stage.main(replace(config, seed=1))


def test_a_loss_that_is_not_finite_stops_and_names_the_last_good_state(
    train_stage: ModuleType, tiny_stage: Callable[..., Any], tmp_path: Path
) -> None:
    config = tiny_stage("duet acoustic", out=tmp_path, steps=8, save_every=1, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="last good checkpoint") as error:
        train_stage.main(config)
    latest = Checkpoints(tmp_path / "checkpoints").latest()
    assert latest is not None
    assert str(latest.path) in str(error.value)


# Stages and their samples


@pytest.mark.parametrize("family", ["duet", "audiolm"])
def test_a_semantic_stage_makes_semantic_tokens(trained: Callable[[str], Run], family: str) -> None:
    config, _ = trained(f"{family} semantic")
    stage = read_stage(config.out / "stage")
    assert stage.token_kind == "semantic"
    assert stage.conditions == (("text",) if family == "duet" else ())
    tokens = sample_tokens(stage, num_frames=2 * stage.window_frames, seed=0)
    assert 0 <= tokens.min() <= tokens.max() < 64
    if family == "audiolm":
        assert (tokens[:, 1:] != tokens[:, :-1]).all()


@pytest.mark.parametrize("family", ["duet", "audiolm"])
def test_semantic_samples_are_logged_as_lines_of_tokens(
    trained: Callable[[str], Run], family: str
) -> None:
    config, _ = trained(f"{family} semantic")
    log = read_log(config.out)
    (event,) = log.Tensors("sample 0/text_summary")
    tokens = event.tensor_proto.string_val[0].decode().split()
    assert all(0 <= int(token) < 64 for token in tokens)
    assert len(tokens) == read_stage(config.out / "stage").window_frames
    assert log.Tags()["audio"] == []


@pytest.mark.parametrize(
    "name", ["duet acoustic", "audiolm coarse", "audiolm fine", "audiocraft acoustic"]
)
def test_acoustic_samples_are_logged_as_sound(trained: Callable[[str], Run], name: str) -> None:
    log = read_log(trained(name)[0].out)
    assert log.Tags()["audio"] == ["sample 0", "sample 1", "sample 2"]


def test_semantic_samples_are_heard_through_an_acoustic_stage(
    train_stage: ModuleType,
    tiny_stage: Callable[..., Any],
    trained: Callable[[str], Run],
    tmp_path: Path,
) -> None:
    acoustic = trained("duet acoustic")[0].out
    settings = {"steps": 1, "context_seconds": 0.2, "acoustic": acoustic}
    train_stage.main(tiny_stage("duet semantic", out=tmp_path, **settings))
    assert read_log(tmp_path).Tags()["audio"] == ["sample 0", "sample 1", "sample 2"]
    write_stage(read_stage(acoustic / "stage"), tmp_path / "other/stage")  # of tokens of any codec
    settings["acoustic"] = tmp_path / "other"
    config = tiny_stage("duet semantic", out=tmp_path / "run", codec=CODEC_FOLDER, **settings)
    with pytest.raises(ValueError, match=r"64 tokens .* input of the renderer, .* of 1024 tokens"):
        train_stage.main(config)


@pytest.mark.parametrize(
    ("name", "num_codebooks", "context", "keep"),
    [("duet acoustic", 4, 20, 6), ("audiolm coarse", 2, 25, 7)],
)
def test_a_stage_follows_the_semantic_tokens(
    trained: Callable[[str], Run],
    token_shards: Path,
    name: str,
    num_codebooks: int,
    context: int,
    keep: int,
) -> None:
    stage = read_stage(trained(name)[0].out / "stage")
    assert stage.name == name.split()[1]
    assert (stage.num_codebooks, stage.window_frames, stage.overlap_frames) == (
        num_codebooks,
        context,
        keep,
    )
    shards = Shards(token_shards, "held_out")
    made = [
        sample_tokens(stage, num_frames=40, seed=0, source=shards.read(index, "semantic", 0, 20))
        for index in (0, 1)
    ]
    assert made[0].shape == (num_codebooks, 40)
    assert not torch.equal(*made)


def test_the_fine_stage_makes_the_codebooks_behind_the_coarse_ones(
    trained: Callable[[str], Run],
) -> None:
    stage = read_stage(trained("audiolm fine")[0].out / "stage")
    assert (stage.num_codebooks, stage.first_codebook) == (2, 2)
    assert (stage.window_frames, stage.overlap_frames) == (10, 0)


# Whole models


def test_duet_makes_sound_of_text(trained: Callable[[str], Run]) -> None:
    model = lm_audio.load(trained("duet acoustic")[0].out / "model")
    assert list(model.stages) == ["semantic", "acoustic"]
    assert model.generate("rain", duration=0.7, seed=1).samples.shape == (1, int(0.7 * 24_000))


def test_audiolm_makes_and_continues_sound(trained: Callable[[str], Run]) -> None:
    model = lm_audio.load(trained("audiolm fine")[0].out / "model")
    assert list(model.stages) == ["semantic", "coarse", "fine"]
    clip = model.generate(duration=0.7, seed=1)
    assert clip.samples.shape == (1, int(0.7 * 24_000))
    assert clip.samples.abs().max() > 0
    prompt = torch.from_numpy(demo_clip(sample_rate=24_000)[None, :12_000])
    longer = model.continue_from((prompt, 24_000), duration=0.25, seed=1)
    assert longer.samples.shape == (1, 12_000 + 6000)
    assert torch.equal(longer.samples[:, :12_000], prompt)


def test_soundstorm_takes_the_place_of_duets_acoustic_stage(trained: Callable[[str], Run]) -> None:
    model = lm_audio.load(trained("soundstorm acoustic")[0].out / "model")
    assert list(model.stages) == ["semantic", "acoustic"]
    assert model.stages["acoustic"].two_sided
    clip = model.generate("rain", duration=0.7, seed=1)
    assert clip.samples.shape == (1, int(0.7 * 24_000))
    assert not torch.equal(model.generate(duration=0.7, seed=1).tokens, clip.tokens)


def test_soundstorm_takes_the_place_of_audiolms_acoustic_stages(
    train_stage: ModuleType,
    tiny_stage: Callable[..., Any],
    trained: Callable[[str], Run],
    semantic_tokenizer: Path,
    tmp_path: Path,
) -> None:
    semantic = trained("audiolm semantic")[0]
    config = tiny_stage(
        "soundstorm acoustic", data=semantic.data, out=tmp_path, steps=2, after="audiolm",
        semantic=semantic.out, semantic_tokenizer=semantic_tokenizer,
    )  # fmt: skip
    train_stage.main(config)
    model = lm_audio.load(tmp_path / "model")
    assert model.conditions == ()
    prompt = torch.from_numpy(demo_clip(sample_rate=24_000)[None, :12_000])
    longer = model.continue_from((prompt, 24_000), duration=0.25, seed=1)
    assert torch.equal(longer.samples[:, :12_000], prompt)
    assert longer.samples.shape == (1, 12_000 + 6000)
    with pytest.raises(ValueError, match="AudioLM has no text; leave out --t5 and --text-encoder"):
        train_stage.main(replace(config, t5="t5-base"))


def test_audiocraft_makes_sound_of_text_and_of_labels(trained: Callable[[str], Run]) -> None:
    model = lm_audio.load(trained("audiocraft acoustic")[0].out / "model")
    assert model.conditions == ("text", "label")
    clips = [
        model.generate("a bird sings", duration=0.8, seed=1, conditions={"label": label})
        for label in ("chirp", "rain")
    ]
    assert clips[0].samples.shape == (1, int(0.8 * 24_000))
    assert not torch.equal(clips[0].tokens, clips[1].tokens)
    assert model.generate(duration=0.2, seed=1).samples.shape == (1, 4800)
    with pytest.raises(ValueError, match="Unknown label 'dog'"):
        model.generate("a dog", duration=0.2, conditions={"label": "dog"})


@pytest.mark.parametrize("name", ["duet acoustic", "audiocraft acoustic"])
def test_fewer_codebooks_than_the_codec_has_are_enough(
    train_stage: ModuleType,
    tiny_stage: Callable[..., Any],
    trained: Callable[[str], Run],
    change_shards: Callable[..., Path],
    tmp_path: Path,
    name: str,
) -> None:
    change_shards(tmp_path, acoustic=lambda stream: replace(stream, num_codebooks=2))
    special = {"semantic": trained("duet semantic")[0].out} if name == "duet acoustic" else {}
    out = tmp_path / "out"
    train_stage.main(tiny_stage(name, data=(tmp_path,), out=out, steps=1, **special))
    clip = lm_audio.load(out / "model").generate("rain", duration=0.2, seed=0)
    assert clip.tokens.shape[0] == 2


# Audiocraft's patterns, labels and channels


@pytest.mark.parametrize(
    ("pattern", "num_streams", "num_steps"),
    [("parallel", 4, 10), ("flattened", 1, 40), ("unrolled", 4, 40), ("coarse_first", 4, 20)],
)
def test_every_pattern_learns_and_makes_sound(
    train_stage: ModuleType,
    tiny_stage: Callable[..., Any],
    tmp_path: Path,
    pattern: str,
    num_streams: int,
    num_steps: int,
) -> None:
    settings = {"pattern": pattern, "steps": 2, "context_seconds": 0.2}
    losses = train_stage.main(tiny_stage("audiocraft acoustic", out=tmp_path, **settings))
    assert losses[1] < losses[0]
    model = lm_audio.load(tmp_path / "model")
    (stage,) = model.stages.values()
    assert stage.pattern.num_streams == num_streams
    assert stage.pattern.layout(10).num_steps == num_steps
    clip = model.generate("rain", duration=0.2, seed=0)
    assert clip.samples.shape == (1, 4800)
    assert 0 <= clip.tokens.min() <= clip.tokens.max() < 64


def test_labels_are_dropped_apart_from_the_text_and_with_it(
    train_stage: ModuleType,
    tiny_stage: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[Dropout] = []

    def spy(*given: Any, dropout: Dropout | None, **settings: Any) -> StageBatches:
        found.extend([dropout] if dropout is not None else [])
        return StageBatches(*given, dropout=dropout, **settings)

    monkeypatch.setattr(train_stage, "StageBatches", spy)
    settings = {"labels": ("label",), "joint_dropout": 0.3, "label_dropout": 0.4}
    train_stage.main(tiny_stage("audiocraft acoustic", out=tmp_path, steps=1, **settings))
    assert [(dropout.joint, dropout.each) for dropout in found] == [(0.3, {"label": 0.4})]


def test_stereo_by_a_mono_codec_has_twice_the_codebooks(
    train_stage: ModuleType, tiny_stage: Callable[..., Any], stereo_shards: Path, tmp_path: Path
) -> None:
    settings = {"channels": 2, "steps": 1, "context_seconds": 0.2, "data": (stereo_shards,)}
    train_stage.main(tiny_stage("audiocraft acoustic", out=tmp_path, **settings))
    model = lm_audio.load(tmp_path / "model")
    (stage,) = model.stages.values()
    assert stage.pattern.delays == (0, 0, 1, 1, 2, 2, 3, 3)
    assert model.generate("rain", duration=0.3, seed=0).samples.shape == (2, 7200)


def test_every_stage_has_a_builder_and_presets(train_stage: ModuleType) -> None:
    stages = {(family, stage): presets for family, by_stage in train_stage.PRESETS.items()
              for stage, presets in by_stage.items()}  # fmt: skip
    assert stages.keys() == train_stage.BUILDERS.keys()
    for (family, stage), presets in stages.items():
        assert presets.keys() >= {"tiny", "small", "paper"}
        for name, settings in presets.items():
            assert (settings.family, settings.stage, settings.preset) == (family, stage, name)
