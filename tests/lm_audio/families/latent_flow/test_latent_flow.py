"""Latent flow end to end: the promises, and its folder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lm_audio
from lm_audio.cli import main as command_line
from lm_audio.data.synthetic import demo_clip
from lm_audio.model import Model
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising
from lm_audio.saving.folder import load_model, save_model

RATE = 24_000
MakeModel = Callable[..., Model]

CASES = {
    "alone": {},
    "patches": {"patch": 2},
    "stereo": {"channels": 2},
    "unrounded": {"quantize": False},
    "unseen": {"sees_known": False},
    "after tokens": {"semantic": True},
}


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest, make_model: MakeModel) -> AudioPipeline:
    return AudioPipeline(make_model(**CASES[request.param]))


def sound(model: AudioPipeline, seconds: float) -> Tensor:
    mono = torch.from_numpy(demo_clip(sample_rate=RATE))[: int(seconds * RATE)]
    return mono[None].repeat(model.num_channels, 1)


def test_a_clip_is_the_same_alone_in_a_batch_and_streamed(model: AudioPipeline) -> None:
    clip = model.generate("a dog barks", duration=1.75, seed=7, conditions={"label": "dog"})
    assert clip.samples.shape == (model.num_channels, 42_000)
    assert clip.samples.abs().max() > 0
    prompts = ["rain", "a dog barks", None]
    batch = model.generate(
        prompts, duration=[0.4, 1.75, 0.51], seed=[7, 7, 3], conditions={"label": "dog"}
    )
    assert torch.equal(batch[1].samples, clip.samples)
    pieces = list(model.stream("a dog barks", duration=1.75, seed=7, conditions={"label": "dog"}))
    assert len(pieces) > 1
    assert torch.equal(torch.cat(pieces, dim=1), clip.samples)


def test_a_longer_clip_begins_like_a_shorter_one(model: AudioPipeline) -> None:
    if "semantic" in model.stages:
        pytest.skip("the last frames of a clip lack the tokens that they look ahead to")
    short = model.generate("rain", duration=1.0, seed=3, raw=True)
    long = model.generate("rain", duration=1.4, seed=3, raw=True)
    same = int(0.5 * RATE)  # the decoder looks ahead
    assert torch.equal(long.stage_values["latents"][:, :50], short.stage_values["latents"])
    assert torch.equal(long.samples[:, :same], short.samples[:, :same])


def test_prompts_labels_and_seeds_change_the_clip(model: AudioPipeline) -> None:
    def made(text: str | None, label: str | None = None, seed: int = 1) -> Tensor:
        conditions = {} if label is None else {"label": label}
        clip = model.generate(text, duration=0.5, seed=seed, conditions=conditions)
        return clip.stage_values["latents"]

    clips = [
        made(None),
        made("rain"),
        made("rain", "dog"),
        made("rain", "rain"),
        made("rain", seed=2),
    ]
    for i, one in enumerate(clips):
        assert not any(torch.equal(one, other) for other in clips[:i])


def test_a_prompt_is_kept_and_continued(model: AudioPipeline) -> None:
    if "semantic" in model.stages:
        pytest.skip("has no semantic tokenizer")
    prompt = sound(model, 0.8)
    clip = model.continue_from((prompt, RATE), duration=0.7, text="rain", seed=3)
    assert clip.samples.shape == (model.num_channels, int(1.5 * RATE))
    assert torch.equal(clip.samples[:, : prompt.shape[1]], prompt)
    encoder = model.renderer.encoder
    assert encoder is not None
    latents = clip.stage_values["latents"]
    assert torch.equal(latents[:, :40], encoder.encode(prompt))
    other = model.continue_from((0.5 * prompt.flip(1), RATE), duration=0.7, text="rain", seed=3)
    assert not torch.equal(other.stage_values["latents"][:, 40:], latents[:, 40:])


def test_inpainting_keeps_all_other_samples(model: AudioPipeline) -> None:
    if "semantic" in model.stages:
        pytest.skip("has no semantic tokenizer")
    whole = sound(model, 1.5)
    clip = model.inpaint((whole, RATE), start=0.5, end=0.9, seed=3)
    assert torch.equal(clip.samples[:, :12_000], whole[:, :12_000])
    assert torch.equal(clip.samples[:, 21_600:], whole[:, 21_600:])
    assert not torch.equal(clip.samples[:, 12_000:21_600], whole[:, 12_000:21_600])
    changed = whole.clone()
    changed[:, 24_000:] = 0  # the future of the span matters
    other = model.inpaint((changed, RATE), start=0.5, end=0.9, seed=3)
    assert not torch.equal(other.samples[:, 13_000:21_000], clip.samples[:, 13_000:21_000])


def test_it_varies_loops_and_tells_stories(make_model: MakeModel) -> None:
    model = AudioPipeline(make_model())
    original = sound(model, 0.8)
    little, much = (
        model.vary((original, RATE), strength=strength, seed=1).stage_values["latents"]
        for strength in (0.34, 1.0)
    )
    encoder = model.renderer.encoder
    assert encoder is not None
    wanted = encoder.encode(original)
    assert (little - wanted).square().mean() < (much - wanted).square().mean()
    loop = model.generate("rain", duration=0.6, loop=True, seed=1)
    assert loop.samples.shape == (1, 14_400)
    story = model.generate([(0.0, "rain"), (0.8, "a dog barks")], duration=1.6, seed=1)
    rain = model.generate("rain", duration=1.6, seed=1)
    latents = [clip.stage_values["latents"] for clip in (story, rain)]
    assert not torch.equal(latents[0][:, 50:], latents[1][:, 50:])


def test_prompts_blend_unless_tokens_come_first(model: AudioPipeline) -> None:
    def made(prompt: str | dict[str, float]) -> Tensor:
        return model.generate(prompt, duration=0.5, seed=1).samples

    if "semantic" in model.stages:
        with pytest.raises(ValueError, match="semantic stage follows one prompt at a time"):
            made({"rain": 1, "a dog barks": 1})
        return
    rain, dog, both = made("rain"), made("a dog barks"), made({"rain": 1, "a dog barks": 1})
    assert torch.equal(made({"rain": 1}), rain)
    assert not torch.allclose(both, rain, atol=1e-4)
    assert not torch.allclose(both, dog, atol=1e-4)


def test_a_model_comes_back_from_its_folder(model: AudioPipeline, tmp_path: Path) -> None:
    save_model(model.model, tmp_path / "model")
    again = lm_audio.load(tmp_path / "model")
    assert again.model.card == model.model.card
    assert again.renderer.identity == model.renderer.identity
    for name, stage in model.stages.items():
        assert again.stages[name].sampling == stage.sampling
        assert again.stages[name].makes == stage.makes
    made = [x.generate("rain", duration=1.7, seed=5).samples for x in (model, again)]
    assert torch.equal(*made)


def test_bfloat16_is_close_and_int8_and_auto_do_not_pretend(
    make_model: MakeModel, tmp_path: Path
) -> None:
    save_model(make_model(), tmp_path / "model")
    exact = lm_audio.load(tmp_path / "model")
    rounded = lm_audio.load(tmp_path / "model", dtype="bfloat16")
    (stage,) = rounded.stages.values()
    assert {x.dtype for x in stage.network.parameters()} == {torch.bfloat16}
    one, other = (
        x.generate("rain", duration=0.9, seed=5).stage_values["latents"] for x in (exact, rounded)
    )
    assert not torch.equal(one, other)
    assert (one - other).square().mean().sqrt() < 0.05 * one.std()
    with pytest.raises(ValueError, match="int8 has no effect on this model"):
        lm_audio.load(tmp_path / "model", dtype="int8")
    assert lm_audio.load(tmp_path / "model", dtype="auto").dtype == "float32"


def test_float16_files_are_half_the_size(make_model: MakeModel, tmp_path: Path) -> None:
    for half in (False, True):
        save_model(make_model(), tmp_path / str(half), half=half)
    whole, half_size = (
        (tmp_path / str(half) / "latents" / "model.safetensors").stat().st_size
        for half in (False, True)
    )
    assert half_size < 0.6 * whole
    lm_audio.load(tmp_path / "True").generate("rain", duration=0.2, seed=1)


def test_info_describes_a_folder(
    make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(make_model(semantic=True), tmp_path / "model")
    command_line(["info", str(tmp_path / "model")])
    shown = capsys.readouterr().out
    assert "latents: " in shown
    assert "latents of width 16 at 50 Hz, window of 1.0 s" in shown
    assert "text, label\n" in shown


def test_rounded_sound_is_that_of_the_codecs_tokens(make_model: MakeModel) -> None:
    model = AudioPipeline(make_model())
    latents = model.generate("rain", duration=1.0, seed=2).stage_values["latents"]
    renderer = model.renderer
    tokens = renderer.tokens(latents)
    torch.testing.assert_close(
        renderer.render(latents), renderer.codec.decode(tokens)[0], atol=1e-4, rtol=0
    )


def test_few_steps_and_other_solvers_are_settings(make_model: MakeModel) -> None:
    model = AudioPipeline(make_model())
    made = {
        solver: model.generate(
            "rain", duration=0.3, seed=1, sampling=Denoising(steps=2, solver=solver)
        ).stage_values["latents"]
        for solver in ("euler", "ddim", "heun", "dpm++2m", "ping-pong")
    }
    torch.testing.assert_close(made["euler"], made["ddim"], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(made["euler"], made["heun"])


def test_damaged_folders_are_refused_in_a_sentence(make_model: MakeModel, tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def saved() -> None:
        save_model(make_model(), folder)

    def with_config(path: Path, change: Callable[[dict], object]) -> None:
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config))

    saved()
    with_config(folder / "config.json", lambda c: c["renderer"].update(mean=[0.0]))
    with pytest.raises(ValueError, match="mean must have 16 finite values"):
        load_model(folder)
    saved()
    with_config(folder / "config.json", lambda c: c["renderer"].update(takes="spectrograms"))
    with pytest.raises(ValueError, match="takes spectrograms, which its codec does not decode"):
        load_model(folder)
    saved()
    with_config(folder / "config.json", lambda c: c["stages"][0].update(sees_known=False))
    with pytest.raises(ValueError, match="does not fit its stage"):
        load_model(folder)
    saved()
    with_config(folder / "config.json", lambda c: c["stages"][0]["schedule"].update(kind="magic"))
    with pytest.raises(ValueError, match="Unknown kind 'magic'"):
        load_model(folder)
    saved()
    weights = folder / "latents" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="Download the model again"):
        load_model(folder)
