"""The frame codec's promises, at tiny size with filled codebooks."""

import dataclasses
import json
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


def make_codec(seed: int = 0) -> FrameCodec:
    """Random weights, codebooks of the size of the latents, and noise that can be heard."""
    torch.manual_seed(seed)
    codec = FrameCodec(tiny()).eval()
    for layer in codec.quantizer.layers:
        layer._codebook.embed.normal_(std=0.3)
        layer._codebook.initted.fill_(True)
    return codec


CODEC = make_codec()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_full_size_is_within_15_million_parameters() -> None:
    codec = FrameCodec(FrameCodecConfig())
    size = sum(weight.numel() for weight in codec.inference_weights().values())
    assert 10e6 < size < 15e6
    assert (codec.sample_rate, codec.frame_rate, codec.num_codebooks) == (24_000, 50, 8)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(N=st.integers(1, 100_000), B=st.integers(1, 3))
def test_any_length_is_restored_and_a_batch_equals_its_items(N: int, B: int) -> None:
    samples = noise(B, 1, N, seed=N)
    tokens = CODEC.encode(samples)
    assert tokens.shape == (B, 4, -(-N // 480))
    decoded = CODEC.decode(tokens, num_samples=N)
    assert decoded.shape == samples.shape
    assert torch.equal(CODEC.encode(samples[-1:]), tokens[-1:])
    assert torch.equal(CODEC.decode(tokens[-1:], num_samples=N), decoded[-1:])


@settings(deadline=None, derandomize=True, max_examples=30)
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


def test_the_decoder_holds_back_no_more_than_its_lookahead() -> None:
    tokens = CODEC.encode(noise(1, 1, 48_000))
    decoder, given_out = CODEC.decoder_stream(), 0
    for frame in range(tokens.shape[2]):
        given_out += decoder.push(tokens[:, :, frame : frame + 1]).shape[2]
        assert given_out >= (frame + 1 - CODEC.config.lookahead - 1) * CODEC.hop_length


def test_the_state_of_a_stream_does_not_grow() -> None:
    def held(stream: object) -> int:
        tensors = [v for v in vars(stream).values() if isinstance(v, torch.Tensor)]
        tensors += vars(stream)["state"]
        return sum(t.untyped_storage().nbytes() for t in tensors)

    encoder, decoder, sizes = CODEC.encoder_stream(), CODEC.decoder_stream(), []
    for number in range(6):
        decoder.push(encoder.push(noise(1, 1, 4_800, seed=number)))
        sizes.append(held(encoder) + held(decoder))
    assert len(set(sizes[1:])) == 1
    assert sizes[-1] < 200_000


def test_samples_depend_on_no_later_token_beyond_the_lookahead() -> None:
    tokens = CODEC.encode(noise(1, 1, 24_000))
    changed = tokens.clone()
    changed[:, :, 30:] = (changed[:, :, 30:] + 1) % 64
    before, after = CODEC.decode(tokens), CODEC.decode(changed)
    safe = (30 - CODEC.config.lookahead - 1) * CODEC.hop_length
    assert torch.equal(before[:, :, :safe], after[:, :, :safe])
    assert not torch.equal(before, after)


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


def test_the_training_pass_reconstructs_as_decoding_does() -> None:
    samples = noise(2, 1, 480 * 30)
    with torch.no_grad():
        output = CODEC(samples, noise_starts=(0, 1000, None))
    decoded = CODEC.decode(CODEC.encode(samples))
    torch.testing.assert_close(output.reconstructions[0], decoded, atol=1e-4, rtol=0)
    other, tonal = output.reconstructions[1:]
    assert (other - decoded).std() > 1.2 * (tonal - decoded).std() > 0


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

    def log_error(answer: torch.Tensor) -> torch.Tensor:
        spectra = [torch.stft(x[:, 0], 512, 128, window=torch.hann_window(512), return_complex=True)
                   for x in (answer, samples)]  # fmt: skip
        return (spectra[0].abs() + 1e-2).log().sub((spectra[1].abs() + 1e-2).log()).abs().mean()

    errors = []
    for step in range(40):
        output = codec(samples, quantize=step >= 10)
        loss = log_error(output.reconstructions[0]) + 0.1 * output.commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.6 * errors[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in codec.parameters())


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


def test_other_weights_have_another_identity() -> None:
    codec = make_codec(1)
    before = codec.identity
    assert before != CODEC.identity
    with torch.no_grad():
        codec.decoder.head.bias[3] += 1
    assert codec.identity != before
    codec.load_state_dict(CODEC.state_dict())
    assert codec.identity == CODEC.identity
    codec.train()
    codec(noise(2, 1, 480 * 64))  # updates the codebooks, past any version counter
    assert codec.identity != CODEC.identity


def test_missing_weights_are_named(tmp_path: Path) -> None:
    save_frame_codec(CODEC, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "decoder_layers": 3}))
    with pytest.raises(ValueError, match=r"missing or unexpected weights: decoder.stack.blocks.2"):
        load_frame_codec(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "code_width": 8}))
    with pytest.raises(
        ValueError, match=r"of a shape that config.json does not give: decoder.stack"
    ):
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
    with pytest.raises(ValueError, match=r"stream that has ended"):
        stream.finish()
    with pytest.raises(ValueError, match=r"hop_length 482 does not divide"):
        dataclasses.replace(tiny(), hop_length=482)
    with pytest.raises(ValueError, match=r"lookahead 7"):
        dataclasses.replace(tiny(), lookahead=7)
