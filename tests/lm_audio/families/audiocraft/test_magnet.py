"""MAGNeT in audiocraft's layout: its settings, its tokens, and our own format."""

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

import lm_audio
from lm_audio.cli import main as cli
from lm_audio.families.audiocraft.export import _T5_WIDTHS
from lm_audio.families.audiocraft.original_layout import read_audiocraft
from lm_audio.generation.masked_stage import MaskedStage
from lm_audio.sampling import Unmasking

Edit = Callable[..., Path]
# As xp.cfg of a MAGNeT has it, for what a MusicGen has.
CHANGES = (
    ("lm_model: transformer_lm\n", "lm_model: transformer_lm_magnet\nmasking:\n  span_len: 3\n"),
    ("  causal: true", "  causal: false\n  subcodes_context: 5\n  span_len: -1\n"
     "  segment_duration: 0\n  compression_model_framerate: 50"),
    ("modeling: delay", "modeling: parallel\n  parallel:\n    empty_initial: -1"),
    ("segment_duration: 30", "segment_duration: 2"),
)  # fmt: skip
GENERATE = """generate:
  lm:
    use_sampling: true
    temp: 3.5
    top_k: 0
    top_p: 0.8
    max_cfg_coef: 20.0
    min_cfg_coef: 1.0
    decoding_steps: [60, 10, 10, 10]
    span_scoring: max
    span_arrangement: nonoverlap
"""


@pytest.fixture
def edited(audiocraft_folder: Path, tmp_path: Path) -> Edit:
    """Writes a MAGNeT, with `new` for `old` in its settings."""

    def write(old: str = "", new: str = "") -> Path:
        folder = tmp_path / "magnet"
        shutil.copytree(audiocraft_folder, folder, dirs_exist_ok=True)
        package = torch.load(folder / "state_dict.bin")
        for before, after in (*CHANGES, (old, new)):
            assert before in package["xp.cfg"]
            package["xp.cfg"] = package["xp.cfg"].replace(before, after, 1)
        torch.save(package, folder / "state_dict.bin")
        return folder

    return write


def test_a_magnet_is_a_masked_stage_with_the_weights_of_the_file(
    edited: Edit, audiocraft_folder: Path
) -> None:
    model = lm_audio.load(edited(), device="cpu")
    stage = model.stages["acoustic"]
    assert isinstance(stage, MaskedStage)
    assert (stage.span, stage.reach, stage.whole_windows) == (3, 5, True)
    assert (stage.window_frames, stage.overlap_frames, stage.frame_rate) == (100, 40, Fraction(50))
    assert stage.sampling == Unmasking(
        steps=(20, 10, 10, 10),
        temperature=3.0,
        top_p=0.9,
        guidance_scale=10.0,
        final_guidance_scale=1.0,
    )
    causal = read_audiocraft(audiocraft_folder)
    ours, theirs = stage.model.state_dict(), causal.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(
        stage.conditioners({"text": ["a dog"]}).cross.embeddings,
        causal.conditioners({"text": ["a dog"]}).cross.embeddings,
    )


def test_the_settings_of_the_checkpoint_are_kept(edited: Edit) -> None:
    parts = read_audiocraft(edited("solver: musicgen\n", f"solver: magnet\n{GENERATE}"))
    assert parts.sampling == Unmasking(
        steps=(60, 10, 10, 10),
        temperature=3.5,
        top_p=0.8,
        guidance_scale=20.0,
        final_guidance_scale=1.0,
    )
    parts = read_audiocraft(edited("subcodes_context: 5", "subcodes_context: -1"))
    assert parts.masking is not None
    assert parts.masking.reach is None
    parts = read_audiocraft(edited("span_len: 3", "span_len: 1"))
    assert parts.masking is not None
    assert parts.masking.span == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("causal: false", "causal: true", "transformer_lm.causal=True"),
        ("empty_initial: -1", "empty_initial: 0", "codebooks_pattern.parallel.empty_initial=0"),
        ("modeling: parallel", "modeling: delay", "codebooks_pattern.modeling=delay"),
        ("subcodes_context: 5", "mystery: 5", "transformer_lm.mystery=5"),
        ("span_len: 3", "span_len: wide", "masking.span_len=wide"),
        (
            "solver: musicgen\n",
            "generate:\n  lm:\n    decoding_steps: [3, 2]\n",
            r"generate.lm.decoding_steps=\[3, 2\]",
        ),
    ],
)
def test_what_our_model_cannot_express_is_refused_by_name(
    old: str, new: str, said: str, edited: Edit
) -> None:
    with pytest.raises(ValueError, match=f"Unsupported setting .*{said} in .* Expected"):
        read_audiocraft(edited(old, new))


