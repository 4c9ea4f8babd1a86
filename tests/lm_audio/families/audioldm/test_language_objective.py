"""The training of the language of audio, against its generation."""

from pathlib import Path

import pytest
import torch
from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2ProjectionModel
from torch import Tensor
from transformers import GPT2Model

from lm_audio.families.audioldm.audio_language import AudioLanguage, ProjectionConfig
from lm_audio.families.audioldm.gpt2 import Gpt2Config
from lm_audio.families.audioldm.language_objective import (
    LanguageBatch,
    LanguageObjective,
    new_language,
)
from lm_audio.families.audioldm.writing import reads_width, write_language

L, D = 4, 16
LENGTHS = (3, 7, 1)


@pytest.fixture
def language() -> AudioLanguage:
    torch.manual_seed(0)
    gpt2 = Gpt2Config(dim=D, num_layers=2, num_heads=2, hidden_dim=24, num_positions=32)
    made = new_language(ProjectionConfig(first=6, second=10, dim=D), gpt2, num_vectors=L)
    for name, weight in made.named_parameters():
        if not name.endswith("bias"):
            weight.data.normal_(0.1, 0.5)
    return made


def batch(own: Tensor) -> LanguageBatch:
    generator = torch.Generator().manual_seed(1)
    return LanguageBatch(
        clap=[torch.randn(1, 6, generator=generator) for _ in LENGTHS],
        words=[torch.randn(length, 10, generator=generator) for length in LENGTHS],
        targets=torch.randn(len(LENGTHS), L, D, generator=generator),
        own=own,
    )


def alone(language: AudioLanguage, clap: Tensor, words: Tensor, vectors: Tensor) -> Tensor:
    """The output for each vector of one sequence after those before it, step by step."""
    prompt = language.projection(clap, words)
    made = []
    for i in range(L):
        x = torch.cat([prompt, vectors[:i]])
        made.append(language.gpt2(x[None], [])[0, -1])
    return torch.stack(made)


@pytest.mark.parametrize("own", [[False] * 3, [True] * 3, [True, False, True]])
def test_rows_of_a_padded_batch_learn_as_they_do_alone(
    language: AudioLanguage, own: list[bool]
) -> None:
    given = batch(torch.tensor(own))
    objective = LanguageObjective(language, variance=2.0)
    loss = objective(given)
    errors = []
    for i in range(len(LENGTHS)):
        clap, words, target = given.clap[i], given.words[i], given.targets[i]
        vectors = target
        if own[i]:
            vectors = alone(language, clap, words, target).detach()
        errors.append((alone(language, clap, words, vectors) - target).square().mean() / 2)
    expected = torch.stack(errors).mean()
    torch.testing.assert_close(loss, expected)
    gradients = [
        torch.autograd.grad(x, list(language.parameters()), retain_graph=True)
        for x in (loss, expected)
    ]
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_vectors_that_are_generated_predict_themselves(language: AudioLanguage) -> None:
    given = batch(torch.zeros(3, dtype=torch.bool))
    made = torch.stack(
        [language(clap, words).T for clap, words in zip(given.clap, given.words, strict=True)]
    )
    found = LanguageObjective(language, variance=1.0).predicted(given, made)
    torch.testing.assert_close(found, made, atol=1e-5, rtol=1e-5)


def test_new_weights_are_small_and_their_outputs_normal() -> None:
    torch.manual_seed(0)
    gpt2 = Gpt2Config(dim=64, num_layers=8, num_heads=2, hidden_dim=128, num_positions=32)
    made = new_language(ProjectionConfig(first=6, second=10, dim=64), gpt2, num_vectors=8)
    state = made.state_dict()
    assert state["gpt2.h.0.attn.c_attn.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert state["gpt2.h.0.mlp.c_proj.weight"].std() == pytest.approx(0.005, rel=0.05)
    assert all((state[name] == 1).all() for name in state if "ln_" in name and "weight" in name)
    assert all((state[name] == 0).all() for name in state if name.endswith("bias"))
    output = made(torch.randn(1, 6), torch.randn(5, 10)).detach()
    assert output.std() == pytest.approx(1, rel=0.05)


def test_what_is_written_is_read_by_transformers_and_diffusers(
    language: AudioLanguage, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "encoder").mkdir()
    write_language(tmp_path / "model", language, model=folder, encoder=tmp_path / "encoder")
    gpt2 = GPT2Model.from_pretrained(tmp_path / "model" / "language_model").eval()
    assert gpt2.config.max_new_tokens == L
    projection = AudioLDM2ProjectionModel.from_pretrained(
        tmp_path / "model" / "projection_model"
    ).eval()
    given = batch(torch.zeros(3, dtype=torch.bool))
    with torch.no_grad():
        for clap, words in zip(given.clap, given.words, strict=True):
            made = projection(clap[None], words[None]).hidden_states
            for _ in range(L):
                last = gpt2(inputs_embeds=made, use_cache=False).last_hidden_state[:, -1:]
                made = torch.cat([made, last], dim=1)
            torch.testing.assert_close(language(clap, words), made[0, -L:].T, atol=1e-4, rtol=0)
    assert reads_width(folder, D)
    assert not reads_width(folder, 20)
    assert not reads_width(tmp_path, D)
    assert (tmp_path / "model" / "unet").is_dir()
