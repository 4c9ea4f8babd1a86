"""The embedded default: what it is, how large, and the promises on its own weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from safetensors import safe_open
from safetensors.torch import load_file

import lm_audio
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.resampling import resample
from lm_audio.cli import main
from lm_audio.pipeline import AudioPipeline
from sound_probe import EMBEDDING, classify

GOLDEN = Path(__file__).with_name("golden.json")
PROBE = Path(__file__).with_name("probe.safetensors")
MOST_BYTES = 64 * 10**6
HEARD = {
    "sea waves": "sea waves",
    "helicopter": "a helicopter",
    "fire crackling": "a crackling fire",
    "sneeze": "a person sneezing",
}
"""What the probe tells best, and the model makes best."""


def test_a_dog_barks_for_exactly_a_second_from_the_package_alone() -> None:
    model = lm_audio.load()
    clip = model.generate("a dog barking", duration=1.0, seed=7)
    assert clip.samples.shape == (1, model.sample_rate)
    assert clip.samples.isfinite().all()
    assert clip.samples.std() > 1e-3
    other = model.generate("rain on a roof", duration=1.0, seed=7)
    assert not torch.equal(other.tokens, clip.tokens)


def test_the_tokens_of_a_prompt_and_a_seed_are_pinned(model: AudioPipeline) -> None:
    golden = json.loads(GOLDEN.read_text())
    clip = model.generate(**golden["request"])
    assert {name: tokens.tolist() for name, tokens in clip.stage_values.items()} == golden["tokens"]


@pytest.mark.slow
def test_clips_are_heard_as_what_was_asked_for(model: AudioPipeline) -> None:
    probe = load_file(PROBE)
    prompts = [(label, text) for label, text in HEARD.items() for _ in range(4)]
    clips = model.generate([text for _, text in prompts], seed=list(range(len(prompts))))
    heard = [
        classify(probe, resample(clip.samples, clip.sample_rate, EMBEDDING.sample_rate))
        for clip in clips
    ]
    right = sum(one == label for one, (label, _) in zip(heard, prompts, strict=True))
    assert right >= 0.7 * len(prompts), list(zip(prompts, heard, strict=True))


def test_streamed_sound_is_the_sound_of_one_call(model: AudioPipeline) -> None:
    pieces = list(model.stream("rain on a roof", duration=1.5, seed=3))
    clip = model.generate("rain on a roof", duration=1.5, seed=3)
    assert len(pieces) > 1
    assert torch.equal(torch.cat(pieces, dim=1), clip.samples)


def test_a_continuation_keeps_the_prompt(model: AudioPipeline, tmp_path: Path) -> None:
    model.generate("a dog barking", duration=1.0, seed=7).save(tmp_path / "prompt.wav")
    clip = model.continue_from(tmp_path / "prompt.wav", duration=0.5, seed=1)
    prompt = read_audio(tmp_path / "prompt.wav").samples
    assert clip.samples.shape == (1, prompt.shape[1] + model.sample_rate // 2)
    assert torch.equal(clip.samples[:, : prompt.shape[1]], prompt)


def test_inpainting_keeps_all_but_the_span(model: AudioPipeline, tmp_path: Path) -> None:
    model.generate("a dog barking", duration=1.0, seed=7).save(tmp_path / "clip.wav")
    clip = model.inpaint(tmp_path / "clip.wav", start=0.4, end=0.6, seed=1, num_candidates=1)
    changed = (clip.samples != read_audio(tmp_path / "clip.wav").samples)[0].nonzero()
    assert int(changed.min()) / model.sample_rate >= 0.4
    assert int(changed.max()) / model.sample_rate <= 0.6


def test_it_is_listed_first_with_what_it_is(model: AudioPipeline, default_folder: Path) -> None:
    info, *others = lm_audio.models()
    assert (info.name, info.place, info.licence) == ("default", "package", "Apache-2.0")
    assert {other.place for other in others} == {"hub"}
    assert (info.sample_rate, info.num_channels) == (24_000, 1)
    assert info.abilities == ("text", "continue", "inpaint")
    count = sum(w.numel() for stage in model.stages.values() for w in stage.model.parameters())
    assert info.num_parameters == count
    weights = sum(path.stat().st_size for path in default_folder.rglob("*.safetensors"))
    assert info.size is not None
    assert weights <= info.size < weights + 10**6


def test_the_command_line_needs_no_name_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dog.wav"
    main(["generate", "a dog barking", "--duration", "1", "--seed", "7", "-o", str(out)])
    loaded, written, made = capsys.readouterr().out.splitlines()
    assert "Loaded the default model (16.4 million parameters, float32)" in loaded
    assert "Generated 1.00 s of audio in" in made
    assert written == f"{out}: 1.00 s at 24000 Hz, seed 7"
    main(["info"])
    unnamed = capsys.readouterr().out
    main(["info", "default"])
    assert capsys.readouterr().out == unnamed
    assert "this package" in unnamed
    assert "semantic: " in unnamed


def test_it_is_loaded_without_the_slow_imports() -> None:
    slow = {"transformers", "vector_quantize_pytorch", "einx"}
    if Version(torch.__version__) >= Version("2.13"):  # older ones import them by themselves
        slow |= {"torch._dynamo", "sympy"}
    code = (
        "import sys, lm_audio\n"
        "model = lm_audio.load(device='cpu'); model.generate('rain', duration=0.2, seed=1)\n"
        f"print({slow} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_its_name_loads_it_unless_a_folder_has_that_name(
    model: AudioPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = lm_audio.load("default")
    assert named.renderer.identity == model.renderer.identity
    (tmp_path / "default").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="Found no model in default"):
        lm_audio.load("default")


def test_what_has_no_effect_on_it_is_refused() -> None:
    with pytest.raises(ValueError, match="default includes its text encoder"):
        lm_audio.load(text_encoder="t5-base")


def test_it_is_small_and_in_half_precision(default_folder: Path) -> None:
    files = [path for path in default_folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    large = [path for path in files if path.suffix == ".safetensors"]
    assert len(large) >= 4  # both stages, the codec, the masked model
    for path in large:
        if path.name == "centroids.safetensors":
            continue
        with safe_open(path, framework="numpy") as weights:
            kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        assert kinds == {"F16"}, path


def test_nothing_lies_beside_it_but_its_card(default_folder: Path) -> None:
    config = json.loads((default_folder / "config.json").read_text())
    known = {*config["files"], "config.json", "README.md", "__init__.py"}
    found = {path.relative_to(default_folder).as_posix() for path in default_folder.rglob("*.*")}
    assert {name for name in found if "__pycache__" not in name} - known == set()
