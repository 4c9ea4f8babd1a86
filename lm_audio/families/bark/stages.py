"""Bark: text and an optional voice to semantic, then coarse, then all acoustic tokens.

The first two stages are token language models whose windows have a prefix from their own embedding
table: the text and the voice, or the semantic tokens around the window and the acoustic ones before
it. The third is in `fine_stage.py`. There is no guidance: Bark was trained without prompt dropout.

Shapes: L context, K codebooks, T frames.
"""

import logging
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.families.bark.fine_stage import FineStage
from lm_audio.families.bark.parts import BarkParts, BarkSettings
from lm_audio.families.bark.voices import BarkVoice, BarkVoices
from lm_audio.generation.lm_stage import LMStage, Window
from lm_audio.generation.step import Row
from lm_audio.generation.track import Source, Stage, Track
from lm_audio.networks.condition import Condition, Fused
from lm_audio.patterns import flattened, parallel
from lm_audio.sampling import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NO_GUIDANCE = (1.0, Sampling().guidance_scale)  # also accept the default of other models
logger = logging.getLogger(__name__)


def bark(parts: BarkParts) -> list[Stage]:
    """The three stages; the last one is rendered."""
    s = parts.settings
    common: dict[str, Any] = {
        "conditioners": Conditioners({}, {}), "overlap_frames": 0, "settings": s,
        "voices": parts.voices,
    }  # fmt: skip
    return [
        SemanticStage(
            name="semantic",
            model=parts.semantic,
            pattern=parallel(1),
            frame_rate=s.semantic_rate,
            window_frames=s.semantic_length,
            sampling=s.semantic,
            start_token=s.semantic_start,
            end_token=s.semantic_pad,
            num_choices=s.semantic_pad + 1,
            token_kind="semantic",
            tokenizer=parts.text_tokenizer,
            **common,
        ),
        CoarseStage(
            name="coarse",
            model=parts.coarse,
            pattern=flattened(s.coarse_codebooks, codebook_size=s.codebook_size),
            frame_rate=Fraction(s.coarse_rate),
            window_frames=s.coarse_window // s.coarse_codebooks,
            sampling=s.coarse,
            start_token=s.coarse_start,
            source=Source(stage="semantic", condition="semantic"),
            **common,
        ),
        FineStage(
            name="fine",
            model=parts.fine,
            frame_rate=Fraction(s.coarse_rate),
            sampling=s.fine,
            source=Source(stage="coarse", condition="coarse"),
            settings=s,
            voices=parts.voices,
        ),
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class SemanticStage(LMStage):
    """Semantic tokens of a text, spoken by a voice, until the speech ends."""

    settings: BarkSettings
    voices: BarkVoices
    tokenizer: "PreTrainedTokenizerBase"

    @property
    def conditions(self) -> tuple[str, ...]:
        return ("text", "voice")

    @property
    def follows_stories(self) -> bool:
        return False

    def trim(self, track: Track) -> None:
        """Limits the track to the tokens that the model makes for one text."""
        if track.num_frames > self.window_frames:
            track.end(self.window_frames)

    def check(self, track: Track) -> None:
        super().check(track)
        _check_track(track, self.voices)
        if not isinstance(text := track.conditions.get("text"), str | None):
            raise ValueError(f"A text prompt must be a string, got {text!r}.")

    @torch.inference_mode()
    def open(self, window: Window) -> None:
        """Sets the prefix of a window: the sum of text and voice embeddings, token by token."""
        s, conditions = self.settings, window.track.conditions
        text = self.text_tokens(conditions.get("text"))
        history = torch.full_like(text, s.semantic_pad)
        if (voice := _voice(self, window.track)) is not None:
            last = voice.semantic[-s.text_length :]
            history[: len(last)] = last
        both = torch.stack([text, history])[:, None].to(self.device)  # [2, 1, L]
        window.rows = (_single_row(window, self.model.embed(both).sum(dim=0, keepdim=True)),)

    def text_tokens(self, text: str | None) -> Tensor:
        """The text tokens [L] with the model's offset, padded; all padding without a text."""
        s = self.settings
        tokenizer: Any = self.tokenizer
        found = tokenizer(text or "", add_special_tokens=False, verbose=False)["input_ids"]
        if len(found) > s.text_length:
            logger.warning(
                "The text has %d tokens and is truncated to %d. Split it into shorter parts.",
                len(found), s.text_length,
            )  # fmt: skip
        tokens = torch.full((s.text_length,), s.text_pad)
        found = found[: s.text_length]
        tokens[: len(found)] = torch.tensor(found, dtype=torch.int64) + s.text_offset
        return tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class CoarseStage(LMStage):
    """The first codebooks from semantic tokens, in short windows that follow their history."""

    settings: BarkSettings
    voices: BarkVoices

    @property
    def conditions(self) -> tuple[str, ...]:
        return ("voice",)

    @property
    def may_end(self) -> bool:
        return True

    def check(self, track: Track) -> None:
        super().check(track)
        _check_track(track, self.voices)

    def trim(self, track: Track) -> None:
        """Ends the track where its semantic tokens do."""
        source, s = track.source, self.settings
        if source is None or not source.done:
            return
        num_frames = int(source.num_frames * s.coarse_per_semantic / s.coarse_codebooks)
        if num_frames >= track.num_frames - 1:  # rounding may lose part of a frame
            return
        if source.num_frames == s.semantic_length:
            logger.warning(
                "The speech is cut at %.1f s, Bark's limit for one text, and padded with silence. "
                "Split the text into shorter parts.", num_frames / s.coarse_rate,
            )  # fmt: skip
        track.end(num_frames)

    def ready(self, window: Window) -> bool:
        source = window.track.source
        assert source is not None
        if window.rows or source.done:
            return True
        history = self._history(window.track)[0]
        needed = self._first_semantic(window, history) + self.settings.coarse_context
        return len(history) + source.num_done >= needed

    @torch.inference_mode()
    def open(self, window: Window) -> None:
        """Sets the prefix: semantic tokens around the window, a start token, earlier frames."""
        tokens = self._context(window)
        window.start_token = int(tokens[-1])
        embeddings = self.model.embed(tokens[None, None, :-1].to(self.device))
        window.rows = (_single_row(window, embeddings),)

    def _context(self, window: Window) -> Tensor:
        """The context [L] in the model's vocabulary; its last token starts the window."""
        track, source, s = window.track, window.track.source, self.settings
        assert source is not None
        known, flat = self._history(track)
        semantic = torch.cat([known, source.values[0, : source.num_done].cpu()])
        semantic = semantic[self._first_semantic(window, known) :][: s.coarse_context]
        padding = torch.full((s.coarse_context - len(semantic),), s.coarse_pad)
        before = torch.cat([flat, self._flat(track.values[:, : window.start].cpu())])
        start = torch.tensor([s.coarse_start])
        history = before[-s.coarse_history :]
        return torch.cat([semantic + s.num_coarse_tokens, padding, start, history])

    def _history(self, track: Track) -> tuple[Tensor, Tensor]:
        """The end of the voice that both kinds of tokens cover: semantic and flattened coarse."""
        s, voice = self.settings, _voice(self, track)
        if voice is None:
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        semantic, coarse = voice.semantic, self._flat(voice.coarse)
        num_semantic = min(
            s.semantic_history,
            len(semantic) - len(semantic) % 2,
            int(len(coarse) / s.coarse_per_semantic),
        )
        num_coarse = round(num_semantic * s.coarse_per_semantic)
        # As in training, without the last frame of the voice.
        coarse = coarse[len(coarse) - num_coarse :][: -s.coarse_codebooks]
        return semantic[len(semantic) - num_semantic :], coarse

    def _first_semantic(self, window: Window, history: Tensor) -> int:
        """The index of the context's first semantic token, counted from the voice's."""
        s = self.settings
        made = round(window.start * s.coarse_codebooks / s.coarse_per_semantic)
        return max(0, len(history) + made - s.semantic_history)

    def _flat(self, tokens: Tensor) -> Tensor:
        """Tokens [K, T] flattened, with an offset of k * codebook_size for codebook k."""
        first = torch.arange(len(tokens)) * self.settings.codebook_size
        return (tokens + first[:, None]).T.flatten()


def _voice(stage: SemanticStage | CoarseStage, track: Track) -> BarkVoice | None:
    given = track.conditions.get("voice")
    return None if given is None else stage.voices.load(given)


def _single_row(window: Window, embeddings: Tensor) -> Row:
    """The only guidance row, since nothing is dropped; its prefix is embeddings [1, L, D]."""
    mask = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
    prefix = Condition(embeddings=embeddings, mask=mask)
    weights = torch.ones(len(window.frames), device=embeddings.device)
    return Row(fused=Fused(prepend=prefix), weights=weights)


def _check_track(track: Track, voices: BarkVoices) -> None:
    assert isinstance(track.sampling, Sampling)
    if track.negative or track.sampling.guidance_scale not in _NO_GUIDANCE:
        raise ValueError(
            "Bark does not support guidance. Remove the negative prompt and the guidance scale."
        )
    if (voice := track.conditions.get("voice")) is not None:
        voices.load(voice)
