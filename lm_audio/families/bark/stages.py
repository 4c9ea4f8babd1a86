"""Bark: a text, and perhaps a voice, to semantic, then coarse, then all acoustic tokens.

The first two stages are token language models whose windows follow tokens of their own table: the
text and the voice, or the semantic tokens around the window and the acoustic ones before it. The
third one is in `bark_fine.py`. There is no guidance: Bark was not trained with prompts dropped.

Shapes: L context, K codebooks, T frames.
"""

import logging
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.families.bark.fine_stage import FineStage
from lm_audio.families.bark.parts import BarkParts, BarkSettings
from lm_audio.families.bark.voices import BarkVoice, BarkVoices
from lm_audio.generation.lm_stage import Stage
from lm_audio.generation.sequence import Row, Sequence
from lm_audio.generation.token_batch import TokenBatch
from lm_audio.generation.track import AnyStage, Run, Source, StageBatch
from lm_audio.generation.window import Window
from lm_audio.networks.condition import Condition, Fused
from lm_audio.patterns import flattened, parallel
from lm_audio.sampling import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NO_GUIDANCE = (1.0, Sampling().guidance_scale)  # the default of others, so that it may stand
logger = logging.getLogger(__name__)
SomeWindow = TypeVar("SomeWindow", bound=Window)


