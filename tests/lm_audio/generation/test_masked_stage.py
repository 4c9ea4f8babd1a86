"""Masked decoding: MAGNeT's published algorithm written naively, and what windows add to it."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.generation.masked_stage import MaskedStage
from lm_audio.generation.track import Track, unknown_values
from lm_audio.generation.unmasking import Rounds, masked_shares
from lm_audio.networks.condition import Fused
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.sampling import Unmasking, uniforms
from tests.lm_audio.tracks_only import finish

K, V, SEED = 4, 32, 11
STEPS = (8, 4, 3, 2)
SHAPE = TransformerConfig(
    dim=32, num_layers=2, num_heads=2, hidden_dim=64, positions="sinusoidal", norm="layer",
    activation="gelu", cross_attention=True, causal=False,
)  # fmt: skip
Logits = Callable[[Tensor, int, bool], Tensor]


def make_stage(**changes: Any) -> MaskedStage:
    torch.manual_seed(0)
    config = TokenLMConfig(transformer=SHAPE, num_streams=K, vocab_size=V)
    conditioners = Conditioners({"text": LabelConditioner(["rain", "dog"], 32)}, {"text": "cross"})
    stage = MaskedStage(
        name="acoustic",
        model=TokenLM(config).eval(),
        conditioners=conditioners.eval(),
        frame_rate=Fraction(50),
        window_frames=60,
        overlap_frames=24,
        span=3,
        reach=5,
        sampling=Unmasking(steps=STEPS, temperature=3.0, guidance_scale=3.0),
    )
    for weight in (*stage.model.parameters(), *stage.conditioners.parameters()):
        weight.data *= 2.5
    stage.model.embedding.weight.data /= 4  # so that positions matter, and greedy tokens vary
    return replace(stage, **changes)


def track(stage: MaskedStage, num_frames: int, **others: Any) -> Track:
    values = others.pop("values", unknown_values(stage.makes, num_frames, torch.device("cpu")))
    settings = {"seed": SEED, "sampling": stage.sampling, "conditions": {"text": "rain"}}
    return Track(values=values.clone(), **settings | others)


def made(stage: MaskedStage, num_frames: int, **others: Any) -> Tensor:
    one = track(stage, num_frames, **others)
    stage.check(one)
    finish([stage], [one])
    return one.values


def causal_logits(stage: MaskedStage) -> Logits:
    """The logits [K, T, V] of a causal model with the stage's weights and another mask."""
    config = replace(stage.model.config, transformer=replace(SHAPE, causal=True))
    causal = TokenLM(config).eval()
    causal.load_state_dict(stage.model.state_dict())

    def logits(tokens: Tensor, codebook: int, conditional: bool) -> Tensor:
        T = tokens.shape[1]
        bias = torch.zeros(T, T)
        if codebook > 0 and stage.reach is not None:
            for query in range(T):
                for key in range(T):
                    if abs(query - key) > stage.reach:
                        bias[query, key] = -math.inf
        causal.transformer._whole_bias = lambda *_: bias[None, None]  # type: ignore[method-assign]
        fused = stage.conditioners({"text": ["rain" if conditional else None]})
        with torch.inference_mode():
            return causal(tokens[None], fused=fused)[0]

    return logits


def pick(probabilities: Tensor, number: float, top_k: int, top_p: float) -> int:
    """The token at a quantile of the likeliest ones."""
    order = sorted(range(len(probabilities)), key=lambda v: (-float(probabilities[v]), v))
    kept: list[int] = []
    before = 0.0
    for v in order:
        if (top_k and len(kept) == top_k) or (top_p and before > top_p):
            break
        kept.append(v)
        before += float(probabilities[v])
    total = sum(float(probabilities[v]) for v in kept)
    reached = 0.0
    for v in kept:
        reached += float(probabilities[v]) / total
        if reached > number:
            return v
    return kept[-1]


