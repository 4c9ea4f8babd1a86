"""Pictures, films and sounds as prompts, in the place of the tokens of a text.

An encoder with a joint space of texts and something else, CLIP or CLAP, gives a vector of length 1.
A small map turns it into the tokens that the text encoder would give for a text with this vector;
recipes/train_prompt_map.py trains it on texts alone.

Shapes: B batch, L tokens, D width, F pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_audio.conditioners.condition import Null
from lm_audio.conditioners.joint_spaces import PictureSpace, SoundSpace
from lm_audio.conditioners.melody import read_recording
from lm_audio.conditioners.pictures import read_film, read_picture
from lm_audio.networks.condition import Condition, stack

IMAGE, VIDEO, AUDIO, START = "image", "video", "audio", "start"
"""The names of conditions; the stage itself gives the last one."""


@dataclass(frozen=True, kw_only=True)
class PromptMapConfig:
    """The shape of a map.

    Args:
        in_width: of the vectors.
        num_tokens, width: of the tokens.
    """

    in_width: int
    hidden_width: int
    num_tokens: int
    width: int


class PromptMap(nn.Module):
    """Maps a vector to tokens: each is its own function of the vector, added to its mean."""

    def __init__(self, config: PromptMapConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_width
        self.first = nn.Linear(config.in_width, hidden)
        self.tokens = nn.Parameter(torch.randn(config.num_tokens, hidden) * hidden**-0.5)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, config.width)
        self.mean = nn.Parameter(torch.zeros(config.num_tokens, config.width))

    def forward(self, vectors: Tensor) -> Tensor:
        """Tokens [B, L, D] of vectors [B, D]."""
        x = F.gelu(self.first(vectors))[:, None] + self.tokens  # [B, L, D]
        return self.mean + self.last(x + F.gelu(self.second(x)))


class Prompt(nn.Module):
    """A prompt other than text, as tokens in the place of the text's."""

    def __init__(self, prompt_map: PromptMap) -> None:
        super().__init__()
        self.map = prompt_map.eval().requires_grad_(False)
        self.dim = prompt_map.config.width
        self.null = Null("none", self.dim)

    def forward(self, values: Sequence[Any | None]) -> Condition:
        """Embeds B prompts; without one there are no entries."""
        none = self.null.embedding
        return stack([none if value is None else self.embed(value) for value in values])

    def embed(self, value: Any) -> Tensor:
        """The entries [L, D] of a prompt."""
        raise NotImplementedError

    def mapped(self, vector: Tensor) -> Tensor:
        """The tokens [L, D] of a vector [D]."""
        return self.map(vector[None].to(self.map.first.weight))[0].float()


class Picture(Prompt):
    """What is seen in a picture."""

    def __init__(self, space: PictureSpace, prompt_map: PromptMap) -> None:
        super().__init__(prompt_map)
        self.space = space

    @torch.inference_mode()
    def embed(self, value: Any) -> Tensor:
        return self.mapped(self.space.embed_pictures([read_picture(value)])[0])


class Film(Prompt):
    """What is seen in a film at the time of each window.

    The entries are the vectors of its pictures, one per second.
    """

    def __init__(self, space: PictureSpace, prompt_map: PromptMap) -> None:
        super().__init__(prompt_map)
        self.space = space
        self.dim = space.dim
        self.null = Null("none", self.dim)

    @torch.inference_mode()
    def embed(self, value: Any) -> Tensor:
        return self.space.embed_pictures(read_film(value)).to(self.map.first.weight.device)

    def tokens_at(self, vectors: Tensor, seconds: float) -> Tensor:
        """The tokens [L, D] between the vectors [F, D] of a film; its last picture stays."""
        place = min(max(0.0, seconds), len(vectors) - 1)
        before = min(int(place), max(0, len(vectors) - 2))
        after = min(before + 1, len(vectors) - 1)
        mixed = torch.lerp(vectors[before], vectors[after], place - before)
        return self.mapped(F.normalize(mixed, dim=-1))


class Sound(Prompt):
    """What is heard in a recording."""

    def __init__(self, space: SoundSpace, prompt_map: PromptMap) -> None:
        super().__init__(prompt_map)
        self.space = space

    @torch.inference_mode()
    def embed(self, value: Any) -> Tensor:
        samples = read_recording(value, sample_rate=self.space.sample_rate, what="An audio prompt")
        return self.mapped(self.space.embed_sound(samples))


class Seconds(nn.Module):
    """The time at which a window starts, as it is."""

    dim = 1

    def __init__(self) -> None:
        super().__init__()
        self.null = Null("zero", 1)

    def forward(self, values: Sequence[float | None]) -> Condition:
        zero = self.null.embedding
        return stack([zero if value is None else zero + value for value in values])
