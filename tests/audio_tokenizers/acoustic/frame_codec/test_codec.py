"""The frame codec's promises, at tiny size with filled codebooks."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_tokenizers.acoustic.frame_codec import (
    FrameCodec,
    FrameCodecConfig,
    load_frame_codec,
    save_frame_codec,
    tiny,
)
from audio_tokenizers.acoustic.frame_codec.phases import AHEAD, BLOCK, PhaseStream


def make_codec(seed: int = 0) -> FrameCodec:
    """Random weights, and codebooks of the size of the latents."""
    torch.manual_seed(seed)
    codec = FrameCodec(tiny()).eval()
    for layer in codec.quantizer.layers:
        layer._codebook.embed.normal_(std=0.3)
        layer._codebook.initted.fill_(True)
    return codec


CODEC = make_codec()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_full_size_is_9_million_weights_and_3_kilobits_a_second() -> None:
    codec = FrameCodec(FrameCodecConfig())
    size = sum(weight.numel() for weight in codec.inference_weights().values())
    assert 8.5e6 < size < 9e6
    assert (codec.sample_rate, codec.frame_rate) == (24_000, 25)
    assert codec.frame_rate * codec.num_codebooks * math.log2(codec.codebook_size) == 3000


@settings(deadline=None, derandomize=True, max_examples=15)
@given(N=st.integers(1, 100_000), B=st.integers(1, 3))
def test_any_length_is_restored_and_a_batch_equals_its_items(N: int, B: int) -> None:
    samples = noise(B, 1, N, seed=N)
    tokens = CODEC.encode(samples)
    assert tokens.shape == (B, 4, -(-N // 480))
    decoded = CODEC.decode(tokens, num_samples=N)
    assert decoded.shape == samples.shape
    assert torch.equal(CODEC.encode(samples[-1:]), tokens[-1:])
    assert torch.equal(CODEC.decode(tokens[-1:], num_samples=N), decoded[-1:])


@settings(deadline=None, derandomize=True, max_examples=15)
@given(N=st.integers(1, 30_000), sizes=st.lists(st.integers(0, 7000), min_size=1, max_size=8))
def test_a_stream_gives_the_bits_of_the_whole(N: int, sizes: list[int]) -> None:
    samples = noise(2, 1, N, seed=N)
    tokens = CODEC.encode(samples)
    encoder, decoder = CODEC.encoder_stream(), CODEC.decoder_stream()
    cuts = [*(min(N, cut) for cut in torch.tensor(sizes).cumsum(0).tolist()), N]
    pieces = [encoder.push(samples[:, :, a:b]) for a, b in zip([0, *cuts], cuts, strict=False)]
    assert torch.equal(torch.cat([*pieces, encoder.finish()], dim=2), tokens)

    size = sizes[0] % 9 + 1
    chunks = [decoder.push(chunk) for chunk in tokens.split(size, dim=2)]
    streamed = torch.cat([*chunks, decoder.finish()], dim=2)
    assert torch.equal(streamed, CODEC.decode(tokens))


def test_a_stream_of_nothing_gives_nothing() -> None:
    assert CODEC.encoder_stream().finish().shape == (1, 4, 0)
    assert CODEC.decoder_stream().finish().shape == (1, 1, 0)
    encoder = CODEC.encoder_stream()
    assert encoder.push(noise(2, 1, 0)).shape == (2, 4, 0)
    assert encoder.finish().shape == (2, 4, 0)


def test_the_decoder_holds_back_no_more_than_its_lookahead_and_a_block_of_phases() -> None:
    config = CODEC.config
    tokens = CODEC.encode(noise(1, 1, 48_000))
    decoder, given_out = CODEC.decoder_stream(), 0
    for frame in range(tokens.shape[2]):
        given_out += decoder.push(tokens[:, :, frame : frame + 1]).shape[2]
        spectra = (frame + 1 - config.lookahead) * config.spectra_per_frame - (BLOCK + AHEAD - 1)
        assert given_out >= spectra * config.spectrum_hop - CODEC.bands.margin
    assert given_out > 0.6 * 48_000


def test_the_state_of_a_stream_does_not_grow() -> None:
    def held(stream: object) -> int:
        tensors = [v for v in vars(stream).values() if isinstance(v, torch.Tensor)]
        tensors += vars(stream).get("state", [])
        return sum(t.untyped_storage().nbytes() for t in tensors)

    encoder, decoder, sizes = CODEC.encoder_stream(), CODEC.decoder_stream(), []
    for number in range(6):
        decoder.push(encoder.push(noise(1, 1, BLOCK * 480, seed=number)))  # two blocks of spectra
        sizes.append(held(encoder) + held(decoder) + held(decoder.phases))
    assert len(set(sizes[1:])) == 1
    assert sizes[-1] < 400_000


def test_samples_depend_on_no_later_token_beyond_the_lookahead_and_the_block() -> None:
    config = CODEC.config
    tokens = CODEC.encode(noise(1, 1, 24_000))
    changed = tokens.clone()
    changed[:, :, 30:] = (changed[:, :, 30:] + 1) % 64
    before, after = CODEC.decode(tokens), CODEC.decode(changed)
    first = (30 - config.lookahead) * config.spectra_per_frame
    settled = (first - AHEAD) // BLOCK * BLOCK
    safe = settled * config.spectrum_hop - CODEC.bands.margin
    assert torch.equal(before[:, :, :safe], after[:, :, :safe])
    assert not torch.equal(before[:, :, safe:], after[:, :, safe:])


def test_quantisation_finds_the_nearest_code_at_each_level() -> None:
    latents = noise(2, 11, 16, seed=3).mul(5)
    tokens = CODEC.quantize(latents, num_codebooks=4)
    residual = latents.double()
    for level, codebook in enumerate(CODEC.codebooks()):
        distances = torch.cdist(residual, codebook.double()[None].expand(2, -1, -1))
        assert torch.equal(distances.argmin(-1), tokens[:, level])
        residual = residual - codebook.double()[tokens[:, level]]


def test_quantisation_agrees_with_the_library_that_trains_it() -> None:
    latents = noise(2, 40, 16, seed=4).mul(5)
    quantised, tokens, _ = CODEC.quantizer(latents)
    ours = CODEC.quantize(latents, num_codebooks=4)
    assert torch.equal(ours, tokens.transpose(1, 2))
    torch.testing.assert_close(CODEC.dequantize(ours), quantised)


def test_the_training_pass_says_what_decoding_draws() -> None:
    samples = noise(2, 1, 480 * 30)
    with torch.no_grad():
        output = CODEC(samples)
        bands = CODEC.bands
        drawn_noise = bands.noise(first=0, num_spectra=60)
        said = output.levels, output.roughness, output.noisiness
        magnitudes = bands.magnitudes(*said, drawn_noise)
    assert {values.shape for values in said} == {(2, 60, 40)}
    assert torch.equal(output.true_levels, CODEC.levels(samples))
    assert output.true_roughness.shape == output.true_levels.shape == (2, 60, 40)
    phases = PhaseStream(bands.window, iterations=CODEC.config.phase_iterations)
    hops = torch.cat([phases.push(magnitudes, drawn_noise), phases.finish()], dim=1)
    expected = hops.flatten(1)[:, None, bands.margin : -bands.margin]
    decoded = CODEC.decode(CODEC.encode(samples))
    assert decoded.std() > 0.01
    # Phases are found by iteration, in which roundings grow.
    assert (decoded - expected).square().mean() < 1e-4 * expected.square().mean()


def test_the_training_pass_without_the_quantiser_leaves_the_latents_as_they_are() -> None:
    samples = noise(2, 1, 480 * 10)
    with torch.no_grad():
        output = CODEC(samples, quantize=False)
        levels, roughness, noisiness = CODEC.decoder(CODEC.encoder(CODEC.levels(samples)))
        quantised = CODEC(samples)
    assert torch.equal(output.levels, levels)
    assert torch.equal(output.roughness, roughness)
    assert torch.equal(output.noisiness, noisiness)
    assert output.commitment == 0
    assert not torch.equal(quantised.levels, levels)


def test_tokens_that_are_taken_as_they_are_teach_the_decoder_alone() -> None:
    codec = make_codec().train()
    before = [codebook.clone() for codebook in codec.codebooks()]
    samples = noise(2, 1, 480 * 10)
    output = codec(samples, num_codebooks=2)
    (output.levels - output.true_levels).abs().mean().backward()
    with torch.no_grad():
        levels, *_ = codec.decoder(codec.dequantize(codec.encode(samples, num_codebooks=2)))
    torch.testing.assert_close(output.levels, levels, atol=1e-4, rtol=0)
    assert output.commitment == 0
    assert all(weight.grad is None for weight in codec.encoder.parameters())
    assert all(weight.grad is not None for weight in codec.decoder.parameters())
    for codebook, kept in zip(codec.codebooks(), before, strict=True):
        assert torch.equal(codebook, kept)


def test_levels_stay_within_what_sound_can_be_and_textures_are_shares() -> None:
    levels, roughness, noisiness = CODEC.decoder(100 * noise(1, 20, 16))
    assert levels.min() >= math.log(1e-3) - 1e-5
    assert levels.max() <= 4
    for texture in (roughness, noisiness):
        assert texture.min() >= 0
        assert texture.max() <= 1


def test_fewer_codebooks_are_a_prefix_and_decode() -> None:
    samples = noise(1, 1, 9000)
    tokens = CODEC.encode(samples)
    for books in (1, 2, 3):
        assert torch.equal(CODEC.encode(samples, num_codebooks=books), tokens[:, :books])
        assert CODEC.decode(tokens[:, :books]).shape == (1, 1, 9120)


def test_training_steps_lower_the_error() -> None:
    torch.manual_seed(0)
    codec = FrameCodec(tiny()).train()
    time = torch.arange(480 * 32) / 24_000
    samples = 0.3 * torch.sin(2 * torch.pi * torch.tensor([[220.0], [440.0]]) * time)[:, None]
    optimizer = torch.optim.Adam(codec.parameters(), lr=3e-3)

    errors = []
    for step in range(40):
        output = codec(samples, quantize=step >= 10)
        loss = (output.levels - output.true_levels).abs().mean()
        optimizer.zero_grad()
        (loss + 0.1 * output.commitment).backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.3 * errors[0]
    gradients = [weight.grad for weight in codec.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in gradients)
    # The texture of bands is not learned from how loud they are.
    of_levels, *of_texture = codec.decoder.head.weight.grad.unflatten(0, (2, 3, 40)).unbind(1)
    assert of_levels.count_nonzero() > 0
    assert all(gradient.count_nonzero() == 0 for gradient in of_texture)


@pytest.mark.parametrize("half", [False, True])
def test_a_saved_codec_reads_back_the_same(tmp_path: Path, half: bool) -> None:
    save_frame_codec(CODEC, tmp_path, half=half)
    again = load_frame_codec(tmp_path)
    samples = noise(1, 1, 5000)
    if half:
        assert (tmp_path / "model.safetensors").stat().st_size < 2.2 * sum(
            weight.numel() for weight in CODEC.inference_weights().values()
        )
        assert (again.encode(samples) == CODEC.encode(samples)).float().mean() > 0.9
    else:
        assert torch.equal(again.encode(samples), CODEC.encode(samples))
        assert torch.equal(again.decode(again.encode(samples)), CODEC.decode(CODEC.encode(samples)))
        assert again.identity == CODEC.identity


def test_what_makes_other_tokens_has_another_identity_and_a_better_decoder_has_not() -> None:
    codec = make_codec(1)
    before = codec.identity
    assert before != CODEC.identity
    with torch.no_grad():
        codec.decoder.head.bias[3] += 1
        assert codec.identity == before
        codec.encoder.project.bias[3] += 1
    assert codec.identity != before


def test_missing_weights_are_named(tmp_path: Path) -> None:
    save_frame_codec(CODEC, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "decoder_layers": 3}))
    with pytest.raises(ValueError, match=r"missing or unexpected weights: decoder.stack.blocks.2"):
        load_frame_codec(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "code_width": 8}))
    with pytest.raises(ValueError, match=r"shapes that do not match config.json: decoder.stack"):
        load_frame_codec(tmp_path)


def test_bad_input_gets_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"Got 2 channels; this codec takes 1"):
        CODEC.encode(noise(1, 2, 100))
    with pytest.raises(ValueError, match=r"Got 5 codebooks; this codec decodes 1 to 4"):
        CODEC.decode(torch.zeros(1, 5, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"num_codebooks=5"):
        CODEC.encode(noise(1, 1, 100), num_codebooks=5)
    stream = CODEC.decoder_stream()
    stream.push(torch.zeros(1, 4, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"Got a batch of 2; this stream began with a batch of 1"):
        stream.push(torch.zeros(2, 4, 3, dtype=torch.int64))
    stream.finish()
    with pytest.raises(ValueError, match=r"stream has already ended"):
        stream.finish()
    with pytest.raises(ValueError, match=r"hop_length must be a multiple of 4, .* got 482"):
        dataclasses.replace(tiny(), hop_length=482)
    with pytest.raises(ValueError, match=r"lookahead must be from 0 to kernel_size - 1 = 6, got 7"):
        dataclasses.replace(tiny(), lookahead=7)


def test_bands_that_no_bins_can_fill_are_refused() -> None:
    for bands in ({"linear_bands": 1}, {"linear_bands": 40}, {"num_bands": 481}):
        with pytest.raises(ValueError, match=r"2 <= linear_bands < num_bands <= 480, the number"):
            dataclasses.replace(tiny(), **bands)
    with pytest.raises(ValueError, match=r"linear_bands=8 and num_bands=128, which make bands nar"):
        dataclasses.replace(tiny(), linear_bands=8, num_bands=128)
    with pytest.raises(ValueError, match=r"increase linear_bands or decrease num_bands"):
        dataclasses.replace(tiny(), linear_bands=24, num_bands=96)
    narrowest = FrameCodec(dataclasses.replace(tiny(), linear_bands=24, num_bands=95))
    assert narrowest.bands.measure.isfinite().all()


def test_truth_does_not_depend_on_what_a_training_step_computes_in() -> None:
    samples = noise(2, 1, 480 * 10)
    with torch.no_grad():
        whole = CODEC(samples)
        with torch.autocast("cpu", torch.bfloat16):
            half = CODEC(samples)
    assert not torch.equal(half.levels, whole.levels)
    assert torch.equal(half.true_levels, whole.true_levels)
    assert torch.equal(half.true_roughness, whole.true_roughness)


def test_latents_lie_between_samples_and_tokens() -> None:
    samples = noise(2, 1, 9000)
    latents = CODEC.latents(samples)
    assert latents.shape == (2, CODEC.latent_size, -(-9000 // 480))
    tokens = CODEC.encode(samples)
    assert torch.equal(CODEC.tokens_of(latents), tokens)
    assert torch.equal(CODEC.tokens_of(latents, num_codebooks=2), tokens[:, :2])
    decoded = CODEC.decode(tokens, num_samples=9000)
    assert torch.equal(CODEC.decode_latents(CODEC.latents_of(tokens), num_samples=9000), decoded)
    with pytest.raises(ValueError, match=r"expected \[B, \d+, T\]"):
        CODEC.decode_latents(latents[:, :-1])


def test_latents_of_pieces_are_those_of_the_whole() -> None:
    samples = noise(1, 1, 5000)
    stream = CODEC.latent_stream()
    pieces = [stream.push(piece) for piece in samples.split([10, 0, 3000, 1990], dim=2)]
    assert torch.equal(torch.cat([*pieces, stream.finish()], dim=2), CODEC.latents(samples))
    empty = CODEC.latent_stream().finish()
    assert (empty.shape, empty.dtype) == ((1, CODEC.latent_size, 0), torch.float32)