def bark(parts: BarkParts) -> list[AnyStage]:
    """The three stages; the last one is rendered."""
    s = parts.settings
    common: dict[str, Any] = {
        "conditioners": Conditioners({}, {}), "keep": 0, "settings": s, "voices": parts.voices,
    }  # fmt: skip
    return [
        SemanticStage(
            name="semantic",
            model=parts.semantic,
            pattern=parallel(1),
            frame_rate=s.semantic_rate,
            context=s.semantic_length,
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
            context=s.coarse_window // s.coarse_codebooks,
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
class SemanticStage(Stage):
    """Semantic tokens of a text, said by a voice, until the speech ends."""

    settings: BarkSettings
    voices: BarkVoices
    tokenizer: "PreTrainedTokenizerBase"

    @property
    def conditions(self) -> tuple[str, ...]:
        return ("text", "voice")

    def new_batch(self, *, rows_per_pass: int | None = None) -> StageBatch:
        return _TrimmingBatch(self, rows_per_pass=rows_per_pass)

    def trim(self, run: Run) -> None:
        """Leaves the run no more tokens than the model makes for one text."""
        if run.num_frames > self.context:
            run.end(self.context)

    def window(self, run: Run) -> "SemanticWindow":
        return _as(SemanticWindow, super().window(run))

    def check(self, run: Run) -> None:
        super().check(run)
        _check_run(run, self.voices)
        if not isinstance(text := run.values.get("text"), str | None):
            raise ValueError(f"Got {text!r} as a text; give a string.")

    def text_tokens(self, text: str | None) -> Tensor:
        """The text [L] as the model numbers it, padded; no text is padding alone."""
        s = self.settings
        tokenizer: Any = self.tokenizer
        found = tokenizer(text or "", add_special_tokens=False, verbose=False)["input_ids"]
        if len(found) > s.text_length:
            logger.warning(
                "The text has %d tokens and Bark reads %d: the end is cut, give it in parts.",
                len(found), s.text_length,
            )  # fmt: skip
        tokens = torch.full((s.text_length,), s.text_pad)
        found = found[: s.text_length]
        tokens[: len(found)] = torch.tensor(found, dtype=torch.int64) + s.text_offset
        return tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class CoarseStage(Stage):
    """The first codebooks of semantic tokens, in short windows that see what is before them."""

    settings: BarkSettings
    voices: BarkVoices

    @property
    def conditions(self) -> tuple[str, ...]:
        return ("voice",)

    @property
    def may_end(self) -> bool:
        return True

    def new_batch(self, *, rows_per_pass: int | None = None) -> StageBatch:
        return _TrimmingBatch(self, rows_per_pass=rows_per_pass)

    def check(self, run: Run) -> None:
        super().check(run)
        _check_run(run, self.voices)

    def trim(self, run: Run) -> None:
        """Ends the run where its semantic tokens do."""
        source, s = run.source, self.settings
        if source is None or not source.done:
            return
        num_frames = int(source.num_frames * s.coarse_per_semantic / s.coarse_codebooks)
        if num_frames >= run.num_frames - 1:  # a part of a frame may be missing through rounding
            return
        if source.num_frames == s.semantic_length:
            logger.warning(
                "The speech was cut at %.1f s, the most that Bark makes of one text, and silence "
                "follows; give the text in parts.", num_frames / s.coarse_rate,
            )  # fmt: skip
        run.end(num_frames)

    def window(self, run: Run) -> "CoarseWindow":
        return _as(CoarseWindow, super().window(run))


def _check_run(run: Run, voices: BarkVoices) -> None:
    if run.negative or run.sampling.guidance_scale not in _NO_GUIDANCE:
        raise ValueError(
            "Bark has no guidance: it was not trained to do without its prompts; leave out the "
            "negative prompt and the guidance scale."
        )
    if (voice := run.values.get("voice")) is not None:
        voices.load(voice)


@dataclass(frozen=True, kw_only=True, eq=False)
class _ContextWindow(Window):
    """A window that follows embedded tokens, in a single row: nothing is ever dropped."""

    stage: SemanticStage | CoarseStage

    @cached_property
    def voice(self) -> BarkVoice | None:
        given = self.run.values.get("voice")
        return None if given is None else self.stage.voices.load(given)

    def rows(self) -> tuple[Row, ...]:
        weights = torch.ones(len(self.frames), device=self.stage.device)
        return (Row(fused=self.fused(), weights=weights),)

    def fused(self, dropped: frozenset[str] = frozenset()) -> Fused:  # noqa: ARG002
        embeddings = self.context()
        mask = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
        return Fused(prepend=Condition(embeddings=embeddings, mask=mask))

    def context(self) -> Tensor:
        """What the window follows: [1, L, D]."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class SemanticWindow(_ContextWindow):
    """It follows the text and the voice, added token by token."""

    stage: SemanticStage

    def context(self) -> Tensor:
        stage, s = self.stage, self.stage.settings
        text = stage.text_tokens(self.run.values.get("text"))
        history = torch.full_like(text, s.semantic_pad)
        if self.voice is not None:
            last = self.voice.semantic[-s.text_length :]
            history[: len(last)] = last
        both = torch.stack([text, history])[:, None].to(stage.device)  # [2, 1, L]
        return stage.model.embed(both).sum(dim=0, keepdim=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class CoarseWindow(_ContextWindow):
    """It follows the semantic tokens around it, a token that says so, and the frames before it."""

    stage: CoarseStage

    def ready(self, step: int) -> bool:  # noqa: ARG002
        source = self.run.source
        assert source is not None
        needed = self._first_semantic + self.stage.settings.coarse_context
        return source.done or len(self.history[0]) + source.num_done >= needed

    def sequence(self) -> Sequence:
        return replace(super().sequence(), start_token=int(self.tokens[-1]))

    def context(self) -> Tensor:
        return self.stage.model.embed(self.tokens[None, None, :-1].to(self.stage.device))

    @cached_property
    def tokens(self) -> Tensor:
        """The context [L] as the model numbers it; its last token starts the window."""
        source, s = self.run.source, self.stage.settings
        assert source is not None
        semantic = torch.cat([self.history[0], source.tokens[0, : source.num_done].cpu()])
        semantic = semantic[self._first_semantic :][: s.coarse_context] + s.num_coarse_tokens
        padding = torch.full((s.coarse_context - len(semantic),), s.coarse_pad)
        before = torch.cat([self.history[1], self._flat(self.run.tokens[:, : self.start].cpu())])
        start = torch.tensor([s.coarse_start])
        return torch.cat([semantic, padding, start, before[-s.coarse_history :]])

    @cached_property
    def history(self) -> tuple[Tensor, Tensor]:
        """The end of the voice that both kinds of tokens cover: semantic ones, and flat coarse."""
        s = self.stage.settings
        if self.voice is None:
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        semantic, coarse = self.voice.semantic, self._flat(self.voice.coarse)
        num_semantic = min(
            s.semantic_history,
            len(semantic) - len(semantic) % 2,
            int(len(coarse) / s.coarse_per_semantic),
        )
        num_coarse = round(num_semantic * s.coarse_per_semantic)
        # As trained: the last frame of the voice is left out.
        coarse = coarse[len(coarse) - num_coarse :][: -s.coarse_codebooks]
        return semantic[len(semantic) - num_semantic :], coarse

    @property
    def _first_semantic(self) -> int:
        """Where the semantic tokens of the context begin, counted from those of the voice."""
        s = self.stage.settings
        made = round(self.start * s.coarse_codebooks / s.coarse_per_semantic)
        return max(0, len(self.history[0]) + made - s.semantic_history)

    def _flat(self, tokens: Tensor) -> Tensor:
        """Tokens [K, T] one by one, those of codebook k from k * codebook_size on."""
        first = torch.arange(len(tokens)) * self.stage.settings.codebook_size
        return (tokens + first[:, None]).T.flatten()


class _TrimmingBatch(TokenBatch):
    """Ends runs as soon as it is known how long they can be."""

    _stage: SemanticStage | CoarseStage

    def add(self, run: Run) -> None:
        self._stage.trim(run)
        super().add(run)

    def _open_ready(self) -> None:
        for window in list(self._waiting):
            self._stage.trim(window.run)
            if window.stop > window.run.num_frames:
                self._waiting.remove(window)
                self.add(window.run)
        super()._open_ready()


def _as(kind: type[SomeWindow], window: Window) -> SomeWindow:
    return kind(**{field.name: getattr(window, field.name) for field in fields(window)})
