import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MimiModel

from audio_tokenizers.acoustic.mimi import MimiTokenizer, load_mimi, rotate, window_mask

MakeMimi = Callable[..., MimiModel]
HAS_WINDOW = int(transformers.__version__.split(".")[0]) >= 5


@pytest.fixture(scope="module")
def tokenizer(make_mimi: MakeMimi) -> MimiTokenizer:
    return MimiTokenizer(make_mimi())


def waveform(num_samples: int, *, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_samples)
    return torch.randn((batch, 1, num_samples), generator=generator) * 0.3


def test_a_tokenizer_tells_its_rates_and_sizes(tokenizer: MimiTokenizer) -> None:
    assert (tokenizer.sample_rate, tokenizer.hop_length) == (24_000, 1_920)
    assert tokenizer.frame_rate == 12.5
    assert (tokenizer.num_codebooks, tokenizer.codebook_size) == (32, 128)
    assert tokenizer.num_channels == 1


# In a window of 10 steps, 5 frames: within it, and beyond it, where only transformers 5 has it.
@pytest.mark.parametrize("num_samples", [
    1, 5_001, 9_600,
    pytest.param(30_001, marks=pytest.mark.skipif(not HAS_WINDOW, reason="has no window")),
])  # fmt: skip
@pytest.mark.parametrize("batch", [1, 2])
def test_tokens_and_samples_are_those_of_transformers(
    make_mimi: MakeMimi, tokenizer: MimiTokenizer, num_samples: int, batch: int
) -> None:
    model = make_mimi()
    samples = waveform(num_samples, batch=batch)
    for K in (1, 2, 32):
        with torch.no_grad():
            codes = model.encode(samples, num_quantizers=K).audio_codes
            decoded = model.decode(codes).audio_values
        tokens = tokenizer.encode(samples, num_codebooks=K)
        assert torch.equal(tokens, codes)
        assert torch.equal(tokenizer.decode(tokens), decoded)


