"""MusicGen Melody: chroma, logits and greedy tokens as transformers has them, in both layouts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from transformers import (
    AutoTokenizer,
    EncodecConfig,
    MusicgenMelodyConfig,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
)
from transformers.audio_utils import chroma_filter_bank
from transformers.models.musicgen_melody.configuration_musicgen_melody import (
    MusicgenMelodyDecoderConfig,
)

import lm_audio
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from lm_audio.cli import main as cli
from lm_audio.conditioners.chroma import chroma_filters, strongest_classes
from lm_audio.conditioners.melody import MelodyConditioner
from lm_audio.families.audiocraft.export import _T5_WIDTHS
from lm_audio.families.audiocraft.original_layout import read_audiocraft
from lm_audio.families.audiocraft.parts import MusicGenParts
from lm_audio.families.audiocraft.transformers_layout import read_musicgen
from lm_audio.generation.lm_stage import LMStage
from lm_audio.patterns import delayed, stereo
from lm_audio.sampling import Sampling
from tests.lm_audio.conftest import (
    CODEC,
    CODEC_SETTINGS,
    LM_SETTINGS,
    audiocraft_codec_state,
    audiocraft_state,
)

RATE, WINDOW, SECONDS, CHROMA = 32_000, 4096, 2, 63
TEXTS = ("a dog barking", "rain")
GREEDY = Sampling(temperature=0.0, guidance_scale=3.0)


def melody(*pitches: float, seconds: float = 0.4) -> Tensor:
    """Notes [1, N] one after the other, each with two overtones."""
    time = torch.arange(round(seconds * RATE)) / RATE
    notes = [sum((2 * np.pi * f * h * time).sin() / h for h in (1, 2, 3)) for f in pitches]
    return 0.2 * torch.cat(notes)[None]


TUNE = melody(261.6, 392.0, 440.0)


def naive_chroma(samples: np.ndarray, window: int) -> np.ndarray:
    """Frame by frame with numpy, and the filters of transformers."""
    if len(samples) < window:
        missing = window - len(samples)
        samples = np.pad(samples, (missing // 2, missing - missing // 2))
    padded = np.pad(samples, window // 2, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    filters = chroma_filter_bank(
        num_frequency_bins=window, num_chroma=12, sampling_rate=RATE, tuning=0
    )
    rows = []
    for start in range(0, len(padded) - window + 1, window // 4):
        energy = np.abs(np.fft.rfft(padded[start : start + window] * hann)) ** 2
        rows.append(np.eye(12)[(filters @ energy).argmax()])
    return np.stack(rows)


@pytest.mark.parametrize("window", [2**12, 2**14])
@pytest.mark.parametrize("rate", [16_000, 32_000])
def test_the_filters_are_those_of_transformers(window: int, rate: int) -> None:
    theirs = chroma_filter_bank(
        num_frequency_bins=window, num_chroma=12, sampling_rate=rate, tuning=0
    )
    ours = chroma_filters(sample_rate=rate, window=window, num_classes=12)
    torch.testing.assert_close(ours, torch.from_numpy(theirs).float(), atol=1e-6, rtol=1e-5)


def sounds() -> list[Tensor]:
    """Ten sounds [N]: notes, a chord, a sweep, noise, silence, and a very short one."""
    time = torch.arange(2 * RATE) / RATE
    noise = torch.randn(2 * RATE, generator=torch.Generator().manual_seed(0))
    return [
        TUNE[0],
        melody(110.0)[0],
        melody(880.0, 987.8, 1046.5, 1174.7)[0],
        (melody(261.6) + melody(329.6) + melody(392.0))[0],
        0.3 * (2 * np.pi * (200 * time + 150 * time**2)).sin(),
        0.1 * noise,
        melody(440.0, 220.0, seconds=1.0)[0] + 0.01 * noise,
        torch.zeros(RATE),
        melody(523.3, seconds=0.05)[0],
        0.2 * (2 * np.pi * 300 * time).sin().sign(),
    ]


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("window", [2**12, 2**14])
def test_chroma_is_that_of_a_naive_loop(number: int, window: int) -> None:
    samples = sounds()[number]
    ours = strongest_classes(samples, sample_rate=RATE, window=window, num_classes=12)
    expected = naive_chroma(samples.double().numpy(), window)
    assert np.array_equal(ours.numpy(), expected)


@pytest.mark.parity
@pytest.mark.parametrize("number", range(10))
def test_chroma_is_that_of_the_feature_extractor(number: int) -> None:
    pytest.importorskip("torchaudio")
    from transformers import MusicgenMelodyFeatureExtractor

    samples = sounds()[number]
    extract = MusicgenMelodyFeatureExtractor()
    theirs = extract(samples.numpy(), sampling_rate=RATE, return_tensors="pt")["input_features"][0]
    ours = strongest_classes(samples, sample_rate=RATE, window=2**14, num_classes=12)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_a_tune_is_heard_as_its_notes() -> None:
    rows = strongest_classes(TUNE[0], sample_rate=RATE, window=WINDOW, num_classes=12)
    heard = rows.argmax(dim=1).tolist()
    assert [heard[5], heard[18], heard[30]] == [0, 7, 9]  # C, G, A


def make_model(num_channels: int = 1, text_width: int = 16) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = MusicgenMelodyDecoderConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=2, ffn_dim=64, num_attention_heads=2,
            num_codebooks=4 * num_channels, audio_channels=num_channels, pad_token_id=64,
            bos_token_id=64, dropout=0.0,
        )  # fmt: skip
        text = T5Config(
            vocab_size=40, d_model=text_width, d_kv=8, d_ff=32, num_heads=2, num_layers=1
        )
        config = MusicgenMelodyConfig(
            text_encoder=text.to_dict(),
            audio_encoder=EncodecConfig(**CODEC).to_dict(),
            decoder=decoder.to_dict(),
            chroma_length=CHROMA,
        )
        model = MusicgenMelodyForConditionalGeneration(config)
        for name, weight in model.named_parameters():
            if "norm" in name and weight.ndim == 1:
                torch.nn.init.normal_(weight, float(name.endswith("weight")), 0.3)
            elif not name.startswith("audio_encoder"):
                torch.nn.init.normal_(weight, 0.0, 0.2)
        for layer in model.audio_encoder.quantizer.layers:
            layer.codebook.embed.normal_()
    model.generation_config.update(
        do_sample=True, guidance_scale=3.0, max_length=100, pad_token_id=64, bos_token_id=64,
        decoder_start_token_id=64,
    )  # fmt: skip
    return model.eval()


@pytest.fixture(scope="module")
def write(tiny_t5: Path) -> Callable[[Any, Path], Path]:
    """Writes a model as transformers does."""

    def write(model: Any, folder: Path) -> Path:
        model.save_pretrained(folder)
        for file in tiny_t5.glob("tokenizer*.json"):
            shutil.copy(file, folder)
        settings = {
            "sampling_rate": RATE, "n_fft": WINDOW, "hop_length": WINDOW // 4,
            "chunk_length": SECONDS, "feature_size": 12,
        }  # fmt: skip
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        return folder

    return write


@pytest.fixture(scope="module", params=[1, 2], ids=["mono", "stereo"])
def folder(
    request: pytest.FixtureRequest,
    write: Callable[[Any, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return write(make_model(request.param), tmp_path_factory.mktemp("melody"))


@pytest.fixture(scope="module")
def write_original(tiny_t5: Path) -> Callable[..., Path]:
    """Writes a model as audiocraft does, with `new` for `old` in its settings."""

    def write(model: Any, folder: Path, old: str = "", new: str = "") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        config = model.config.decoder
        text = LM_SETTINGS.format(
            num_channels=config.audio_channels,
            interleave="true" if config.audio_channels == 2 else "false",
            delays=[k for k in range(4) for _ in range(config.audio_channels)],
            dim=32, num_heads=2, num_layers=2, hidden_scale=2.0,
            num_codebooks=config.num_codebooks, vocab_size=64,
        )  # fmt: skip
        settings = yaml.safe_load(text)
        settings["dataset"]["segment_duration"] = SECONDS
        settings["fuser"] |= {"cross": [], "prepend": ["self_wav", "description"]}
        settings["conditioners"]["self_wav"] = {
            "model": "chroma_stem",
            "chroma_stem": {
                "sample_rate": "${sample_rate}", "n_chroma": 12, "radix2_exp": 12, "argmax": True,
                "match_len_on_eval": False, "eval_wavs": None, "n_eval_wavs": 100,
                "cache_path": "/somewhere",
            },
        }  # fmt: skip
        edited = yaml.safe_dump(settings)
        assert old in edited
        state = audiocraft_state(model)
        wav = "condition_provider.conditioners.self_wav"
        for kind in ("weight", "bias"):
            state[f"{wav}.output_proj.{kind}"] = model.state_dict()[f"audio_enc_to_dec_proj.{kind}"]
        state[f"{wav}.chroma.spec.window"] = torch.hann_window(WINDOW)
        stamp = {"version": "1.3.0", "exported": True}
        package = {"best_state": state, "xp.cfg": edited.replace(old, new), **stamp}
        torch.save(package, folder / "state_dict.bin")
        codec = {"best_state": audiocraft_codec_state(model.audio_encoder), **stamp}
        torch.save({**codec, "xp.cfg": CODEC_SETTINGS}, folder / "compression_state_dict.bin")
        model.text_encoder.save_pretrained(folder / "t5")
        for file in tiny_t5.glob("tokenizer*.json"):
            shutil.copy(file, folder / "t5")
        return folder

    return write


def our_chroma(tune: Tensor) -> Tensor:
    return strongest_classes(tune[0], sample_rate=RATE, window=WINDOW, num_classes=12)[None]


@pytest.mark.parametrize("tune", [None, TUNE, melody(330.0, 262.0, seconds=1.4)])
@pytest.mark.parametrize("text", [*TEXTS])
def test_logits_are_those_of_transformers(folder: Path, tune: Tensor | None, text: str) -> None:
    reference = MusicgenMelodyForConditionalGeneration.from_pretrained(folder).eval()
    parts = read_musicgen(folder)
    J, S = reference.config.decoder.num_codebooks, 11
    tokens = torch.randint(0, 65, (1, J, S), generator=torch.Generator().manual_seed(1))
    inputs = AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt")
    given = {} if tune is None else {"input_features": our_chroma(tune)}
    value = None if tune is None else (tune, RATE)
    with torch.inference_mode():
        theirs = reference(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            decoder_input_ids=tokens[0],
            **given,
        ).logits[:, -S:]
        fused = parts.conditioners({"melody": [value], "text": [text]})
        ours = parts.model(tokens, fused=fused)[0]
    assert theirs.std() > 0.3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def reference_tokens(
    folder: Path, text: str, *, tune: Tensor | None, num_frames: int, guidance_scale: float
) -> Tensor:
    """The greedy tokens [K, T] of transformers' own generate."""
    model = MusicgenMelodyForConditionalGeneration.from_pretrained(folder).eval()
    found: list[Tensor] = []
    decode = model.audio_encoder.decode

    def watch(tokens: Tensor, *arguments: object, **settings: object) -> object:
        found.append(tokens[0, 0].clone())
        return decode(tokens, *arguments, **settings)

    inputs = AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt")
    model.audio_encoder.decode = watch
    model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        do_sample=False,
        use_cache=False,  # with the cache, transformers 4.57 loses the prefix
        guidance_scale=guidance_scale,
        max_new_tokens=num_frames + 3,
        **({} if tune is None else {"input_features": our_chroma(tune)}),
    )
    return found[0] if len(found) == 1 else torch.stack(found, dim=1).flatten(0, 1)