def naive(
    stage: MaskedStage, num_frames: int, *, prompt: Tensor | None = None, text: bool = True
) -> Tensor:
    """The published algorithm: per codebook, per round, mask the least probable spans."""
    settings, logits_of = stage.sampling, causal_logits(stage)
    span, mask_token = stage.span, stage.mask_token
    assert isinstance(settings.steps, tuple)
    assert isinstance(settings.guidance_scale, float)
    tokens = torch.full((K, num_frames), mask_token)
    start = 0 if prompt is None else prompt.shape[1]
    if prompt is not None:
        tokens[:, :start] = prompt
    num_spans, known_spans = num_frames // span, start // span
    for k, num_rounds in enumerate(settings.steps):
        scores = [0.0] * num_spans
        scores[:known_spans] = [-1e4] * known_spans
        steps = torch.linspace(0, 1, num_rounds)
        for i, step in enumerate(steps):
            share = torch.cos(step * math.pi * 0.5)
            num_masked = max(int((share * (num_spans - known_spans)).item()), 1)
            worst = sorted(range(num_spans), key=lambda j: (-scores[j], j))[:num_masked]
            masked = [t for j in worst for t in range(j * span, (j + 1) * span)]
            tokens[k, masked] = mask_token
            logits = logits_of(tokens, k, text)[k]
            if text:
                first, last = settings.guidance_scale, settings.final_guidance_scale
                last = first if last is None else last
                scale = float(share) * first + (1 - float(share)) * last
                logits = logits_of(tokens, k, False)[k] * (1 - scale) + logits * scale
            temperature = settings.temperature
            if settings.anneal_temperature:
                temperature = max(temperature * (num_rounds - 1 - i) / num_rounds, 1e-2)
            probabilities = torch.softmax(logits / (temperature or 1.0), dim=-1)
            name = f"{stage.name}/0/{k}/{i}"
            numbers = uniforms(SEED, name, 0, num_frames, 1)[0]
            chosen = torch.zeros(num_frames)
            for t in masked:
                v = int(logits[t].argmax())
                if settings.temperature:
                    p = probabilities[t]
                    v = pick(p, float(numbers[t]), settings.top_k, settings.top_p)
                tokens[k, t] = v
                chosen[t] = probabilities[t, v]
            for j in range(num_spans):
                best = float(chosen[j * span : (j + 1) * span].max())
                scores[j] = 1 - best if j in worst else -1e4
    return tokens


CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "magnet": (
        {},
        {"temperature": 3.0, "top_p": 0.9, "guidance_scale": 10.0, "final_guidance_scale": 1.0},
    ),
    "audio-magnet": (
        {},
        {"temperature": 3.5, "top_p": 0.8, "guidance_scale": 20.0, "final_guidance_scale": 1.0},
    ),
    "single tokens": (
        {"span": 1, "reach": None},
        {"temperature": 2.0, "top_k": 12, "guidance_scale": 2.0},
    ),
    "spans of five": (
        {"span": 5, "reach": 2},
        {"temperature": 1.5, "anneal_temperature": False, "guidance_scale": 4.0},
    ),
    "greedy": (
        {},
        {
            "temperature": 0.0,
            "anneal_temperature": False,
            "guidance_scale": 3.0,
            "final_guidance_scale": 1.5,
        },
    ),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("prompted", [False, True])
def test_tokens_are_those_of_the_published_algorithm(name: str, prompted: bool) -> None:
    changes, settings = CONFIGURATIONS[name]
    stage = make_stage(**changes, sampling=Unmasking(steps=STEPS, **settings))
    values = unknown_values(stage.makes, 60, torch.device("cpu"))
    prompt = None
    if prompted:
        prompt = torch.randint(V, (K, 15), generator=torch.Generator().manual_seed(1))
        values[:, :15] = prompt
    expected = naive(stage, 60, prompt=prompt)
    assert torch.equal(made(stage, 60, values=values), expected)
    assert len(expected.unique()) > 10


def test_without_a_prompt_there_is_no_guidance() -> None:
    stage = make_stage(sampling=Unmasking(steps=STEPS, guidance_scale=5.0))
    assert torch.equal(made(stage, 60, conditions={}), naive(stage, 60, text=False))


@pytest.mark.parametrize("codebook", [0, 1])
def test_logits_are_those_of_the_causal_model_with_another_mask(codebook: int) -> None:
    stage = make_stage()
    tokens = torch.randint(V + 1, (K, 40), generator=torch.Generator().manual_seed(2))
    fused = stage.conditioners({"text": ["rain"]})
    reach = torch.tensor([5]) if codebook else None
    with torch.inference_mode():
        ours = stage.model(tokens[None], fused=fused, reach=reach)[0]
    torch.testing.assert_close(ours, causal_logits(stage)(tokens, codebook, True))


def test_a_two_sided_model_that_sees_no_future_is_the_causal_one() -> None:
    stage = make_stage()
    config = replace(stage.model.config, transformer=replace(SHAPE, causal=True))
    causal = TokenLM(config).eval()
    causal.load_state_dict(stage.model.state_dict())
    tokens = torch.randint(V, (1, K, 30), generator=torch.Generator().manual_seed(3))
    condition = stage.conditioners({"text": ["rain"]}).cross
    with torch.inference_mode():
        x = stage.model.transformer(
            stage.model.embed(tokens),
            visible=torch.ones(1, 30, 30).tril().bool(),
            condition=(condition.embeddings, condition.mask),
        )
        expected = causal(tokens, fused=Fused(cross=condition))
        torch.testing.assert_close(stage.model.logits(x), expected)


