"""The evaluation recipe: what is given is measured, what is not is said."""

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from audio_tokenizers.acoustic.frame_codec import FrameCodec
from audio_tokenizers.acoustic.frame_codec import tiny as tiny_codec
from audio_tokenizers.audio_files import audio_info
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.semantic.kmeans import FeatureSource, KMeansCodebook
from audio_tokenizers.semantic.masked_model import MaskedAudioModel
from audio_tokenizers.semantic.masked_model import tiny as tiny_masked_model
from audio_tokenizers.semantic.tokenizer import FeatureTokenizer
from lm_audio.families.audiolm.stages import RENDERED, audiolm
from lm_audio.model import Model
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.codec import CodecRenderer

LoadRecipe = Callable[[str], ModuleType]
NUM_SEMANTIC = 20


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AudioLM, tiny and random, with its tokenizer."""
    torch.manual_seed(0)
    codec = FrameCodec(tiny_codec()).eval()
    for layer in codec.quantizer.layers:
        layer._codebook.embed.normal_()
        layer._codebook.initted.fill_(True)
    features = MaskedAudioModel(tiny_masked_model()).eval()
    codebook = KMeansCodebook.from_centroids(
        torch.randn(NUM_SEMANTIC, features.width),
        source=FeatureSource(model=features.identity, layer=1),
    )
    shape = TransformerConfig(
        dim=16, num_layers=1, num_heads=2, hidden_dim=16, positions="relative"
    )
    stages = audiolm(
        shape,
        num_semantic_tokens=NUM_SEMANTIC,
        semantic_rate=Fraction(25),
        num_coarse=2,
        num_fine=codec.num_codebooks - 2,
        codebook_size=codec.codebook_size,
        frame_rate=Fraction(codec.sample_rate, codec.hop_length),
    )
    pipeline = AudioPipeline(
        Model(
            stages,
            CodecRenderer(codec),
            output_stages=RENDERED,
            semantic_tokenizer=FeatureTokenizer(features, codebook),
        )
    )
    folder = tmp_path_factory.mktemp("models") / "audiolm"
    pipeline.save(folder)
    return folder


def values(out: Path) -> dict[str, Any]:
    report = json.loads((out / "report.json").read_text())
    return {row["metric"]: row for row in report["measurements"]}


def write_noises(folder: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        noise = torch.randn(1, 24_000, generator=torch.Generator().manual_seed(seed))
        write_audio(folder / name, 0.1 * noise, 24_000)


def test_the_tiny_preset_measures_made_up_clips_and_an_untrained_codec(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    recipe = load_recipe("evaluate")
    recipe.main(recipe.Config(preset="tiny", out=tmp_path, device="cpu"))
    found = values(tmp_path)
    assert found["codec, 4 codebooks: bit rate (kb/s)"]["value"] == pytest.approx(1.2)
    neighbours = next(row for name, row in found.items() if name.startswith("clips: 5-NN"))
    assert neighbours["value"] > 0.9
    assert neighbours["num_items"] == 12
    missing = found["clips: word error rate"]
    assert missing["value"] is None
    assert missing["note"] == "no speech recogniser; pass --asr"
    assert "- clips: word error rate: no speech recogniser" in (tmp_path / "report.md").read_text()
    again = tmp_path / "again"
    recipe.main(recipe.Config(preset="tiny", out=again, device="cpu"))
    assert values(again) == found


def test_a_codec_of_speech_is_measured_at_each_number_of_codebooks(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    pytest.importorskip("pystoi")
    recipe = load_recipe("evaluate")
    write_noises(tmp_path / "real", "ann/a.wav", "bob/b.wav")
    codec = recipe.write_untrained_codec(tmp_path / "codec", seed=0)
    config = recipe.Config(
        real=tmp_path / "real", codec=str(codec), num_codebooks=(1, 4), speech=True,
        out=tmp_path / "out", device="cpu",
    )  # fmt: skip
    recipe.main(config)
    found = values(tmp_path / "out")
    rates = [found[f"codec, {k} codebooks: bit rate (kb/s)"]["value"] for k in (1, 4)]
    assert rates == pytest.approx([0.3, 1.2])
    stoi = found["codec, 4 codebooks: STOI"]
    assert stoi["num_items"] == 2
    assert -1 <= stoi["value"] <= 1
    assert found["codec, 1 codebooks: ViSQOL"]["note"].startswith("not requested; pass --visqol")
    assert audio_info(tmp_path / "out/reconstructed/1-codebooks/ann/a.wav").num_samples == 24_000


def test_a_model_continues_prompts_and_only_the_new_sound_is_measured(
    load_recipe: LoadRecipe, model_folder: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("evaluate")
    write_noises(tmp_path / "real", "a.wav", "b.wav")
    rows = [
        {"name": "a", "audio": "real/a.wav", "speaker": "ann"},
        {"name": "b", "audio": "real/b.wav", "duration": 0.6},
        {"name": "free"},
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = recipe.Config(
        model=str(model_folder), prompts=tmp_path / "prompts.jsonl", real=tmp_path / "real",
        prompt_seconds=0.4, duration=0.5, out=tmp_path / "out", device="cpu",
    )  # fmt: skip
    recipe.main(config)
    generated = tmp_path / "out/generated"
    lengths = [audio_info(generated / f"{n}.wav").num_samples for n in ("a", "b", "free")]
    assert lengths == [12_000, 14_400, 12_000]
    described = [json.loads(line) for line in (generated / "clips.jsonl").read_text().splitlines()]
    assert described[0] == {"audio": "a.wav", "speaker": "ann"}
    distance = next(
        row for name, row in values(tmp_path / "out").items() if "model: Frechet distance" in name
    )
    assert distance["value"] > 0
    first = (generated / "a.wav").read_bytes()
    recipe.main(replace(config, most=1))
    assert (generated / "a.wav").read_bytes() == first  # alone as among others


def test_the_codec_of_the_package_has_a_name(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    recipe = load_recipe("evaluate")
    write_noises(tmp_path / "real", "a.wav")
    recipe.main(
        recipe.Config(
            real=tmp_path / "real", codec="default", num_codebooks=(2,), out=tmp_path, device="cpu"
        )
    )
    assert values(tmp_path)["codec, 2 codebooks: mel distance"]["value"] > 0


def test_the_document_names_options_that_there_are(load_recipe: LoadRecipe) -> None:
    text = (Path(__file__).parents[2] / "docs/evaluation.md").read_text()
    fields = {field.name for field in dataclasses.fields(load_recipe("evaluate").Config)}
    options = {name.replace("-", "_") for name in re.findall(r"--([a-z][a-z-]*)", text)}
    assert options <= fields
    assert fields - options <= {"device", "out", "most", "duration", "semantic"}


def test_tokens_are_measured_by_abx_and_by_pairs(
    load_recipe: LoadRecipe, model_folder: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("evaluate")
    write_noises(tmp_path / "audio", "x/f1.wav", "f2.wav")
    lines = ["#file onset offset #phone prev-phone next-phone speaker"]
    for i in range(12):
        speaker, start = 1 + i % 2, 0.08 * (i // 2)
        kind = "ab"[i // 2 % 2]
        lines.append(f"f{speaker} {start} {start + 0.2} {kind} k t s{speaker}")
    (tmp_path / "dev.item").write_text("\n".join(lines))
    pairs = [
        {"preferred": [1, 2, 3], "other": [1, 2, 3]},
        {"preferred": "audio/f2.wav", "other": [4, 4, 4]},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    config = recipe.Config(
        model=str(model_folder), abx=tmp_path / "dev.item", pairs=tmp_path / "pairs.jsonl",
        audio=tmp_path / "audio", out=tmp_path / "out", device="cpu",
    )  # fmt: skip
    recipe.main(config)
    found = values(tmp_path / "out")
    for name in ("features, angle", "tokens, equality", "tokens, edits without repeats"):
        for mode in ("within", "across"):
            row = found[f"tokens: ABX error {mode} speakers, {name}"]
            assert 0 <= row["value"] <= 1
            assert row["num_items"] == 12
    assert found["tokens: likelihood pairs, per token"]["value"] in (0.25, 0.75)
    assert found["tokens: likelihood pairs, in sum"]["num_items"] == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "Nothing to measure; pass --codec"),
        ({"codec": "dac-16khz"}, "--codec has no effect alone; also pass --real"),
        ({"abx": Path("dev.item")}, "--abx has no effect alone; also pass --audio"),
        ({"num_codebooks": (1,)}, "--num-codebooks has no effect alone; also pass --codec"),
        ({"model": "m"}, "--model needs something to measure; pass --prompts"),
    ],
)
def test_settings_without_effect_are_refused(
    load_recipe: LoadRecipe, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    recipe = load_recipe("evaluate")
    with pytest.raises(ValueError, match=said):
        recipe.main(recipe.Config(out=tmp_path, **settings))
    assert not list(tmp_path.iterdir())


def test_prompts_and_pairs_that_cannot_be_read_are_told(
    load_recipe: LoadRecipe, model_folder: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("evaluate")
    bad = tmp_path / "bad.jsonl"
    bad.write_text("rain\n")
    with pytest.raises(ValueError, match=r"bad.jsonl has a line that is not a JSON object"):
        recipe.main(recipe.Config(model=str(model_folder), prompts=bad, out=tmp_path / "out"))
    bad.write_text('{"name": "a"}\n{"name": "a"}\n')
    with pytest.raises(ValueError, match=r"bad.jsonl has 2 prompts named 'a'; use unique names"):
        recipe.main(recipe.Config(model=str(model_folder), prompts=bad, out=tmp_path / "out"))
    bad.write_text("rain\n")
    with pytest.raises(ValueError, match=r"Line 1 of .*bad.jsonl is not a JSON object"):
        recipe.main(recipe.Config(model=str(model_folder), pairs=bad, out=tmp_path / "out"))
    bad.write_text('{"preferred": [1]}\n')
    with pytest.raises(ValueError, match=r'needs both "preferred" and "other", each an audio'):
        recipe.main(recipe.Config(model=str(model_folder), pairs=bad, out=tmp_path / "out"))
    write_noises(tmp_path / "real", "a.wav")
    config = recipe.Config(
        model=str(model_folder), real=tmp_path / "real", out=tmp_path / "out", device="cpu"
    )
    with pytest.raises(ValueError, match="has no captions to generate from; pass --prompts"):
        recipe.main(config)
    (tmp_path / "real" / "clips.jsonl").write_text('{"audio": "a.wav", "text": "rain"}\n')
    with pytest.raises(ValueError, match="takes no text; pass --prompts with audio to continue"):
        recipe.main(config)
