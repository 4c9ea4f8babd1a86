from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from audio_tokenizers.semantic.extractor import WindowedFeatureExtractor
from audio_tokenizers.semantic.features import (
    TransformersFeatures,
    load_features,
)
from audio_tokenizers.semantic.frames import windows
from audio_tokenizers.semantic.masked_model import (
    MaskedAudioModel,
    save_masked_model,
    tiny,
)
from audio_tokenizers.semantic.speech_inputs import LogMelSpectra, measure_level

Make = Callable[..., Any]
WAVEFORM_KINDS = ["wav2vec2", "hubert", "wavlm"]
KINDS = [*WAVEFORM_KINDS, "wav2vec2-bert"]
LARGE: dict[str, Any] = {
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "conv_bias": True,
}


def hidden_states(model: nn.Module, mono: Tensor, *, normalize: bool) -> list[Tensor]:
    """All layers from the model called as its documentation says, one clip [N] at a time."""
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor

    if model.config.model_type == "wav2vec2-bert":
        prepare: Any = SeamlessM4TFeatureExtractor()
    else:
        prepare = Wav2Vec2FeatureExtractor(do_normalize=normalize)
    inputs = prepare(mono.numpy(), sampling_rate=16_000, return_tensors="pt")
    last = []
    hook = model.encoder.layers[-1].register_forward_hook(lambda *call: last.append(call[2]))
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    hook.remove()
    # Whether the last of `hidden_states` is normalised depends on the version of transformers.
    return [*states[:-1], last[0][0] if isinstance(last[0], tuple) else last[0]]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(kind, {}) for kind in KINDS] + [(kind, LARGE) for kind in WAVEFORM_KINDS],
)
@pytest.mark.parametrize("normalize", [True, False])
def test_each_layer_is_the_hidden_state_of_the_model_called_directly(
    make_model: Make, noise: Make, kind: str, settings: dict[str, Any], normalize: bool
) -> None:
    model = make_model(kind, **settings)
    samples = noise(2, 2, 7_001)
    extractor = TransformersFeatures(model, normalize=normalize)
    expected = [hidden_states(model, mono, normalize=normalize) for mono in samples.mean(1)]
    for layer in range(extractor.num_layers + 1):
        found = extractor.features(samples, layer)
        wanted = torch.cat([states[layer] for states in expected])
        if kind == "wav2vec2-bert":  # the public extractor pads and masks a last odd spectrum
            wanted = wanted[:, : found.shape[1]]
            assert found.shape[1] == (1 + (7_001 - 400) // 160) // 2
        assert found.shape == (*wanted.shape[:2], extractor.width)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
        if layer:  # else a wrong layer would not show
            assert (wanted - expected[0][layer - 1][:, : wanted.shape[1]]).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_batched_clips_have_the_features_of_single_clips(
    make_model: Make, noise: Make, kind: str
) -> None:
    extractor = TransformersFeatures(make_model(kind), normalize=True)
    samples = noise(3, 1, 4_000) * torch.tensor([0.01, 1, 20])[:, None, None]
    single = torch.cat([extractor.features(clip[None], 2) for clip in samples])
    torch.testing.assert_close(extractor.features(samples, 2), single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_samples", [16_000, 15_999, 559 + 160, 560])
def test_log_mel_spectra_are_those_of_the_public_extractor(noise: Make, num_samples: int) -> None:
    from transformers import SeamlessM4TFeatureExtractor

    mono = noise(2, num_samples) * 0.2
    spectra = LogMelSpectra()(mono)
    mean, deviation = measure_level(spectra, correction=1)
    even = spectra.shape[1] // 2 * 2
    found = ((spectra - mean) / deviation)[:, :even].unflatten(1, (-1, 2)).flatten(2)
    for row, clip in zip(found, mono, strict=True):
        prepared = SeamlessM4TFeatureExtractor()(
            clip.numpy(), sampling_rate=16_000, return_tensors="pt"
        )
        T = int(prepared["attention_mask"].sum())
        assert row.shape == (T, 160)
        torch.testing.assert_close(row, prepared["input_features"][0, :T], atol=2e-3, rtol=1e-3)


def test_waveforms_are_normalised_as_by_the_public_extractor(noise: Make) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    mono = noise(1, 5_000) * 0.01 + 0.3
    prepared = Wav2Vec2FeatureExtractor()(mono[0].numpy(), sampling_rate=16_000)
    expected = torch.as_tensor(prepared["input_values"][0])
    mean, deviation = measure_level(mono, correction=0)
    torch.testing.assert_close(((mono - mean) / deviation)[0], expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2-bert"])
def test_long_audio_is_seen_in_windows_close_to_the_whole(
    make_model: Make, noise: Make, kind: str
) -> None:
    model = make_model(kind, **({} if kind == "wav2vec2-bert" else LARGE))
    whole = TransformersFeatures(model, normalize=True)
    windowed = TransformersFeatures(model, normalize=True, window_seconds=1)
    samples = noise(1, 1, 54_321)
    pieces = list(windowed.feature_windows(samples, 2))
    assert len(pieces) == 5
    assert max(piece.shape[1] for piece in pieces) <= 50
    found, expected = torch.cat(pieces, dim=1), whole.features(samples, 2)
    assert found.shape == expected.shape
    likeness = torch.cosine_similarity(found, expected, dim=-1).mean()
    shifted = torch.cosine_similarity(found[:, 1:], expected[:, :-1], dim=-1).mean()
    assert likeness > 0.7
    assert likeness > shifted + 0.1
    torch.testing.assert_close(windowed.features(samples[..., :16_000], 2),
                               whole.features(samples[..., :16_000], 2))  # fmt: skip


def test_windowed_input_is_exactly_that_of_the_whole(make_model: Make, noise: Make) -> None:
    model = make_model("wav2vec2-bert")
    samples = noise(1, 1, 40_000)
    whole = TransformersFeatures(model, normalize=True).features(samples, 0)
    windowed = TransformersFeatures(model, normalize=True, window_seconds=1).features(samples, 0)
    torch.testing.assert_close(windowed, whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("num_frames", [1, 10, 11, 26, 27, 107])
def test_windows_give_every_frame_once_and_see_a_margin(num_frames: int) -> None:
    frames = list(range(num_frames))
    given = []
    for seen, kept in windows(num_frames, size=10, margin=1):
        given += frames[seen][kept]
        assert len(frames[seen]) == min(10, num_frames)
        assert kept.start >= 1 or seen.start == 0
        assert kept.stop <= 9 or seen.stop == num_frames
    assert given == frames


def test_layers_beyond_the_one_asked_for_do_not_run(make_model: Make, noise: Make) -> None:
    model = make_model("wavlm")
    ran = []
    for number, layer in enumerate(model.encoder.layers, start=1):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    extractor = TransformersFeatures(model, normalize=True)
    extractor.features(noise(1, 1, 1_000), 2)
    assert ran == [1, 2]
    assert len(model.encoder.layers) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_loads_with_its_identity_and_features(
    make_model: Make, save_model: Make, noise: Make, tmp_path: Path, kind: str
) -> None:
    model = make_model(kind)
    folder = save_model(model, tmp_path, normalize=False)
    extractor = load_features(folder)
    direct = TransformersFeatures(model, normalize=False)
    samples = noise(1, 1, 2_000)
    assert isinstance(extractor, WindowedFeatureExtractor)
    assert extractor.identity.startswith(f"{kind}-")
    assert extractor.identity == direct.identity
    assert (extractor.sample_rate, extractor.frame_rate) == (16_000, 50)
    assert torch.equal(extractor.features(samples, 3), direct.features(samples, 3))


def test_our_own_masked_model_loads_by_the_same_name(noise: Make, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MaskedAudioModel(tiny()).eval()
    save_masked_model(model, tmp_path)
    extractor = load_features(tmp_path)
    samples = noise(1, 1, 24_000)
    assert extractor.identity == model.identity
    assert torch.equal(extractor.features(samples, 1), model.features(samples, 1))


def test_a_model_inside_a_larger_checkpoint_loads(
    make_model: Make, save_model: Make, tmp_path: Path
) -> None:
    from transformers import Wav2Vec2ForCTC

    model = make_model("wav2vec2")
    outer = Wav2Vec2ForCTC(model.config)
    outer.wav2vec2.load_state_dict(model.state_dict())
    extractor = load_features(save_model(outer, tmp_path))
    assert extractor.identity == TransformersFeatures(model, normalize=True).identity


def test_pickled_weights_load_and_code_in_them_never_runs(
    make_model: Make, save_model: Make, tmp_path: Path
) -> None:
    model = make_model("hubert")
    folder = save_model(model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert load_features(folder).identity == (TransformersFeatures(model, normalize=True).identity)

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({**model.state_dict(), "evil": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(Exception):  # noqa: B017, PT011  its type differs between versions
        load_features(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("settings", "normalize", "window"),
    [({"layer_norm_eps": 1e-3}, True, 20), ({}, False, 20), ({}, True, 10)],
)
def test_settings_that_change_features_change_the_identity(
    make_model: Make, settings: dict[str, Any], normalize: bool, window: float
) -> None:
    plain = TransformersFeatures(make_model("wavlm"), normalize=True, window_seconds=20)
    changed = TransformersFeatures(
        make_model("wavlm", **settings), normalize=normalize, window_seconds=window
    )
    assert changed.identity != plain.identity


def test_the_identity_covers_the_weights_in_use_only(make_model: Make) -> None:
    plain, masked, changed = (
        TransformersFeatures(make_model("wavlm"), normalize=True) for _ in range(3)
    )
    with torch.no_grad():
        masked.model.masked_spec_embed.add_(1)
        next(changed.model.encoder.layers[2].parameters()).add_(1e-3)
    assert masked.identity == plain.identity
    assert changed.identity != plain.identity


@pytest.mark.parametrize(
    ("samples", "layer", "message"),
    [
        (torch.zeros(1, 16_000), 1, r"shape \[1, 16000\]; expected \[B, C, N\]"),
        (torch.zeros(1, 0, 16_000), 1, "no empty axis"),
        (torch.zeros(1, 1, 16_000, dtype=torch.float64), 1, "expected torch.float32"),
        (
            torch.zeros(1, 1, 399),
            1,
            "Got 399 samples, too few for one frame; expected at least 400",
        ),
        (torch.zeros(1, 1, 16_000), 4, "Got layer 4; this model has layers 0 to 3"),
        (torch.zeros(1, 1, 16_000), -1, "Got layer -1"),
    ],
)
def test_wrong_samples_and_layers_are_refused(
    make_model: Make, samples: Tensor, layer: int, message: str
) -> None:
    extractor = TransformersFeatures(make_model("hubert"), normalize=True)
    with pytest.raises(ValueError, match=message):
        extractor.features(samples, layer)


def test_too_few_samples_for_two_spectra_are_refused(make_model: Make) -> None:
    extractor = TransformersFeatures(make_model("wav2vec2-bert"), normalize=True)
    with pytest.raises(ValueError, match="expected at least 560"):
        extractor.features(torch.zeros(1, 1, 559), 1)


def test_windows_shorter_than_a_second_are_refused(make_model: Make) -> None:
    with pytest.raises(ValueError, match=r"Got windows of 0\.5 s; expected 1 s or more"):
        TransformersFeatures(make_model("hubert"), normalize=True, window_seconds=0.5)


def test_checkpoints_that_cannot_be_used_are_refused(
    make_model: Make, save_model: Make, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import T5Config, Wav2Vec2FeatureExtractor

    with pytest.raises(ValueError, match="No such folder: nowhere"):
        load_features("nowhere")

    T5Config().save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="a model of type t5; expected one of: hubert, "):
        load_features(tmp_path / "t5")

    folder = save_model(make_model("hubert"), tmp_path / "hubert")
    Wav2Vec2FeatureExtractor(sampling_rate=8_000).save_pretrained(folder)
    with pytest.raises(ValueError, match="takes audio at 8000 Hz"):
        load_features(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"lacks preprocessor_config\.json"):
        load_features(folder)

    folder = save_model(make_model("hubert"), tmp_path / "hubert")
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layers.1.layer_norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"missing weights or .*: encoder.layers.1.layer_norm.weight"
    ):
        load_features(folder)