def test_a_prefix_is_within_reach_of_all_frames() -> None:
    stage = make_stage()
    tokens = torch.randint(V, (1, K, 20), generator=torch.Generator().manual_seed(4))
    prefix = stage.conditioners({"text": ["rain"]}).cross
    cross = stage.conditioners({"text": ["dog"]}).cross

    def logits(prefix: Any) -> Tensor:
        with torch.inference_mode():
            fused = Fused(cross=cross, prepend=prefix)
            return stage.model(tokens, fused=fused, reach=torch.tensor([1]))[0, 0]

    changed = replace(prefix, embeddings=-prefix.embeddings)
    assert ((logits(prefix) - logits(changed)).abs().amax(dim=1) > 1e-3).all()


def test_the_shares_that_stay_masked_fall_from_all_to_none() -> None:
    assert masked_shares("linear", 5).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    cosine = masked_shares("cosine", 7)
    expected = [math.cos(math.pi / 2 * i / 6) for i in range(7)]
    torch.testing.assert_close(cosine, torch.tensor(expected), atol=1e-6, rtol=0)
    assert masked_shares("cosine", 1).tolist() == [1.0]


def test_known_frames_of_a_span_stay_and_the_rest_of_it_is_masked() -> None:
    known = torch.zeros(8, dtype=torch.bool)
    known[[0, 1, 2, 4]] = True  # the first span, and the middle of the second
    rounds = Rounds(known, span=3, shares=masked_shares("linear", 3))
    assert rounds.masked.tolist() == [False] * 3 + [True, False, True, True, True]
    rounds.keep(torch.tensor([0, 0, 0, 0.9, 0, 0.1, 0.3, 0.2]))
    assert rounds.masked.nonzero()[:, 0].tolist() == [6, 7]  # its best is less sure
    rounds.keep(torch.full((8,), 0.5))
    rounds.keep(torch.full((8,), 0.5))
    assert rounds.done
    everything = Rounds(torch.ones(4).bool(), span=3, shares=masked_shares("linear", 3))
    assert everything.done


def test_noise_on_the_confidence_changes_tokens_and_belongs_to_the_item() -> None:
    stage = make_stage()
    noisy = replace(stage, sampling=replace(stage.sampling, noise=4.0))
    one = made(noisy, 60)
    assert not torch.equal(one, made(stage, 60))
    assert torch.equal(one, made(noisy, 60))
    assert not torch.equal(one, made(noisy, 60, seed=SEED + 1))


def test_an_item_is_the_same_alone_and_in_a_batch_of_other_lengths() -> None:
    stage = make_stage()
    alone = made(stage, 130)
    items = [track(stage, n, seed=s) for n, s in ((40, 1), (130, SEED), (200, 2))]
    finish([stage], *[[one] for one in items])
    assert torch.equal(items[1].values, alone)


def test_rows_that_share_a_pass_are_evaluated_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage(sampling=Unmasking(steps=2, temperature=0.0, guidance_scale=3.0))
    monkeypatch.setattr(MaskedStage, "device", torch.device("cpu", 0))
    rows: list[int] = []
    hook = stage.model.register_forward_pre_hook(lambda _, tokens: rows.append(len(tokens[0])))
    together = stage.new_batch()
    together._rows_per_pass = None  # type: ignore[attr-defined]  # as on a GPU
    items = [track(stage, 60, conditions={"text": text}) for text in ("rain", "dog")]
    for one in items:
        together.add(one)
    while together.step():
        pass
    hook.remove()
    assert set(rows) == {4}
    for one, text in zip(items, ("rain", "dog"), strict=True):
        assert torch.equal(one.values, made(stage, 60, conditions={"text": text}))


def test_whole_windows_make_a_shorter_clip_the_start_of_a_longer_one() -> None:
    stage = make_stage(whole_windows=True)
    longer = made(stage, 60)
    assert torch.equal(made(stage, 25), longer[:, :25])
    assert not torch.equal(made(replace(stage, whole_windows=False), 25), longer[:, :25])


def test_a_window_keeps_the_end_of_the_one_before() -> None:
    stage = make_stage()
    one = made(stage, 150)
    again = one.clone()
    again[:, 96:] = -1  # all after the second window
    assert torch.equal(made(stage, 150, values=again), one)
    other = again.clone()
    other[:, 72:96] = (other[:, 72:96] + 1) % V  # the part that the third window sees
    assert not torch.equal(made(stage, 150, values=other)[:, 96:], one[:, 96:])