@pytest.mark.parametrize("text", [*TEXTS])
@pytest.mark.parametrize("tune", [None, TUNE])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_greedy_tokens_are_those_of_transformers(
    folder: Path, text: str, tune: Tensor | None, guidance_scale: float
) -> None:
    expected = reference_tokens(
        folder, text, tune=tune, num_frames=40, guidance_scale=guidance_scale
    )
    clip = lm_audio.load(folder, device="cpu").generate(
        text,
        duration=0.8,
        sampling=Sampling(temperature=0.0, guidance_scale=guidance_scale),
        conditions={} if tune is None else {"melody": (tune, RATE)},
    )
    assert clip.tokens.shape == expected.shape
    assert torch.equal(clip.tokens, expected)


@pytest.mark.parametrize("num_channels", [1, 2])
def test_both_layouts_load_to_the_same_model(
    num_channels: int,
    write: Callable[[Any, Path], Path],
    write_original: Callable[..., Path],
    tmp_path: Path,
) -> None:
    model = make_model(num_channels)
    ours = read_audiocraft(write_original(model, tmp_path / "a"))
    theirs = read_musicgen(write(model, tmp_path / "b"))
    assert ours.model.config == theirs.model.config
    pattern = delayed(range(4))
    assert ours.pattern == theirs.pattern == (stereo(pattern) if num_channels == 2 else pattern)
    assert ours.max_frames == theirs.max_frames == 100
    states = [whole(parts) for parts in (ours, theirs)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    fused = [
        parts.conditioners({"melody": [(TUNE, RATE)], "text": ["a"]}) for parts in (ours, theirs)
    ]
    assert torch.equal(fused[0].prepend.embeddings, fused[1].prepend.embeddings)


def whole(parts: MusicGenParts) -> dict[str, Tensor]:
    modules = torch.nn.ModuleDict({"model": parts.model, "conditioners": parts.conditioners})
    return modules.state_dict()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("argmax: true", "argmax: false", "chroma_stem.argmax=False"),
        ("radix2_exp: 12", "radix2_exp: 12\n      winhop: 5", "chroma_stem.winhop=5"),
        ("n_eval_wavs: 100", "mystery: 1", "chroma_stem.mystery=1"),
        ("- self_wav\n  - description", "- description\n  - self_wav", "fuser.prepend="),
        ("model: chroma_stem", "model: style", "conditioners=self_wav"),
    ],
)
def test_what_our_model_cannot_express_is_refused_by_name(
    old: str, new: str, said: str, write_original: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_original(make_model(), tmp_path, old, new)
    with pytest.raises(ValueError, match=f"Unsupported setting .*{said}"):
        read_audiocraft(folder)


def test_a_chroma_length_that_does_not_fit_is_refused(
    write: Callable[[Any, Path], Path], tmp_path: Path
) -> None:
    folder = write(make_model(), tmp_path)
    for name, file, message in (
        ("chroma_length", "config.json", r"Unsupported chroma_length=7 in .* Expected 63"),
        ("hop_length", "preprocessor_config.json", r"Unsupported hop_length=7 .* Expected 1024"),
    ):
        path = folder / file
        before = path.read_text()
        path.write_text(json.dumps(json.loads(before) | {name: 7}))
        with pytest.raises(ValueError, match=message):
            read_musicgen(folder)
        path.write_text(before)


def test_a_melody_comes_from_a_file_a_clip_or_samples(folder: Path, tmp_path: Path) -> None:
    model = lm_audio.load(folder, device="cpu")
    write_audio(tmp_path / "tune.wav", TUNE, RATE)
    stage = model.stages["acoustic"]
    assert isinstance(stage, LMStage)
    tokens = [
        model.generate(
            "rain", duration=0.3, seed=1, sampling=GREEDY, conditions={"melody": given}
        ).tokens
        for given in (str(tmp_path / "tune.wav"), (TUNE, RATE), (TUNE.expand(2, -1), RATE))
    ]
    assert torch.equal(tokens[0], tokens[1])
    assert torch.equal(tokens[1], tokens[2])
    other = model.generate("rain", duration=0.3, seed=1, sampling=GREEDY)
    assert not torch.equal(other.tokens, tokens[0])
    for wrong, message in (
        (3, "A melody must be a path, a Clip, or samples"),
        ("none.wav", "none"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            model.generate("rain", duration=0.3, conditions={"melody": wrong})


def test_the_command_line_takes_a_melody(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "tune.wav", TUNE, RATE)
    given = ["generate", "rain", "--model", str(folder), "--duration", "0.3", "--seed", "1"]
    tune = ["--melody", str(tmp_path / "tune.wav")]
    cli([*given, *tune, "-o", str(tmp_path / "out.wav")])
    model = lm_audio.load(folder, device="cpu")
    clip = model.generate("rain", duration=0.3, seed=1, conditions={"melody": (TUNE, RATE)})
    clip.save(tmp_path / "expected.wav")
    made = [read_audio(tmp_path / name).samples for name in ("out.wav", "expected.wav")]
    assert torch.equal(*made)
    for wrong, message in (
        (["--melody", "none.wav"], "none.wav"),
        ([*tune, "--condition", "melody=x.wav"], "cannot be combined"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli([*given, *wrong, "-o", str(tmp_path / "no.wav")])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_promises_hold_with_a_melody_beyond_one_window(folder: Path, tmp_path: Path) -> None:
    model = lm_audio.load(folder, device="cpu")
    given: dict[str, Any] = {"conditions": {"melody": (TUNE, RATE)}, "seed": 3}
    clip = model.generate("rain", duration=2.7, **given)
    assert clip.samples.shape[1] == round(2.7 * RATE)
    batch = model.generate(["a dog", "rain"], duration=[0.4, 2.7], **given | {"seed": [1, 3]})
    assert torch.equal(batch[1].samples, clip.samples)
    pieces = list(model.stream("rain", duration=2.7, **given))
    assert torch.equal(torch.cat(pieces, dim=1), clip.samples)
    longer = model.continue_from(clip, duration=0.3, text="rain", **given)
    assert torch.equal(longer.samples[:, : clip.samples.shape[1]], clip.samples)
    model.save(tmp_path / "saved")
    again = lm_audio.load(tmp_path / "saved", device="cpu").generate("rain", duration=2.7, **given)
    assert torch.equal(again.samples, clip.samples)


def test_a_file_is_read_once(folder: Path, tmp_path: Path) -> None:
    model = lm_audio.load(folder, device="cpu")
    path = tmp_path / "tune.wav"
    write_audio(path, TUNE, RATE)
    settings: dict[str, Any] = {"duration": 2.7, "seed": 3}
    stream = model.stream("rain", conditions={"melody": path}, **settings)
    path.unlink()
    clip = model.generate("rain", conditions={"melody": (TUNE, RATE)}, **settings)
    torch.testing.assert_close(torch.cat(list(stream), dim=1), clip.samples, atol=1e-3, rtol=0)


def test_a_later_window_hears_the_melody_from_its_own_time_on() -> None:
    torch.manual_seed(0)
    conditioner = MelodyConditioner(8, sample_rate=RATE, window=WINDOW, seconds=SECONDS)
    tune = melody(261.6, 329.6, 392.0, 440.0, 493.9, 523.3, 587.3, 659.3, seconds=0.5)
    later = conditioner([(tune, RATE)], start=1.0).embeddings[0]
    cut = conditioner([(tune[:, RATE:], RATE)]).embeddings[0]
    assert torch.equal(later[:58], cut[:58])  # all but the end, whose last frames see further
    around = conditioner([(tune, RATE)], start=5.0).embeddings[0]
    assert torch.equal(around[:58], cut[:58])


@pytest.mark.parametrize("layout", ["transformers", "audiocraft"])
def test_an_exported_melody_model_is_read_back(
    folder: Path, layout: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lm_audio.load(folder, device="cpu")
    monkeypatch.setitem(_T5_WIDTHS, "t5-base", 16)
    model.export(tmp_path / "out", layout=layout, t5_name="t5-base")
    before = read_musicgen(folder)
    if layout == "transformers":
        after = read_musicgen(tmp_path / "out")
        reference = MusicgenMelodyForConditionalGeneration.from_pretrained(tmp_path / "out")
        assert reference.config.chroma_length == CHROMA
    else:
        before.text.encoder.save(tmp_path / "t5")  # type: ignore[attr-defined]
        after = read_audiocraft(tmp_path / "out", text_encoder=tmp_path / "t5")
    states = [whole(parts) for parts in (before, after)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert before.melody is not None
    assert after.melody is not None
    for name in ("sample_rate", "window", "seconds", "num_classes"):
        assert getattr(before.melody, name) == getattr(after.melody, name)
