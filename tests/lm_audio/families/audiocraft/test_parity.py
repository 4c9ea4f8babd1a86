"""Greedy tokens of MusicGen checkpoints equal those of transformers, by the public way."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, MusicgenForConditionalGeneration

import lm_audio

PROMPTS = ("a dog barking", "rain", "slow waves on a long beach")


def reference_tokens(
    model: MusicgenForConditionalGeneration,
    folder: Path,
    text: str,
    *,
    num_frames: int,
    audio: Tensor | None = None,
    guidance_scale: float = 3.0,
) -> Tensor:
    """The greedy tokens [K, T] of transformers' own generate, `audio` [C, N] in front."""
    found: list[Tensor] = []
    decode = model.audio_encoder.decode

    def watch(tokens: Tensor, *arguments: object, **settings: object) -> object:
        found.append(tokens[0, 0].clone())
        return decode(tokens, *arguments, **settings)

    inputs = AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt")
    if audio is not None:
        inputs["input_values"] = audio[None]
        inputs["padding_mask"] = torch.ones_like(audio[None, :1])
    K = model.config.decoder.num_codebooks // model.config.decoder.audio_channels
    model.audio_encoder.decode = watch
    try:
        model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=False,
            guidance_scale=guidance_scale,
            max_new_tokens=num_frames + K - 1,
            **{k: v for k, v in inputs.items() if k in ("input_values", "padding_mask")},
        )
    finally:
        model.audio_encoder.decode = decode
    return found[0] if len(found) == 1 else torch.stack(found, dim=1).flatten(0, 1)  # L0 R0 L1 R1


@pytest.mark.parametrize(("kind", "text"), list(itertools.product(["mono", "stereo"], PROMPTS)))
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_greedy_tokens_are_those_of_transformers(
    kind: str, text: str, guidance_scale: float, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(f"{'stereo_' * (kind == 'stereo')}musicgen_folder")
    reference = MusicgenForConditionalGeneration.from_pretrained(folder).eval()
    model = lm_audio.load(folder)
    greedy = lm_audio.Sampling(temperature=0.0, guidance_scale=guidance_scale)
    clip = model.generate(text, duration=24 / 50, seed=0, sampling=greedy)
    expected = reference_tokens(
        reference, folder, text, num_frames=24, guidance_scale=guidance_scale
    )
    assert len(expected.unique()) > 3, "the weights are too dull to compare"
    assert torch.equal(clip.tokens, expected)


@pytest.mark.parametrize("num_prompt_frames", [1, 3, 11])
@pytest.mark.parametrize("kind", ["mono", "stereo"])
def test_greedy_continuations_are_those_of_transformers(
    kind: str, num_prompt_frames: int, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(f"{'stereo_' * (kind == 'stereo')}musicgen_folder")
    reference = MusicgenForConditionalGeneration.from_pretrained(folder).eval()
    torch.manual_seed(0)
    audio = 0.3 * torch.randn(1 + (kind == "stereo"), num_prompt_frames * 640)
    clip = lm_audio.load(folder).continue_from(
        (audio, 32_000),
        duration=13 / 50,
        text="rain",
        seed=0,
        sampling=lm_audio.Sampling(temperature=0.0),
    )
    expected = reference_tokens(reference, folder, "rain", num_frames=13, audio=audio)
    assert torch.equal(clip.tokens, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 1, "ffn_dim": 96},
        {"hidden_size": 48, "num_attention_heads": 4},
        {"hidden_size": 27, "num_attention_heads": 3},
        {"hidden_size": 18, "num_attention_heads": 2},
    ],
)
def test_other_shapes_give_equal_tokens_too(
    changes: dict[str, int],
    make_musicgen: Callable[..., MusicgenForConditionalGeneration],
    save_musicgen: Callable[..., Path],
    tmp_path: Path,
) -> None:
    reference = make_musicgen(**changes)
    folder = save_musicgen(reference, tmp_path / "model")
    clip = lm_audio.load(folder).generate(
        "rain", duration=0.3, seed=0, sampling=lm_audio.Sampling(temperature=0.0)
    )
    expected = reference_tokens(reference, folder, "rain", num_frames=15)
    assert torch.equal(clip.tokens, expected)
