from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DacFeatureExtractor, DacModel

from audio_tokenizers.acoustic.dac import DacTokenizer, load_dac

MakeDac = Callable[..., DacModel]
RATES = {16_000: (320, 12), 24_000: (320, 32), 44_100: (512, 9)}


@pytest.fixture(scope="module")
def tokenizer(make_dac: MakeDac) -> DacTokenizer:
    return DacTokenizer(make_dac(24_000))


def waveform(num_samples: int, *, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_samples)
    return torch.randn((batch, 1, num_samples), generator=generator) * 0.3


@pytest.mark.parametrize("sample_rate", RATES)
@pytest.mark.parametrize("batch", [1, 3])
def test_tokens_and_samples_are_those_of_transformers(
    make_dac: MakeDac, sample_rate: int, batch: int
) -> None:
    model = make_dac(sample_rate)
    tokenizer = DacTokenizer(make_dac(sample_rate))
    hop_length, num_codebooks = RATES[sample_rate]
    assert (tokenizer.hop_length, tokenizer.num_codebooks) == (hop_length, num_codebooks)
    assert tokenizer.sample_rate == sample_rate
    assert tokenizer.frame_rate == sample_rate / hop_length
    assert (tokenizer.codebook_size, tokenizer.num_channels) == (1024, 1)

    samples = waveform(5_001, batch=batch)
    extract = DacFeatureExtractor(sampling_rate=sample_rate, hop_length=hop_length)
    padded = extract(
        [wave[0].numpy() for wave in samples], sampling_rate=sample_rate, return_tensors="pt"
    )["input_values"]
    for K in (1, 4, num_codebooks):
        with torch.no_grad():
            codes = model.encode(padded, n_quantizers=K).audio_codes
            decoded = model.decode(audio_codes=codes).audio_values
        tokens = tokenizer.encode(samples, num_codebooks=K)
        assert torch.equal(tokens, codes)
        assert len(tokens.unique()) > 5
        ours = tokenizer.decode(tokens)
        assert ours.shape == (batch, 1, tokens.shape[2] * hop_length)
        num_samples = decoded.shape[-1]
        assert torch.equal(ours[:, 0, :num_samples], decoded.reshape(batch, num_samples))
        assert not ours[..., num_samples:].any()


@given(num_samples=st.integers(1, 3_000), num_codebooks=st.integers(1, 32))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_any_length_is_restored_from_any_number_of_codebooks(
    tokenizer: DacTokenizer, num_samples: int, num_codebooks: int
) -> None:
    samples = waveform(num_samples)
    tokens = tokenizer.encode(samples, num_codebooks=num_codebooks)
    assert tokens.shape == (1, num_codebooks, -(-num_samples // 320))
    assert tokenizer.decode(tokens, num_samples=num_samples).shape == samples.shape
    assert tokenizer.gains(samples) is None


def test_a_saved_folder_is_loaded_and_has_the_same_identity(
    make_dac: MakeDac, tmp_path: Path
) -> None:
    model = make_dac(16_000)
    model.save_pretrained(tmp_path)
    loaded, built = load_dac(tmp_path), DacTokenizer(model)
    assert loaded.identity == built.identity
    assert loaded.identity != DacTokenizer(make_dac(24_000)).identity
    samples = waveform(4_000)
    assert torch.equal(loaded.encode(samples), built.encode(samples))


def test_a_folder_of_another_model_or_with_missing_weights_is_refused(
    make_dac: MakeDac, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    make_dac(16_000).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["encoder.conv1.bias"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r": missing or unexpected weights: encoder.conv1.bias"):
        load_dac(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mimi"}')
    with pytest.raises(ValueError, match="a model of type mimi; expected type dac"):
        load_dac(tmp_path)


def test_a_folder_in_half_precision_is_read_in_full_precision(
    make_dac: MakeDac, tmp_path: Path
) -> None:
    model = make_dac(16_000).half()
    model.save_pretrained(tmp_path)
    loaded, widened = load_dac(tmp_path), DacTokenizer(model.float())
    assert loaded.identity == widened.identity
    samples = waveform(4_000)
    tokens = loaded.encode(samples)
    assert torch.equal(tokens, widened.encode(samples))
    assert torch.equal(loaded.decode(tokens), widened.decode(tokens))


def test_wrong_input_is_refused_in_one_sentence(tokenizer: DacTokenizer) -> None:
    tokens = torch.zeros(1, 2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="Got 2 channels; this codec takes 1"):
        tokenizer.encode(torch.zeros(1, 2, 400))
    with pytest.raises(ValueError, match="num_codebooks=33; this codec takes 1 to 32"):
        tokenizer.encode(torch.zeros(1, 1, 400), num_codebooks=33)
    with pytest.raises(ValueError, match="Got tokens from 1024 to 1024"):
        tokenizer.decode(tokens + 1024)
    with pytest.raises(ValueError, match="num_samples=961; these tokens decode to 1 to 960"):
        tokenizer.decode(tokens, num_samples=961)
    with pytest.raises(ValueError, match="does not normalise its input"):
        tokenizer.decode(tokens, gains=torch.ones(1, 1))


def test_a_moved_tokenizer_computes_where_it_was_moved(make_dac: MakeDac) -> None:
    assert DacTokenizer(make_dac(16_000)).to("meta").model.device.type == "meta"