def test_it_generates_continues_inpaints_and_streams(edited: Edit) -> None:
    model = lm_audio.load(edited(), device="cpu")
    few: Any = {"sampling": Unmasking(steps=2, temperature=3.0, guidance_scale=4.0), "seed": 5}
    clip = model.generate("a dog", duration=1.0, **few)
    assert clip.samples.shape == (1, 32_000)
    longer = model.generate(["a", "a dog"], duration=[0.5, 3.0], **few | {"seed": [1, 5]})[1]
    assert torch.equal(longer.tokens[:, :50], clip.tokens)  # windows have one length
    pieces = list(model.stream("a dog", duration=3.0, **few))
    assert torch.equal(torch.cat(pieces, dim=1), longer.samples)
    again = model.continue_from(clip, duration=0.4, text="a dog", **few)
    assert torch.equal(again.samples[:, :32_000], clip.samples)
    filled = model.inpaint(clip, start=0.4, end=0.6, text="a dog", **few)
    assert torch.equal(filled.samples[:, :12_000], clip.samples[:, :12_000])
    assert torch.equal(filled.samples[:, 20_000:], clip.samples[:, 20_000:])
    assert not torch.equal(filled.samples, clip.samples)


def test_our_format_gives_the_same_clips(
    edited: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = lm_audio.load(edited(), device="cpu")
    model.save(tmp_path / "saved")
    again = lm_audio.load(tmp_path / "saved", device="cpu")
    before, after = model.stages["acoustic"], again.stages["acoustic"]
    for name in ("span", "reach", "whole_windows", "window_frames", "overlap_frames", "sampling"):
        assert getattr(before, name) == getattr(after, name)
    few = Unmasking(steps=2)
    clips = [one.generate("a dog", duration=0.5, seed=3, sampling=few) for one in (model, again)]
    assert torch.equal(clips[0].samples, clips[1].samples)
    for folder in (tmp_path / "saved", tmp_path / "magnet"):
        cli(["info", str(folder)])
        assert "4 codebooks" in capsys.readouterr().out


def test_the_command_line_takes_its_options(
    edited: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = str(edited()), tmp_path / "dog.wav"
    common = ["--model", model, "--duration", "0.3", "--seed", "1", "-o", str(out)]
    cli(["generate", "a dog", *common, "--top-p", "0.8", "--guidance-scale", "2", "--steps", "3"])
    assert out.is_file()
    out.unlink()
    with pytest.raises(SystemExit) as stopped:
        cli(["generate", "a dog", *common, "--repetition-penalty", "1.2"])
    assert stopped.value.code == 2
    assert "This model has no repetition_penalty setting" in capsys.readouterr().err
    assert not out.exists()


def test_published_models_are_in_the_catalogue() -> None:
    found = {model.name: model for model in lm_audio.models()}
    magnet = found["magnet-small-10secs"]
    assert (magnet.sample_rate, magnet.num_parameters) == (32_000, 419_584_000)
    assert found["audio-magnet-medium"].sample_rate == 16_000


def test_an_exported_magnet_is_read_back(edited: Edit, tmp_path: Path) -> None:
    folder = edited("solver: musicgen\n", f"solver: magnet\n{GENERATE}")
    parts = read_audiocraft(folder)
    encoder = parts.text.encoder
    model = lm_audio.load(folder, device="cpu")
    with pytest.raises(ValueError, match=r"expects another name\. Set t5_name to one of"):
        model.export(tmp_path / "no", layout="audiocraft", t5_name="t5-tiny")
    with pytest.raises(ValueError, match="its way of decoding is masked, expected autoregressive"):
        model.export(tmp_path / "no")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_T5_WIDTHS, "t5-base", encoder.dim)
        model.export(tmp_path / "out", layout="audiocraft", t5_name="t5-base")
    again = read_audiocraft(tmp_path / "out", text_encoder=folder / "t5")
    assert again.sampling == parts.sampling
    assert (again.masking, again.max_frames) == (parts.masking, parts.max_frames)
    for module, other in ((parts.model, again.model), (parts.text, again.text)):
        state, expected = module.state_dict(), other.state_dict()
        assert all(torch.equal(state[name], expected[name]) for name in expected)
