"""Sampling against transformers' logits processors, closed forms and counted frequencies."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from transformers.generation import logits_process

from lm_audio.sampling import (
    Denoising,
    Sampling,
    SamplingTensors,
    adjusted,
    choose,
    gaussians,
    random_seed,
    sampling_tensors,
    uniforms,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
PLAIN = Sampling(top_k=0)
SETTINGS = [
    PLAIN,
    Sampling(top_k=7),
    Sampling(top_k=0, top_p=0.3),
    Sampling(top_k=0, top_p=0.97, temperature=1.7),
    Sampling(top_k=0, min_p=0.2),
    Sampling(top_k=9, top_p=0.8, min_p=0.1, temperature=0.6),
    Sampling(top_k=12, top_p=0.9, repetition_penalty=1.8),
    Sampling(top_k=0, min_p=0.05, repetition_penalty=0.4, temperature=2.0),
]


def random_logits(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tensors(*samplings):
    """One stream per item."""
    return sampling_tensors(samplings, num_codebooks=1)


def probabilities_by_transformers(logits, sampling, recent):
    """The distribution [V] after transformers' processors, in their usual order."""
    scores = logits[None].double()
    steps = [logits_process.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)]
    steps.append(logits_process.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(logits_process.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p:
        steps.append(logits_process.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        steps.append(logits_process.MinPLogitsWarper(sampling.min_p))
    for step in steps:
        scores = step(recent[None], scores)
    return scores.softmax(-1)[0]


@pytest.mark.parametrize("sampling", SETTINGS, ids=repr)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_token_owns_its_probability_by_transformers_of_all_numbers(sampling, seed):
    N, V = 20_000, 40
    logits = random_logits(V, seed=seed)
    logits[0] = 3.1  # likely, so that a -1 taken for a token would show
    recent = torch.tensor([3, 3, 17, 39, 5])
    settings = tensors(*[sampling] * N)
    uniforms = ((torch.arange(N) + 0.5) / N)[:, None]
    padded = torch.cat([recent, torch.tensor([-1, -1])])
    tokens = choose(logits.expand(N, 1, V), uniforms, settings, recent=padded.expand(N, 1, -1))
    expected = probabilities_by_transformers(logits, sampling, recent)
    counted = tokens.flatten().bincount(minlength=V) / N
    assert (counted - expected).abs().max() < 1.5 / N
    assert not counted[expected == 0].any()


def test_frequencies_follow_the_softmax():
    N, V = 20_000, 30
    logits = random_logits(V, seed=4, scale=1.0)
    numbers = uniforms(11, "test", 0, N, 1).T
    tokens = choose(logits.expand(N, 1, V), numbers, tensors(*[PLAIN] * N))
    expected = N * logits.softmax(-1)
    chi_square = ((tokens.flatten().bincount(minlength=V) - expected) ** 2 / expected).sum()
    assert abs(chi_square - (V - 1)) < 4 * math.sqrt(2 * (V - 1))


def test_temperature_zero_takes_the_likeliest_and_the_lowest_of_equals():
    logits = torch.tensor([0.0, 5.0, 1.0, 5.0, -1.0]).expand(2, 1, 5)
    greedy = Sampling(temperature=0.0)
    tokens = choose(logits, torch.tensor([[0.0], [0.999]]), tensors(greedy, greedy))
    assert tokens.tolist() == [[1], [1]]


def test_top_k_keeps_exactly_k_of_equal_tokens():
    N = 100
    uniforms = (torch.arange(N) / N)[:, None]
    tokens = choose(torch.zeros(N, 1, 50), uniforms, tensors(*[Sampling(top_k=4)] * N))
    assert tokens.flatten().bincount().tolist() == [25, 25, 25, 25]


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_the_likeliest_are_found_as_by_a_whole_sort(scale):
    logits = (4 * random_logits(20, 3, 300, scale=scale)).round() / 4  # many are equal
    logits[0, 0, 10:200], logits[1, 1, ::2], logits[2] = -torch.inf, -0.0, -5.0
    uniforms = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    mixed = [Sampling(top_k=1 + i, top_p=0.9 * (i % 2), min_p=0.01 * (i % 3)) for i in range(20)]
    settings = sampling_tensors(mixed, num_codebooks=3)
    assert settings.most == 20
    whole = dataclasses.replace(settings, most=None)
    assert torch.equal(choose(logits, uniforms, settings), choose(logits, uniforms, whole))


def test_every_setting_belongs_to_its_item_and_codebook():
    logits = random_logits(1, 1, 20).expand(3, 2, 20)
    samplings = [Sampling(temperature=(0.0, 1.0), top_k=0), Sampling(top_k=1), PLAIN]
    settings = sampling_tensors(samplings, num_codebooks=2)
    tokens = choose(logits, torch.full((3, 2), 0.99), settings)
    best = logits[0, 0].argmax()
    assert (tokens == best).tolist() == [[True, False], [True, True], [False, False]]


@pytest.mark.parametrize("sampling", [*SETTINGS, Sampling(temperature=0.0)], ids=repr)
def test_only_allowed_tokens_are_picked(sampling):
    N, V = 500, 30
    logits = random_logits(N, 1, V, seed=3)
    logits[..., 12] += 50  # likeliest by far, not allowed
    allowed = torch.tensor([20, 23]).expand(N, 1, 2)
    uniforms = (torch.arange(N) / N)[:, None]
    settings = tensors(*[sampling] * N)
    tokens = choose(logits, uniforms, settings, allowed=allowed)
    alone = choose(logits[..., 20:23], uniforms, settings) + 20
    assert torch.equal(tokens, alone)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_extreme_logits_and_numbers_pick_a_token_that_can_be(uniform):
    logits = torch.full((1, 1, 300), -1e30)
    logits[..., 7] = 3e38
    for sampling in [*SETTINGS, Sampling(temperature=1e-30), Sampling(temperature=1e6, top_p=1e-9)]:
        recent = torch.full((1, 1, 1), -1)
        number = torch.tensor([[uniform]])
        assert choose(logits, number, tensors(sampling), recent=recent).item() == 7


def test_the_largest_number_picks_the_last_kept_token():
    logits = torch.arange(100.0).flip(0).mul(0.01).expand(1, 1, 100)
    last = torch.tensor([[1 - 2**-24]])
    for kept in range(1, 101):
        assert choose(logits, last, tensors(Sampling(top_k=kept))).item() == kept - 1
    assert choose(logits, last, tensors(PLAIN)).item() == 99


def test_half_precision_logits_are_read_as_they_are():
    logits = random_logits(4, 2, 64).bfloat16()
    uniforms = torch.rand(4, 2)
    settings = sampling_tensors([PLAIN] * 4, num_codebooks=2)
    assert torch.equal(
        choose(logits, uniforms, settings), choose(logits.float(), uniforms, settings)
    )


@pytest.fixture
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def boundary(logits, settings):
    """The largest multiple of 2^-24 that picks no less likely token than 0.9 does, by bisection."""
    ranks = logits.flatten().argsort(descending=True).argsort()

    def rank_at(number):
        uniform = torch.tensor([[number / 2**24]], device=logits.device)
        return ranks[choose(logits, uniform, settings).item()]

    low, high = int(0.9 * 2**24), 2**24 - 1
    goal = rank_at(low)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if rank_at(middle) <= goal else (low, middle - 1)
    return low


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("I", "V"), [(2, 2048), (8, 2049), (17, 37), (2, 130_001)])
def test_an_item_picks_the_same_token_alone_and_in_any_batch(I, V, device):  # noqa: E741
    samplings = [SETTINGS[i % len(SETTINGS)] for i in range(I)]
    logits = random_logits(I, 1, V, seed=V).to(device)
    recent = torch.randint(-1, V, (I, 1, 50), generator=torch.Generator().manual_seed(V)).to(device)
    alone = [sampling_tensors([s], num_codebooks=1, device=device) for s in samplings]
    together = sampling_tensors(samplings, num_codebooks=1, device=device)
    # At its boundary, the smallest difference of a sum would change the token.
    torch.set_num_threads(1)
    edges = [boundary(logits[i : i + 1], alone[i]) for i in range(I)]
    torch.set_num_threads(2)
    for step in (0, 1):
        uniforms = torch.tensor([[(edge + step) / 2**24] for edge in edges], device=device)
        uniforms = uniforms.clamp(max=1 - 2**-24)
        tokens = choose(logits, uniforms, together)
        for i in range(I):
            row = slice(i, i + 1)
            assert torch.equal(tokens[row], choose(logits[row], uniforms[row], alone[i]))
    tokens = choose(logits, uniforms, together, recent=recent)
    for i in range(I):
        row = slice(i, i + 1)
        single = choose(logits[row], uniforms[row], alone[i], recent=recent[row])
        assert torch.equal(tokens[row], single)


@pytest.mark.gpu
def test_choosing_can_be_captured_in_a_graph():
    logits = random_logits(3, 4, 2048).cuda()
    uniforms = torch.rand(3, 4).cuda()
    settings = sampling_tensors(SETTINGS[:3], num_codebooks=4, device="cuda")
    recent = torch.randint(-1, 2048, (3, 4, 9)).cuda()
    allowed = torch.tensor([5, 2000]).cuda().expand(3, 4, 2)
    expected = choose(logits, uniforms, settings, allowed=allowed, recent=recent)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = choose(logits, uniforms, settings, allowed=allowed, recent=recent)
    graph.replay()
    assert torch.equal(tokens, expected)


def test_random_numbers_depend_on_the_position_alone():
    whole = uniforms(7, "acoustic", 0, 1000, 4)
    assert whole.shape == (4, 1000)
    assert whole.dtype == torch.float32
    for start, count in [(3, 4), (255, 2), (256, 256), (500, 500), (999, 1), (512, 0)]:
        part = uniforms(7, "acoustic", start, count, 4)
        assert torch.equal(part, whole[:, start : start + count])
    assert torch.equal(uniforms(7, "acoustic", 0, 1000, 1), whole[:1])


def test_random_numbers_are_uniform_and_differ_by_seed_name_stream_and_block():
    whole = uniforms(0, "a", 0, 65_536, 2).double()
    assert whole.min() >= 0
    assert whole.max() < 1
    counts = torch.histc(whole[0].float(), 64, 0, 1)
    assert ((counts - 1024) ** 2 / 1024).sum() < 63 + 4 * math.sqrt(126)
    first = whole[:1, :256]
    others = [
        uniforms(1, "a", 0, 256, 1),
        uniforms(2**32, "a", 0, 256, 1),
        uniforms(0, "b", 0, 256, 1),
        whole[1:, :256],
        whole[:1, 256:512],
    ]
    for other in others:
        assert abs(torch.corrcoef(torch.cat([first, other.double()]))[0, 1]) < 0.25


def test_random_numbers_never_change_between_versions():
    numbers = uniforms(7, "semantic", 255, 3, 2)
    # hashlib.shake_256 of repr((seed, name, stream, block)), little-endian words without 8 bits
    assert (numbers * 2**24).int().tolist() == [
        [12757371, 10464653, 815670],
        [8044745, 11213515, 16664255],
    ]


def test_random_seeds_differ_and_fit_32_bits():
    seeds = {random_seed() for _ in range(50)}
    assert len(seeds) > 45
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_guidance_follows_the_schedule():
    sampling = Sampling(guidance_schedule=((1.0, 1.0), (3.0, 0.0), (5.0, 2.0)))
    scales = [sampling.scale_at(3.0, seconds) for seconds in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 9.0)]
    assert scales == [3.0, 3.0, 2.0, 1.0, 3.0, 5.0, 5.0]
    assert Sampling().scale_at(4.5, 2.0) == 4.5


def test_sampling_survives_json_and_keeps_its_own_copy_of_scales():
    scales = {"text": 3.0, "tokens": 1.5}
    sampling = Sampling(
        temperature=(1.0, 0.5), guidance_scale=scales, guidance_schedule=((0.0, 1.0), (2.0, 0.0))
    )
    scales["text"] = 0.0
    assert sampling.guidance_scale == {"text": 3.0, "tokens": 1.5}
    assert Sampling(**json.loads(json.dumps(dataclasses.asdict(sampling)))) == sampling


def test_sampling_tensors_hold_a_row_per_item():
    got = sampling_tensors([Sampling(temperature=(1.0, 0.5)), Sampling(top_p=0.5)], num_codebooks=2)
    assert isinstance(got, SamplingTensors)
    assert got.temperature.tolist() == [[1.0, 0.5], [1.0, 1.0]]
    assert got.top_k.tolist() == [[250, 250], [250, 250]]
    assert got.top_p.tolist() == [[0.0, 0.0], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -0.1}, "temperature must be a number from 0 to 1e.06, got -0.1"),
        ({"temperature": math.nan}, "temperature must be a number .* got nan"),
        ({"temperature": (1.0, math.inf)}, "temperature must be a number .* got inf"),
        ({"temperature": "hot"}, "temperature must be a number .* got 'h'"),
        ({"top_k": -1}, "top_k must be an integer of at least 0 .* got -1"),
        ({"top_k": 2.5}, "top_k must be an integer of at least 0 .* got 2.5"),
        ({"top_p": 1.1}, "top_p must be a number from 0 to 1, got 1.1"),
        ({"min_p": -1}, "min_p must be a number from 0 to 1, got -1"),
        ({"guidance_scale": -2}, "guidance_scale must be a number from 0 .* got -2"),
        ({"guidance_scale": {"text": None}}, "guidance_scale must be a number .* got None"),
        ({"guidance_schedule": (0.0, 1.0)}, "guidance_schedule must contain .* pairs, got 0.0"),
        ({"guidance_schedule": [(1.0, -1.0)]}, "guidance_schedule factor must be .* got -1.0"),
        ({"guidance_schedule": [(-1.0, 1.0)]}, "guidance_schedule time must be .* got -1.0"),
        ({"guidance_schedule": [(1, 1), (1, 0)]}, r"times must increase, got \[1, 1\]"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a number from 0.01 .* got 0"),
        ({"repetition_window": 0}, "repetition_window must be an integer of at least 1 .* got 0"),
    ],
)
def test_an_impossible_setting_says_what_is_wrong(fields, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**fields)


