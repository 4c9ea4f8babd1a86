"""From generated sound to a model that is heard and measured: the recipes one after the other.

Each is run as a user runs it, on what those before it wrote. `make recipes-test` takes minutes.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lm_audio
from audio_tokenizers.audio_files import read_audio

pytestmark = pytest.mark.chain
RECIPES = Path(__file__).parents[2] / "recipes"
CORPORA = ("effects", "music", "speech")
TOKENS = tuple(f"tokens/{corpus}" for corpus in CORPORA)


class Workshop:
    """A folder in which recipes are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, recipe: str, *arguments: object) -> str:
        """Runs a recipe at its tiny size, and returns what it printed."""
        command = [RECIPES / f"{recipe}.py", "--preset", "tiny", *arguments]
        return self.command(sys.executable, *command)

    def train(self, family: str, stage: str, *arguments: object) -> str:
        return self.run("train_stage", "--family", family, "--stage", stage, *arguments)

    def command(self, *command: object) -> str:
        words = [str(word) for word in command]
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr[-3000:]}"
        return done.stdout

    def losses(self, run: str, name: str = "train/loss") -> list[float]:
        """What a run has logged for tensorboard."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        log = EventAccumulator(str(self.folder / run / "log"))
        log.Reload()
        return [event.value for event in log.Scalars(name)]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


def falls(losses: list[float], *, by: float) -> bool:
    """Whether the last tenth is lower on average than the first, by this share."""
    tenth = max(1, len(losses) // 10)
    return sum(losses[-tenth:]) < (1 - by) * sum(losses[:tenth])


def test_generated_sound_becomes_corpora(workshop: Workshop) -> None:
    workshop.run("default_model/prepare_effects", "--out", "effects")
    workshop.run("default_model/prepare_music", "--out", "music")
    workshop.run("default_model/prepare_speech", "--out", "speech")
    for corpus in CORPORA:
        assert (workshop.folder / corpus / "train.jsonl.gz").is_file()
        assert "|" in (workshop.folder / corpus / "LICENCES.md").read_text()


def test_a_folder_of_sounds_becomes_a_corpus(workshop: Workshop) -> None:
    sounds = workshop.folder / "sounds"
    for number, path in enumerate(sorted((workshop.folder / "effects/audio").rglob("*.flac"))[:8]):
        target = sounds / f"noise {number}{path.suffix}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    (sounds / "broken.wav").write_bytes(b"RIFF")
    workshop.run("prepare_folder", "--data", "sounds", "--out", "mine")
    assert "broken.wav" in (workshop.folder / "mine/skipped.txt").read_text()


def test_sounds_get_captions_and_are_mixed(workshop: Workshop) -> None:
    printed = workshop.run("enhance_prompts", "--data", "effects", "--out", "enhanced")
    assert "mixtures" in printed
    assert list((workshop.folder / "enhanced/audio").glob("mixture-train-*.flac"))


def test_pictures_are_mapped_to_the_tokens_of_texts(workshop: Workshop) -> None:
    workshop.run("train_prompt_map", "--data", "effects", "--out", "prompt_map")
    assert falls(workshop.losses("prompt_map"), by=0.1)


def test_a_codec_learns(workshop: Workshop) -> None:
    workshop.run("train_codec", "--data", *CORPORA, "--out", "codec")
    assert falls(workshop.losses("codec", "train/reconstruction"), by=0.05)


def test_rave_learns_and_plays(workshop: Workshop) -> None:
    workshop.run("train_rave", "--data", "music", "--out", "rave")
    assert falls(workshop.losses("rave", "train/distance"), by=0.02)
    transfer = ("-m", "lm_audio", "transfer", "sounds/noise 0.flac", "--codec", "rave")
    workshop.command(sys.executable, *transfer, "--latent", "0:+1", "-o", "played.wav")
    played = read_audio(workshop.folder / "played.wav")
    original = read_audio(workshop.folder / "sounds/noise 0.flac")
    assert played.duration == pytest.approx(original.duration, abs=1e-3)


def test_a_model_of_waveforms_learns_and_is_fine_tuned(workshop: Workshop) -> None:
    workshop.run("train_waveform_diffusion", "--data", "music", "--out", "waveforms")
    assert falls(workshop.losses("waveforms"), by=0.2)
    tune = ("--start", "waveforms/model", "--data", "effects", "--steps", 10)
    workshop.run("train_waveform_diffusion", *tune, "--out", "tuned")
    model = lm_audio.load(workshop.folder / "tuned/model")
    assert model.generate(duration=0.5, seed=1).duration == 0.5


def test_a_cascade_of_waveforms_learns_and_raises_sound(workshop: Workshop) -> None:
    workshop.run(
        *("tokenize_dataset", "--data", "effects", "--codec", "none"),
        *("--samples", 8000, "--out", "samples"),
    )
    shards = ("--data", "samples", "--steps", 30)
    workshop.run("train_cascade", "--stage", "generator", *shards, "--out", "cascade/low")
    workshop.run(
        *("train_cascade", "--stage", "cascader", *shards),
        *("--after", "cascade/low/model", "--out", "cascade/high"),
    )
    assert falls(workshop.losses("cascade/high"), by=0.1)
    model = lm_audio.load(workshop.folder / "cascade/high/model")
    low = model.generate("rain", duration=0.3, seed=1)
    assert (low.duration, low.sample_rate) == (0.3, 8_000)
    raised = model.upsample((low.samples[:, ::4], 2_000), seed=1)
    assert raised.samples.shape == low.samples.shape


def test_a_masked_model_learns(workshop: Workshop) -> None:
    workshop.run("train_masked_model", "--data", *CORPORA, "--out", "masked")
    assert falls(workshop.losses("masked"), by=0.02)


def test_a_semantic_codebook_is_used(workshop: Workshop) -> None:
    workshop.run(
        "train_semantic_codebook", "--model", "masked", "--data", *CORPORA, "--out", "tokenizer"
    )
    report = json.loads((workshop.folder / "tokenizer/report.json").read_text())
    assert report["used"] > 0.5


def test_corpora_become_tokens(workshop: Workshop) -> None:
    for corpus in CORPORA:
        workshop.run(
            "tokenize_dataset",
            *("--data", corpus, "--codec", "codec", "--semantic", "tokenizer"),
            *("--mix", 1, "--out", f"tokens/{corpus}"),
        )


def test_both_stages_of_duet_learn(workshop: Workshop) -> None:
    data = ("--data", *TOKENS, "--codec", "codec")
    workshop.train("duet", "semantic", *data, "--out", "semantic")
    assert falls(workshop.losses("semantic"), by=0.05)
    workshop.train(
        *("duet", "acoustic", *data, "--semantic", "semantic"),
        *("--semantic-tokenizer", "tokenizer", "--out", "acoustic"),
    )
    assert falls(workshop.losses("acoustic"), by=0.05)


def test_a_parallel_acoustic_stage_takes_the_place_of_duets(workshop: Workshop) -> None:
    data = ("--data", *TOKENS, "--codec", "codec", "--semantic", "semantic")
    workshop.train("soundstorm", "acoustic", *data, "--out", "parallel")
    assert falls(workshop.losses("parallel"), by=0.03)
    model = lm_audio.load(workshop.folder / "parallel/model")
    assert model.generate("a bell rings", duration=1.0, seed=1).duration == 1.0


def test_the_model_generates_and_continues(workshop: Workshop) -> None:
    model = lm_audio.load(workshop.folder / "acoustic/model")
    clip = model.generate("a bell rings", duration=2.0, seed=1)
    assert clip.duration == 2.0
    assert torch.isfinite(clip.samples).all()
    clip.save(workshop.folder / "prompt.wav")
    (workshop.folder / "generated").mkdir()
    for number in range(4):
        clip = model.generate("a bell rings", duration=2.0, seed=number)
        clip.save(workshop.folder / "generated" / f"{number}.wav")
    longer = model.continue_from(workshop.folder / "prompt.wav", duration=1.0, seed=1)
    assert longer.duration == 3.0
    prompt = read_audio(workshop.folder / "prompt.wav").samples
    assert torch.equal(longer.samples[:, : prompt.shape[1]], prompt)


def test_latents_are_learnt_generated_and_measured(workshop: Workshop) -> None:
    workshop.run(
        *("train_diffusion", "--data", *TOKENS, "--codec", "codec", "--semantic", "semantic"),
        *("--semantic-tokenizer", "tokenizer", "--out", "diffusion"),
    )
    assert falls(workshop.losses("diffusion"), by=0.05)
    folder = workshop.folder / "diffusion"
    model = lm_audio.load(folder / "model")
    assert list(model.stages) == ["semantic", "latents"]
    (folder / "generated").mkdir()
    for number in range(4):
        clip = model.generate("a bell rings", duration=2.0, seed=number)
        clip.save(folder / "generated" / f"{number}.wav")
    longer = model.continue_from(folder / "generated/0.wav", duration=1.0, seed=1)
    prompt = read_audio(folder / "generated/0.wav").samples
    assert torch.equal(longer.samples[:, : prompt.shape[1]], prompt)
    workshop.run(
        *("train_diffusion", "--data", *TOKENS, "--codec", "codec", "--distill", "diffusion/model"),
        *("--out", "fast"),
    )
    assert lm_audio.load(workshop.folder / "fast/model").stages["latents"].sampling.steps == 8
    workshop.run(
        *("evaluate", "--real", "effects", "--generated", "diffusion/generated"),
        *("--out", "diffusion/report"),
    )
    assert "|" in next((folder / "report").glob("*.md")).read_text()


def test_latents_of_spectrograms_are_learnt_and_generated(workshop: Workshop) -> None:
    for corpus in CORPORA:
        sound = ("--codec", "none", "--samples", 8000, "--channels", 1)
        workshop.run("tokenize_dataset", "--data", corpus, *sound, "--out", f"samples/{corpus}")
    data = ("--data", *(f"samples/{corpus}" for corpus in CORPORA))
    workshop.run("train_autoencoder", *data, "--out", "autoencoder")
    assert falls(workshop.losses("autoencoder", "train/reconstruction"), by=0.2)
    workshop.run("train_vocoder", *data, "--out", "vocoder")
    assert falls(workshop.losses("vocoder", "train/reconstruction"), by=0.1)
    workshop.run(
        *("train_diffusion", *data, "--autoencoder", "autoencoder/model"),
        *("--vocoder", "vocoder/model", "--out", "spectrograms"),
    )
    assert falls(workshop.losses("spectrograms"), by=0.1)
    generate = (sys.executable, "-m", "lm_audio", "generate", "a bell rings", "--duration", 2)
    workshop.command(*generate, "--model", "spectrograms/model", "--seed", 1, "-o", "bell.wav")
    made = read_audio(workshop.folder / "bell.wav")
    assert (made.duration, made.sample_rate) == (2.0, 8000)
    model = lm_audio.load(workshop.folder / "spectrograms/model")
    longer = model.continue_from(workshop.folder / "bell.wav", duration=1.0, seed=1)
    assert torch.equal(longer.samples[:, : made.samples.shape[1]], made.samples)


def test_the_language_of_audio_is_learnt_and_heard(
    workshop: Workshop, write_audioldm2: Callable[[Path, int], Path]
) -> None:
    write_audioldm2(workshop.folder / "audioldm2", 32)
    workshop.run(
        *("train_audio_language", "--data", *CORPORA, "--model", "audioldm2"),
        *("--encoder", "masked", "--out", "language"),
    )
    assert falls(workshop.losses("language"), by=0.05)
    model = lm_audio.load(workshop.folder / "language/model")
    recording = workshop.folder / "sounds/noise 0.flac"
    clips = [
        model.generate("a bell rings", duration=0.1, seed=1, tokens=tokens)
        for tokens in (None, {"audio_language": recording})
    ]
    spoken, heard = (clip.stage_values["audio_language"] for clip in clips)
    assert spoken.shape == heard.shape == (32, 8)
    assert not torch.allclose(*(clip.samples for clip in clips))


def test_the_three_stages_of_audiolm_learn(workshop: Workshop) -> None:
    speech = ("--data", "tokens/speech", "--codec", "codec")
    workshop.train("audiolm", "semantic", *speech, "--out", "lm/semantic")
    workshop.train("audiolm", "coarse", *speech, "--out", "lm/coarse")
    workshop.train(
        *("audiolm", "fine", *speech, "--semantic", "lm/semantic", "--coarse", "lm/coarse"),
        *("--semantic-tokenizer", "tokenizer", "--out", "lm/fine"),
    )
    for stage in ("semantic", "coarse", "fine"):
        assert falls(workshop.losses(f"lm/{stage}"), by=0.02), stage
    clip = lm_audio.load(workshop.folder / "lm/fine/model").generate(duration=1.0, seed=1)
    assert clip.duration == 1.0


def test_text_becomes_sound_in_one_stage_and_is_refined(workshop: Workshop) -> None:
    data = ("--data", *TOKENS)
    workshop.train("audiocraft", "acoustic", *data, "--codec", "codec", "--out", "text")
    assert falls(workshop.losses("text"), by=0.05)
    workshop.run("finetune", "--model", "text/model", *data, "--lora", 4, "--out", "finetuned")
    clip = lm_audio.load(workshop.folder / "finetuned/model").generate("rain", duration=1.0, seed=1)
    assert clip.duration == 1.0


def test_what_was_made_is_measured(workshop: Workshop) -> None:
    workshop.run("evaluate", "--real", "effects", "--codec", "codec", "--out", "codec_report")
    workshop.run("evaluate", "--real", "effects", "--generated", "generated", "--out", "report")
    for report in ("codec_report", "report"):
        written = json.loads(next((workshop.folder / report).glob("*.json")).read_text())
        assert written
        assert "|" in next((workshop.folder / report).glob("*.md")).read_text()