def test_steps_beyond_the_window_have_no_effect(make_mimi: MakeMimi) -> None:
    # One layer, or each further one would add a window. 20 frames = 40 steps, 10 in the window.
    tokenizer = MimiTokenizer(make_mimi(num_hidden_layers=1))
    tokens = torch.randint(128, (1, 4, 20), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[..., 0] = (changed[..., 0] + 1) % 128
    whole, other = tokenizer.decode(tokens), tokenizer.decode(changed)
    assert not torch.equal(whole[..., :1_920], other[..., :1_920])
    assert torch.equal(whole[..., 15 * 1_920 :], other[..., 15 * 1_920 :])


def test_the_first_book_is_the_same_whatever_follows_it(tokenizer: MimiTokenizer) -> None:
    samples = waveform(20_000)
    tokens = tokenizer.encode(samples)
    assert torch.equal(tokens[:, :1], tokenizer.encode(samples, num_codebooks=1))
    assert all(len(book.unique()) > 3 for book in tokens[0])


@given(num_samples=st.integers(1, 10_000), num_codebooks=st.integers(1, 32))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_any_length_is_restored_from_any_number_of_codebooks(
    tokenizer: MimiTokenizer, num_samples: int, num_codebooks: int
) -> None:
    samples = waveform(num_samples)
    tokens = tokenizer.encode(samples, num_codebooks=num_codebooks)
    assert tokens.shape == (1, num_codebooks, -(-num_samples // 1_920))
    assert tokenizer.decode(tokens, num_samples=num_samples).shape == samples.shape
    assert tokenizer.gains(samples) is None


def test_a_saved_folder_is_loaded_and_has_the_same_identity(
    make_mimi: MakeMimi, tmp_path: Path
) -> None:
    model = make_mimi(num_quantizers=4)
    model.save_pretrained(tmp_path)
    loaded, built = load_mimi(tmp_path), MimiTokenizer(model)
    assert loaded.identity == built.identity
    assert loaded.identity != MimiTokenizer(make_mimi(num_quantizers=4, norm_eps=1e-3)).identity
    samples = waveform(4_000)
    assert torch.equal(loaded.encode(samples), built.encode(samples))


def test_a_folder_of_another_model_or_with_missing_weights_is_refused(
    make_mimi: MakeMimi, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    make_mimi(num_quantizers=4).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    name = next(name for name in state if name.endswith("fc1.weight"))
    del state[name]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r": missing or unexpected weights: \S*fc1.weight"):
        load_mimi(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "dac"}')
    with pytest.raises(ValueError, match="a model of type dac; expected type mimi"):
        load_mimi(tmp_path)


@pytest.mark.parametrize("settings", [
    {"rope_theta": 500.0}, {"sliding_window": 11}, {"hidden_act": "relu"}, {"norm_eps": 1e-3},
    {"upsampling_ratios": [4, 5, 6, 8]}, {"dilation_growth_rate": 3}, {"pad_mode": "replicate"},
    {"sampling_rate": 16_000, "frame_rate": 16_000 / 1_920},
    {"num_attention_heads": 2, "head_dim": 16, "num_key_value_heads": 2},
])  # fmt: skip
def test_models_of_equal_weights_and_unlike_settings_have_unlike_identities(
    make_mimi: MakeMimi, settings: dict[str, object]
) -> None:
    one, other = MimiTokenizer(make_mimi()), MimiTokenizer(make_mimi(**settings))
    if "upsampling_ratios" not in settings:
        other.model.load_state_dict(one.model.state_dict())
    assert other.identity != one.identity
    assert MimiTokenizer(make_mimi()).identity == one.identity


def test_rotary_positions_of_another_type_are_refused(make_mimi: MakeMimi) -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    name = "rope_parameters" if HAS_WINDOW else "rope_scaling"
    model = make_mimi(**{name: {**scaling, "rope_theta": 10_000.0}})
    with pytest.raises(ValueError, match="positions of type linear; expected default"):
        MimiTokenizer(model)


def test_a_folder_in_half_precision_is_read_in_full_precision(
    make_mimi: MakeMimi, tmp_path: Path
) -> None:
    model = make_mimi(num_quantizers=4).half()
    model.save_pretrained(tmp_path)
    fresh = make_mimi(num_quantizers=4)  # `float` would leave rotary frequencies rounded
    fresh.load_state_dict(model.state_dict())
    loaded, widened = load_mimi(tmp_path), MimiTokenizer(fresh)
    assert loaded.identity == widened.identity
    samples = waveform(4_000)
    tokens = loaded.encode(samples)
    assert torch.equal(tokens, widened.encode(samples))
    assert torch.equal(loaded.decode(tokens), widened.decode(tokens))


def test_wrong_input_is_refused_in_one_sentence(tokenizer: MimiTokenizer) -> None:
    tokens = torch.zeros(1, 2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="Got 2 channels; this codec takes 1"):
        tokenizer.encode(torch.zeros(1, 2, 400))
    with pytest.raises(ValueError, match="num_codebooks=33; this codec takes 1 to 32"):
        tokenizer.encode(torch.zeros(1, 1, 400), num_codebooks=33)
    with pytest.raises(ValueError, match="Got tokens from 128 to 128"):
        tokenizer.decode(tokens + 128)
    with pytest.raises(ValueError, match="num_samples=5761; these tokens decode to 1 to 5760"):
        tokenizer.decode(tokens, num_samples=5_761)
    with pytest.raises(ValueError, match="does not normalise its input"):
        tokenizer.decoder_stream(gains=torch.ones(1, 1))


def test_a_moved_tokenizer_leaves_no_codebook_behind(make_mimi: MakeMimi) -> None:
    tokenizer = MimiTokenizer(copy.deepcopy(make_mimi(num_quantizers=4)))
    tokenizer.encode(waveform(2_000))
    tokenizer.to("meta")
    books = [m for m in tokenizer.model.modules() if hasattr(m, "embed_sum")]
    assert books
    assert all(book.embed.device.type == "meta" for book in books)


def test_a_window_shows_each_step_itself_and_those_just_before_it() -> None:
    steps = torch.arange(4)
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert window_mask(steps, steps, window=2).int().tolist() == expected


def test_a_rotation_turns_pairs_by_angles() -> None:
    x = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)
    angle = torch.tensor(torch.pi / 2).expand(1, 1, 2)
    turned = rotate(x, angle.cos(), angle.sin())
    torch.testing.assert_close(turned.flatten(), torch.tensor([-4.0, 3.0]))
