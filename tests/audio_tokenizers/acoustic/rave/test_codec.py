"""RAVE as a codec: whole calls and streams agree to the bit, files come back, latents change it."""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from audio_tokenizers.acoustic.rave import VARIANTS, RaveCodec, RaveConfig, load_rave
from audio_tokenizers.acoustic.registry import load_codec, save_codec
from audio_tokenizers.protocol import LatentCodec

KINDS: dict[str, dict[str, Any]] = {
    "centred": {},
    "causal": {"causal": True},
    "stereo": {"num_channels": 2, "noise_amplitudes": 0},
    "discrete": {"bottleneck": "discrete", "quantised_dims": 8, "noise_channels": 8},
    "causal-discrete": {
        "causal": True,
        "bottleneck": "discrete",
        "quantised_dims": 8,
        "noise_channels": 8,
    },
}


@pytest.fixture(scope="module", params=KINDS)
def codec(request: pytest.FixtureRequest, make_rave: Any) -> RaveCodec:
    return make_rave(**KINDS[request.param])


def sound(codec: RaveCodec, num_samples: int, *, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(num_samples)
    return 0.3 * torch.randn(batch, codec.num_channels, num_samples, generator=generator)


def pieces(x: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    start = 0
    for size in cycle(sizes):
        if start >= x.shape[2]:
            return
        yield x[..., start : start + size]
        start += size


def through(stream: Any, x: Tensor, sizes: list[int]) -> Tensor:
    return torch.cat([*map(stream.push, pieces(x, sizes)), stream.finish()], dim=2)


@pytest.mark.parametrize("sizes", [[1, 200, 0, 129], [128], [512], [3000, 7]])
def test_streams_give_the_bits_of_whole_calls(codec: RaveCodec, sizes: list[int]) -> None:
    samples = sound(codec, 9_000)
    latents, tokens = codec.latents(samples), codec.encode(samples)
    assert torch.equal(through(codec.latent_stream(), samples, sizes), latents)
    assert torch.equal(through(codec.encoder_stream(), samples, sizes), tokens)
    frames = [max(1, size // 128) for size in sizes]
    assert torch.equal(
        through(codec.sample_stream(), latents, frames), codec.decode_latents(latents)
    )
    assert torch.equal(through(codec.decoder_stream(), tokens, frames), codec.decode(tokens))


def test_latents_of_tokens_decode_as_the_tokens(codec: RaveCodec) -> None:
    samples = sound(codec, 3_000)
    tokens, latents = codec.encode(samples), codec.latents(samples)
    assert torch.equal(codec.tokens_of(latents), tokens)
    assert torch.equal(codec.tokens_of(latents, num_codebooks=2), tokens[:, :2])
    meant = codec.latents_of(tokens)
    assert meant.shape == latents.shape
    assert torch.equal(codec.decode_latents(meant), codec.decode(tokens))


def test_whole_calls_of_many_pieces_equal_a_single_step(codec: RaveCodec) -> None:
    samples = sound(codec, 2 * 2**15 + 1000)
    assert torch.equal(
        codec.latents(samples), through(codec.latent_stream(), samples, [samples.shape[2]])
    )


def test_an_item_is_the_same_alone_and_in_a_batch(codec: RaveCodec) -> None:
    samples = sound(codec, 3_000, batch=3)
    latents, tokens = codec.latents(samples), codec.encode(samples)
    decoded = codec.decode(tokens, num_samples=3_000)
    assert tokens.shape == (3, codec.num_codebooks, -(-3_000 // codec.hop_length))
    assert decoded.shape == samples.shape
    for i in range(3):
        assert torch.equal(codec.latents(samples[i : i + 1]), latents[i : i + 1])
        assert torch.equal(codec.decode(tokens[i : i + 1], num_samples=3_000), decoded[i : i + 1])


def test_a_longer_sound_begins_like_a_shorter_one(make_rave: Any) -> None:
    codec = make_rave(causal=True)
    latents = torch.randn(1, 4, 40)  # the other 4 are noise
    whole = codec.decode_latents(latents)
    part = codec.decode_latents(latents[..., :30])
    final = part.shape[2] - codec.decoder_delay
    assert torch.equal(whole[..., :final], part[..., :final])


@pytest.mark.parametrize("kind", ["centred", "causal"])
def test_streams_are_as_late_as_they_state(make_rave: Any, kind: str) -> None:
    codec = make_rave(**KINDS[kind])
    hop = codec.hop_length
    samples, encoder = sound(codec, 64 * hop), codec.latent_stream()
    num_frames = 0
    for number, sample in enumerate(samples.split(1, dim=2), start=1):
        num_frames += encoder.push(sample).shape[2]
        assert num_frames == max(0, (number - codec.encoder_delay) // hop)
    decoder, num_samples = codec.sample_stream(), 0
    for number, frame in enumerate(codec.latents(samples).split(1, dim=2), start=1):
        num_samples += decoder.push(frame).shape[2]
        assert num_samples == max(0, number * hop - codec.decoder_delay)


@pytest.mark.parametrize("kind", ["centred", "causal", "stereo"])
@pytest.mark.parametrize("block", [32, 100, 128, 384])
def test_live_blocks_are_the_delayed_sound(make_rave: Any, kind: str, block: int) -> None:
    codec = make_rave(**KINDS[kind])
    live = codec.live_stream(block)
    samples = sound(codec, 40 * block)
    found = [live.push(piece) for piece in samples[0].split(block, dim=1)]
    assert {piece.shape for piece in found} == {(codec.num_channels, block)}
    found.append(live.finish())
    silence = samples.new_zeros(1, codec.num_channels, codec.encoder_delay)
    whole = codec.decode_latents(codec.latents(torch.cat([silence, samples], dim=2)))[0]
    waiting = live.latency - codec.encoder_delay
    joined = torch.cat(found, dim=1)
    assert joined.shape[1] == samples.shape[2] + live.latency
    assert not joined[:, :waiting].any()
    assert torch.equal(joined[:, waiting:], whole[:, : joined.shape[1] - waiting])


def test_a_causal_model_is_live_within_the_filter_bank(make_rave: Any) -> None:
    codec = make_rave(causal=True)
    assert codec.live_stream(128).latency == codec.pqmf.analysis_delay + codec.pqmf.synthesis_delay
    assert codec.live_stream(32).latency == codec.live_stream(128).latency + 96
    with pytest.raises(ValueError, match=r"Got a block of shape \[1, 64\]; expected \[1, 128\]"):
        codec.live_stream(128).push(torch.zeros(1, 64))


def test_latents_can_be_changed_before_decoding(make_rave: Any) -> None:
    codec = make_rave(causal=True)
    samples = sound(codec, 20 * 128)
    latents = codec.latents(samples)
    louder = latents.clone()
    louder[:, 2, 10:] += 3.0

    def edit(part: Tensor, first: int) -> Tensor:
        number = torch.arange(first, first + part.shape[2])
        part[:, 2, number >= 10] += 3.0
        return part

    changed, plain = codec.decode_latents(louder), codec.decode_latents(latents)
    assert torch.equal(changed[..., : 8 * 128], plain[..., : 8 * 128])
    assert (changed - plain)[..., 12 * 128 :].abs().max() > 1e-3
    live = codec.live_stream(128, edit=edit)
    silence = torch.zeros(1, codec.encoder_delay)
    delayed = torch.cat([silence, samples[0]], dim=1)[None]
    wanted = codec.decode_latents(edit(codec.latents(delayed), 0))[0]
    found = torch.cat([*map(live.push, samples[0].split(128, dim=1)), live.finish()], dim=1)
    waiting = live.latency - codec.encoder_delay
    assert torch.equal(found[:, waiting:], wanted[:, : found.shape[1] - waiting])


def test_a_training_pass_decodes_what_inference_decodes(make_rave: Any) -> None:
    codec = make_rave(trainable=True, noise_amplitudes=5)
    samples = sound(codec, 40 * 128, batch=2)
    output = codec(samples, sample=False)
    decoded = codec.decode_latents(codec.latents(samples))
    torch.testing.assert_close(output.samples.detach(), decoded, rtol=0, atol=1e-5)
    assert output.bands.shape == output.true_bands.shape == (2, 640, 8)
    (output.samples.square().sum() + output.regularisation).backward()
    assert all(weight.grad is not None for weight in codec.parameters())


def test_the_divergence_is_that_of_torch(make_rave: Any) -> None:
    codec = make_rave(trainable=True)
    encoded = torch.randn(2, 5, 16)
    mean, scale = encoded.chunk(2, dim=2)
    normal = torch.distributions.Normal(mean, torch.nn.functional.softplus(scale) + 1e-4)
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    wanted = torch.distributions.kl_divergence(normal, prior).sum(2).mean()
    torch.testing.assert_close(codec.bottleneck(encoded, sample=False)[1], wanted)


@pytest.mark.parametrize("trainable", [False, True])
def test_a_saved_model_comes_back_to_the_bit(
    codec: RaveCodec, make_rave: Any, trainable: bool, tmp_path: Path
) -> None:
    if trainable:
        codec = make_rave(trainable=True)
    save_codec(codec, tmp_path)
    loaded: Any = load_codec(tmp_path)
    assert loaded.identity == codec.identity
    samples = sound(codec, 3_000)
    assert torch.equal(loaded.latents(samples), codec.latents(samples))
    tokens = codec.encode(samples)
    assert torch.equal(loaded.encode(samples), tokens)
    assert torch.equal(loaded.decode(tokens), codec.decode(tokens))
    (tmp_path / "config.json").write_text(
        (tmp_path / "config.json").read_text().replace('"capacity": 8', '"capacity": 10')
    )
    with pytest.raises(ValueError, match=r"weight shapes that do not match config.json: decoder"):
        load_rave(tmp_path)


def test_the_identity_covers_what_makes_tokens(make_rave: Any) -> None:
    codec, other = make_rave(), make_rave()
    assert codec.identity == other.identity
    with torch.no_grad():
        other.decoder.wave.weight.add_(1)
    assert codec.identity == other.identity
    with torch.no_grad():
        other.codebooks[0, 0, 0] += 1
    assert codec.identity != other.identity


def test_a_model_in_another_precision_has_latents_nearby(make_rave: Any) -> None:
    codec, half = make_rave(), make_rave().use_dtype(torch.bfloat16)
    samples = sound(codec, 4_000)
    wanted, found = codec.latents(samples), half.latents(samples)
    assert found.dtype == torch.float32
    assert 0 < (found - wanted).norm() / wanted.norm() < 0.05
    decoded = half.decode_latents(wanted)
    plain = codec.decode_latents(wanted)
    assert decoded.dtype == torch.float32
    assert 0 < (decoded - plain).norm() / plain.norm() < 0.05


def test_a_model_without_codebooks_makes_no_tokens() -> None:
    codec = RaveCodec(VARIANTS["tiny"](), trainable=False)
    assert not codec.has_codebooks
    for refused in (
        codec.encoder_stream,
        codec.decoder_stream,
        lambda: codec.encode(torch.zeros(1, 1, 99)),
    ):
        with pytest.raises(ValueError, match=r"has latents but no codebooks, so it makes no token"):
            refused()
    codec.set_codebooks(torch.randn(4, 32, 3))
    assert codec.encode(torch.randn(1, 1, 999)).shape == (1, 4, 8)
    is_latent: LatentCodec = codec  # satisfies the protocol
    assert is_latent.latent_size == 8


def test_wrong_inputs_get_one_sentence(make_rave: Any) -> None:
    codec = make_rave()
    with pytest.raises(ValueError, match=r"Got 2 channels; this codec takes 1"):
        codec.latents(torch.zeros(1, 2, 99))
    with pytest.raises(
        ValueError, match=r"Got latents of shape \[1, 9, 3\]; expected \[B, D, T\] "
    ):
        codec.decode_latents(torch.zeros(1, 9, 3))
    with pytest.raises(ValueError, match=r"Got latents of type torch.float64; expected torch.fl"):
        codec.decode_latents(torch.zeros(1, 2, 3).double())
    with pytest.raises(ValueError, match=r"Got latents of shape \[1, 2, 0\]; expected a frame"):
        codec.decode_latents(torch.zeros(1, 2, 0))
    for wrong, sentence in (
        ({"ratios": (4, 3)}, r"ratios must be even numbers of at least 2, got \(4, 3\)"),
        ({"num_channels": 3}, r"num_channels must be 1 or 2, got 3"),
        ({"dilations": ((1,),)}, r"Expected the dilations of 4 ratios, got 1"),
        ({"noise_amplitudes": 1}, r"noise_amplitudes must be 0 or at least 2, got 1"),
        ({"bottleneck": "other"}, r"bottleneck must be gaussian or discrete, got 'other'"),
        ({"quantised_dims": 200}, r"quantised_dims must be between 0 and latent_size = 128"),
        ({"noise_amplitudes": 5, "noise_ratios": (4, 6)}, r"must divide 128, the product of"),
    ):
        with pytest.raises(ValueError, match=sentence):
            RaveConfig(**wrong)  # type: ignore[arg-type]


def test_published_variants_have_their_published_sizes() -> None:
    """Weights of encoder and decoder, in millions, and the rates of frames and bits."""
    with torch.device("meta"):
        codecs = {
            name: RaveCodec(VARIANTS[name](sample_rate=44_100), trainable=False)
            for name in ("v2", "v2_small", "causal", "discrete")
        }

    def millions(module: torch.nn.Module) -> float:
        return sum(weight.numel() for weight in module.parameters()) / 1e6

    assert millions(codecs["v2"].encoder) == pytest.approx(16.1, abs=0.06)
    assert millions(codecs["v2"].decoder) == pytest.approx(15.5, abs=0.06)
    assert {name: codec.hop_length for name, codec in codecs.items()} == {
        "v2": 2048,
        "v2_small": 512,
        "causal": 2048,
        "discrete": 1024,
    }
    discrete = codecs["discrete"]
    assert discrete.frame_rate * discrete.num_codebooks * 10 == pytest.approx(6_900, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal", "v2"])
def test_the_real_size_streams_to_the_bit(name: str) -> None:
    torch.manual_seed(0)
    codec = RaveCodec(VARIANTS[name](), trainable=False).eval().requires_grad_(False)
    samples = 0.1 * torch.randn(1, 1, 60 * 2048)
    latents = codec.latents(samples)
    assert torch.equal(through(codec.latent_stream(), samples, [2048, 512]), latents)
    decoded = codec.decode_latents(latents)
    assert torch.equal(through(codec.sample_stream(), latents, [1, 3]), decoded)


def held(thing: Any, seen: set[int]) -> int:
    """The numbers in all tensors that an object refers to, without models."""
    if id(thing) in seen or isinstance(thing, torch.nn.Module):
        return 0
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        return thing.untyped_storage().nbytes() // 4
    if isinstance(thing, list | tuple):
        return sum(held(each, seen) for each in thing)
    if hasattr(thing, "__dict__"):
        return sum(held(each, seen) for each in vars(thing).values())
    return 0


@pytest.mark.parametrize("kind", ["centred", "causal"])
def test_streams_hold_no_more_after_a_longer_time(make_rave: Any, kind: str) -> None:
    codec = make_rave(**KINDS[kind])
    live, sizes = codec.live_stream(256), []
    for number in range(400):
        live.push(0.1 * torch.randn(1, 256))
        if number in (99, 399):
            sizes.append(held(live, set()))
    assert 0 < sizes[0] == sizes[1]


@pytest.mark.slow
def test_an_hour_takes_no_more_memory_than_a_minute(make_rave: Any) -> None:
    from audio_tokenizers.coding import transfer

    codec, peaks = make_rave(), []

    def peak() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])

    for minutes in (1, 60):
        Path("/proc/self/clear_refs").write_text("5")
        pieces = (0.1 * torch.randn(1, 8_000) for _ in range(60 * minutes))
        assert sum(piece.shape[1] for piece in transfer(pieces, codec)) == minutes * 480_000
        peaks.append(peak())
    assert peaks[1] < peaks[0] + 20_000  # kB