def test_both_sides_of_a_span_are_kept_and_seen() -> None:
    stage = make_stage()
    clip = torch.randint(V, (K, 60), generator=torch.Generator().manual_seed(5))
    clip[:, 20:41] = -1
    filled = made(stage, 60, values=clip)
    assert torch.equal(filled[:, :20], clip[:, :20])
    assert torch.equal(filled[:, 41:], clip[:, 41:])
    for side in (slice(0, 20), slice(41, 60)):
        other = clip.clone()
        other[:, side] = (other[:, side] + 7) % V
        assert not torch.equal(made(stage, 60, values=other)[:, 20:41], filled[:, 20:41])


def test_scale_one_and_no_prompt_cost_no_second_pass() -> None:
    passes: list[int] = []
    stage = make_stage()
    stage.model.register_forward_pre_hook(lambda _, tokens: passes.append(len(tokens)))
    for scale, final, conditions, expected in (
        (3.0, None, {"text": "rain"}, 2 * 17),
        (3.0, 1.0, {"text": "rain"}, 2 * 17 - len(STEPS)),  # the last round of each codebook
        (1.0, None, {"text": "rain"}, 17),
        (3.0, None, {}, 17),
    ):
        passes.clear()
        sampling = Unmasking(steps=STEPS, guidance_scale=scale, final_guidance_scale=final)
        made(stage, 60, conditions=conditions, sampling=sampling)
        assert len(passes) == expected


def test_negative_prompts_and_schedules_take_part() -> None:
    stage = make_stage(sampling=Unmasking(steps=STEPS, temperature=0.0, guidance_scale=4.0))
    plain = made(stage, 60)
    assert not torch.equal(made(stage, 60, negative={"text": "dog"}), plain)
    faded = replace(stage.sampling, guidance_schedule=((0.0, 1.0), (0.4, 0.0)))
    assert not torch.equal(made(stage, 60, sampling=faded), plain)
    annealed = replace(stage.sampling, guidance_scale={"text": 4.0}, final_guidance_scale=1.0)
    one = replace(annealed, guidance_scale=4.0)
    assert torch.equal(made(stage, 60, sampling=annealed), made(stage, 60, sampling=one))


def test_the_likelihood_of_tokens_is_that_of_the_first_round() -> None:
    stage = make_stage()
    one = track(stage, 90, values=torch.randint(V, (K, 90)))
    start, hidden = 80 - stage.window_frames, slice(70, 80)
    tokens = one.values[:, start:80].clone()
    tokens[:, 50:60] = stage.mask_token
    logits_of, expected = causal_logits(stage), []
    tokens = torch.cat([tokens, one.values[:, 80 : start + 60]], dim=1)
    for k in range(K):
        scores = logits_of(tokens, k, True)[k].log_softmax(dim=-1)[50:60]
        expected.append(scores.gather(1, one.values[k, hidden, None])[:, 0])
        tokens[k, 50:60] = one.values[k, hidden]
    found = stage.likelihoods(one, 70, 80)
    torch.testing.assert_close(found, torch.cat(expected))


def test_progress_moves_with_every_round() -> None:
    stage = make_stage()
    one, batch, seen = track(stage, 100), stage.new_batch(), [0.0]
    batch.add(one)
    while batch.step():
        seen.append(one.num_done + one.in_work)
    assert seen == sorted(set(seen))
    assert seen[-1] == 100
    assert len(seen) - 1 == 3 * sum(STEPS)  # windows


def test_settings_survive_json_and_mistakes_get_a_sentence() -> None:
    settings = Unmasking(steps=(4, 2), temperature=2.0, noise=0.5)
    assert Unmasking(**json.loads(json.dumps(asdict(settings)))) == settings
    for wrong, message in (
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"steps": (3, 0)}, "steps must be an integer of at least 1"),
        ({"schedule": "sine"}, "Unknown schedule 'sine'. Choose one of: cosine, linear"),
        ({"noise": -1}, "noise must be a number"),
        ({"final_guidance_scale": -1}, "final_guidance_scale must be a number"),
    ):
        with pytest.raises(ValueError, match=message):
            Unmasking(**wrong)
    stage = make_stage()
    with pytest.raises(ValueError, match="one number of steps, or 4, one per codebook, got 2"):
        stage.check(track(stage, 20, sampling=settings))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"overlap_frames": 60}, "overlap_frames of the acoustic stage must be less than"),
        ({"span": 0}, "span must be at least 1"),
        ({"reach": -1}, "reach at least 0"),
        ({"sampling": Unmasking(steps=(1, 2))}, "or 4, one per codebook, got 2"),
    ],
)
def test_stages_that_cannot_work_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_stage(**wrong)


def test_a_causal_model_is_refused() -> None:
    config = TokenLMConfig(transformer=replace(SHAPE, causal=True), num_streams=K, vocab_size=V)
    with pytest.raises(ValueError, match=r"needs a two-sided model\. Set causal=False"):
        make_stage(model=TokenLM(config))
