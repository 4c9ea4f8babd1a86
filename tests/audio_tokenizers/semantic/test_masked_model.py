"""The masked audio model and how it learns, at tiny size."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_tokenizers.semantic.masked_model import (
    MaskedAudioModel,
    MaskedModelConfig,
    load_masked_model,
    save_masked_model,
    tiny,
)
from audio_tokenizers.semantic.masked_prediction import (
    MaskedPrediction,
    PredictionConfig,
    measure_patches,
    span_mask,
)

TINY_PREDICTION = PredictionConfig(num_codebooks=2, codebook_size=16, code_width=8)


def make_model(**changes: object) -> MaskedAudioModel:
    torch.manual_seed(0)
    return MaskedAudioModel(dataclasses.replace(tiny(), **changes)).eval()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_full_size_is_within_25_million_parameters_at_25_hz() -> None:
    model = MaskedAudioModel(MaskedModelConfig())
    assert 15e6 < sum(p.numel() for p in model.parameters()) < 25e6
    assert model.frame_rate == 25


@settings(deadline=None, derandomize=True, max_examples=15)
@given(N=st.integers(1, 50_000), C=st.integers(1, 2))
def test_any_length_gives_its_frames_and_a_batch_equals_its_items(N: int, C: int) -> None:
    model = make_model()
    samples = noise(2, C, N, seed=N)
    features = model.features(samples, 2)
    assert features.shape == (2, -(-N // 960), 32)
    torch.testing.assert_close(model.features(samples[1:], 2), features[1:], atol=1e-5, rtol=1e-4)


def test_patches_follow_the_definition_of_a_mel_spectrogram() -> None:
    model = make_model()
    samples = noise(1, 1, 9600)
    padded = torch.nn.functional.pad(samples[0, 0], (360, 360))
    spectrum = torch.stft(
        padded, 960, 240, window=torch.hann_window(960), center=False, return_complex=True
    ).abs()
    mels = (model.filterbank @ spectrum[:-1]).clamp(min=1e-5).log().T  # [J, mels]
    expected = (mels.reshape(10, 80) + 4) / 3
    torch.testing.assert_close(model.patches(samples)[0], expected, atol=1e-4, rtol=1e-4)


def test_layers_follow_one_another() -> None:
    model, samples = make_model(), noise(1, 1, 24_000)
    embedded = model.embed(model.patches(samples))
    assert torch.equal(model.features(samples, 0), embedded)
    first = model.features(samples, 1)
    angles = torch.arange(25)[:, None] * (10_000 ** (-torch.arange(0, 16, 2) / 16))
    torch.testing.assert_close(model.blocks[1](first, angles), model.features(samples, 2))


def test_a_model_cut_after_a_layer_has_the_same_features_and_half_the_weights() -> None:
    whole = make_model(num_layers=4)
    part = whole.up_to(2)
    samples = noise(1, 1, 9000)
    assert torch.equal(part.features(samples, 2), whole.features(samples, 2))
    assert (part.num_layers, len(part.blocks)) == (2, 2)
    assert part.identity != whole.identity
    with pytest.raises(ValueError, match="layer"):
        whole.up_to(5)


def test_attention_sees_distances_only() -> None:
    model = make_model()
    x = torch.randn(1, 12, 32)
    far = torch.arange(100, 112)[:, None] * (10_000 ** (-torch.arange(0, 16, 2) / 16))
    near = far - far[:1] + 0
    torch.testing.assert_close(model.blocks[0](x, far), model.blocks[0](x, near), atol=1e-4, rtol=0)


def test_long_audio_is_seen_in_windows_close_to_the_whole() -> None:
    samples = noise(1, 1, 24_000 * 6)
    whole = make_model().features(samples, 2)
    windowed = make_model(window_seconds=2.0).features(samples, 2)
    assert windowed.shape == whole.shape
    assert not torch.equal(windowed, whole)
    error = (windowed - whole).square().mean() / whole.var()
    assert error < 0.05
    pieces = list(make_model(window_seconds=2.0).feature_windows(samples, 2))
    assert len(pieces) > 2
    assert torch.equal(torch.cat(pieces, dim=1), windowed)


def test_masks_cover_the_wanted_share_in_spans() -> None:
    mask = span_mask(64, 500, share=0.4, span=8, generator=torch.Generator().manual_seed(0))
    assert abs(mask.float().mean().item() - 0.4) < 0.03
    edges = mask[:, 8:].float().diff(dim=1)
    runs = mask[:, 8:].sum() / (edges == 1).sum()
    assert runs > 8
    assert span_mask(5, 3, share=0.1, span=8).any(1).all()


def test_what_is_behind_the_mask_does_not_reach_the_prediction() -> None:
    prediction = MaskedPrediction(make_model(), TINY_PREDICTION).eval()
    samples = noise(1, 1, 24_000)
    result = prediction(samples, generator=torch.Generator().manual_seed(1))
    hidden = torch.zeros_like(samples)
    for frame in result.mask[0].nonzero()[:, 0].tolist():
        hidden[0, 0, frame * 960 : (frame + 1) * 960] = 0.3
    # Windows reach 360 samples beyond a frame: compare targets of frames well inside the rest.
    changed = prediction(samples + hidden, generator=torch.Generator().manual_seed(1))
    unseen = torch.nn.functional.max_pool1d(result.mask[:, None].float(), 3, 1, 1)[:, 0] == 0
    assert torch.equal(result.targets[unseen], changed.targets[unseen])
    assert not torch.equal(result.targets[result.mask], changed.targets[result.mask])


def test_targets_use_the_codebook_and_never_change() -> None:
    prediction = MaskedPrediction(make_model(), TINY_PREDICTION)
    samples = noise(4, 1, 48_000)
    measure_patches(prediction.model, [samples])
    before = prediction(samples).targets
    for _ in range(3):
        prediction(noise(4, 1, 48_000, seed=9)).loss.backward()
    assert torch.equal(prediction(samples).targets, before)
    assert len(before.unique()) == 16


def test_measured_patches_are_standardised() -> None:
    model = make_model()
    batches = [noise(2, 1, 48_000, seed=s) * 3 for s in range(3)]
    measure_patches(model, batches)
    patches = torch.cat([model.patches(b).flatten(0, 1) for b in batches])
    torch.testing.assert_close(patches.mean(0), torch.zeros(80), atol=1e-4, rtol=0)
    torch.testing.assert_close(patches.std(0), torch.ones(80), atol=1e-3, rtol=0)


def test_training_steps_beat_chance() -> None:
    torch.manual_seed(0)
    prediction = MaskedPrediction(make_model(), TINY_PREDICTION).train()
    time = torch.arange(48_000) / 24_000
    tones = torch.tensor([[200.0], [500.0], [1200.0], [3000.0]])
    samples = (0.3 * torch.sin(2 * torch.pi * tones * time) + 0.1 * noise(4, 48_000))[:, None]
    measure_patches(prediction.model, [samples])
    optimizer = torch.optim.Adam(prediction.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(60):
        result = prediction(samples, generator=generator)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(result.loss.item())
    assert losses[0] > 2.5  # log 16 = 2.77 is chance
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]


@pytest.mark.parametrize("half", [False, True])
def test_a_saved_model_reads_back_the_same(tmp_path: Path, half: bool) -> None:
    model, samples = make_model(), noise(1, 1, 24_000)
    save_masked_model(model, tmp_path, half=half)
    again = load_masked_model(tmp_path)
    tolerance = 1e-2 if half else 0.0
    torch.testing.assert_close(
        again.features(samples, 2), model.features(samples, 2), atol=tolerance, rtol=0
    )
    assert (again.identity == model.identity) is not half


def test_bad_input_gets_one_sentence(tmp_path: Path) -> None:
    model = make_model()
    with pytest.raises(ValueError, match=r"Got layer 3; this model has layers 0 to 2"):
        model.features(noise(1, 1, 100), 3)
    with pytest.raises(ValueError, match=r"expected \[B, C, N\]"):
        model.features(noise(1, 100), 1)
    with pytest.raises(ValueError, match=r"width must be a multiple of 4, .* got 33"):
        dataclasses.replace(tiny(), width=33)
    save_masked_model(model, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(ValueError, match=r"is not a masked-audio-model; check"):
        load_masked_model(tmp_path)