def test_a_wrong_number_of_temperatures_says_how_many_codebooks_there_are():
    with pytest.raises(ValueError, match="Expected one temperature, or 4, one per codebook, got 2"):
        sampling_tensors([Sampling(temperature=(1.0, 1.0))], num_codebooks=4)


@pytest.mark.parametrize("seed", [-1, 1.5, "7"])
def test_a_wrong_seed_says_what_a_seed_is(seed):
    with pytest.raises(ValueError, match=r"seed must be an integer of at least 0, got"):
        uniforms(seed, "semantic", 0, 1, 1)


def test_gaussians_are_standard_normal():
    numbers = gaussians(3, "test", 0, 100_000, 4).double().numpy()
    assert abs(numbers.mean()) < 0.005
    assert abs(numbers.std() - 1) < 0.005
    assert stats.kstest(numbers.ravel(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(numbers) - np.eye(4)).max() < 0.02  # one stream and another
    assert abs(np.corrcoef(numbers[:, :-128].ravel(), numbers[:, 128:].ravel())[0, 1]) < 0.01


def test_gaussians_are_the_same_in_whatever_pieces_they_are_made():
    whole = gaussians(7, "latents/0/start", 0, 1000, 3)
    assert whole.dtype == torch.float32
    for start, count in ((0, 10), (250, 12), (256, 256), (511, 400), (999, 1)):
        piece = gaussians(7, "latents/0/start", start, count, 3)
        assert torch.equal(piece, whole[:, start : start + count])
    assert torch.equal(gaussians(7, "latents/0/start", 0, 1000, 2), whole[:2])
    for seed, name in ((8, "latents/0/start"), (7, "latents/0/1")):
        assert not torch.isclose(gaussians(seed, name, 0, 1000, 3), whole).all(dim=1).any()


def test_denoising_keeps_its_settings_and_refuses_wrong_ones():
    assert Denoising() == Denoising(steps=20, solver="dpm++2m", guidance_scale=3.5, eta=0.0)
    again = Denoising(**json.loads(json.dumps(dataclasses.asdict(Denoising(solver="ddim", eta=1)))))
    assert again == Denoising(solver="ddim", eta=1)
    assert Denoising(guidance_schedule=[[0, 1], [4, 0]]).scale_at(3.0, 2.0) == 2.0
    assert Denoising(guidance_interval=[0, 0.5]).guidance_interval == (0, 0.5)
    for interval in ((0.5, 0.2), (0, 2), (0.5,), 0.5):
        with pytest.raises(ValueError, match="two increasing numbers from 0 to 1, got"):
            Denoising(guidance_interval=interval)
    for wrong, message in (
        ({"steps": 0}, "steps must be an integer of at least 1 .* got 0"),
        ({"steps": 2.5}, "steps must be an integer of at least 1 .* got 2.5"),
        ({"solver": "dpm"}, "Unknown solver 'dpm'. Choose one of: ddim, dpm"),
        ({"guidance_scale": -1.0}, "guidance_scale must be a number .* got -1.0"),
        ({"guidance_schedule": ((1.0, 1.0), (0.0, 1.0))}, "times must increase"),
        (
            {"solver": "ddim", "eta": 1.5},
            "eta must be a number from 0 to 1, got 1.5",
        ),
        ({"eta": 0.5}, "eta has no effect with the dpm.* solver"),
    ):
        with pytest.raises(ValueError, match=message):
            Denoising(**wrong)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Denoising().steps = 3


def test_options_change_the_settings_that_have_them_and_no_others():
    stages = {"tokens": Sampling(), "meaning": None, "latents": Denoising()}
    changed = adjusted(stages, {"guidance_scale": 2.0, "steps": 4})
    assert changed == {
        "tokens": Sampling(guidance_scale=2.0),
        "latents": Denoising(guidance_scale=2.0, steps=4),
    }
    assert adjusted(stages, {"top_k": 3}) == {"tokens": Sampling(top_k=3)}
    assert adjusted(stages, {}) == {}
    with pytest.raises(ValueError, match=r"no steps setting\. It has: guidance_scale, .*top_p"):
        adjusted({"tokens": Sampling()}, {"steps": 4})
    with pytest.raises(ValueError, match=r"no steps setting\. It has: none"):
        adjusted({"meaning": None}, {"steps": 4})
