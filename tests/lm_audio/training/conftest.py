"""Random shards, and small stages of each composition that learn from them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.data.shards import Example, Shards, Stream, shard_path, write_shard
from lm_audio.families.audiocraft.stages import audiogen
from lm_audio.families.audiolm.stages import audiolm
from lm_audio.families.duet.stages import duet
from lm_audio.generation.lm_stage import LMStage
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import delayed
from lm_audio.sampling import Sampling

CAPTIONS = ["rain", "wind", "hail"]
SHAPE = TransformerConfig(dim=32, num_layers=1, num_heads=2, hidden_dim=32, cross_attention=True)
FLAT = replace(SHAPE, cross_attention=False, positions="relative")


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., Shards]:
    """Makes shards of examples of so many acoustic frames: 4 codebooks of 16 tokens."""

    def make(
        lengths: Sequence[int], *, rate: Fraction = Fraction(50), semantic_rate: int = 25
    ) -> Shards:
        streams = {
            "acoustic": Stream(rate=rate, num_codebooks=4, num_tokens=16, identity="codec"),
            "semantic": Stream(
                rate=Fraction(semantic_rate), num_codebooks=1, num_tokens=16, identity="model"
            ),
        }
        random = torch.Generator().manual_seed(0)
        examples = []
        for number, length in enumerate(lengths):
            num_semantic = int(length * semantic_rate / rate)
            # Few different tokens, so that some follow themselves.
            semantic = torch.randint(3, (1, num_semantic), generator=random) + number % 4 * 3
            acoustic = torch.randint(16, (4, length), generator=random)
            examples.append(
                Example(
                    id=str(number),
                    streams={"acoustic": acoustic, "semantic": semantic},
                    conditions={"text": CAPTIONS, "label": CAPTIONS[number % 3]},
                )
            )
        write_shard(shard_path(tmp_path / "shards", "train", 0), examples, streams)
        return Shards(tmp_path / "shards")

    return make


@pytest.fixture
def duet_stages() -> Callable[..., list[LMStage]]:
    """Makes a duet: semantic, acoustic."""

    def make(*, rate: Fraction = Fraction(50), window_frames: int = 100) -> list[LMStage]:
        torch.manual_seed(0)
        semantic, acoustic = duet(
            semantic=SHAPE,
            acoustic=SHAPE,
            text=lambda dim: LabelConditioner(CAPTIONS, dim),
            num_semantic_tokens=16,
            semantic_rate=Fraction(25),
            num_codebooks=4,
            codebook_size=16,
            frame_rate=rate,
        )
        return [
            semantic,
            replace(acoustic, window_frames=window_frames, overlap_frames=window_frames // 3),
        ]

    return make


@pytest.fixture
def audiolm_stages() -> list[LMStage]:
    """AudioLM's: semantic, coarse, fine."""
    torch.manual_seed(0)
    return audiolm(
        FLAT,
        num_semantic_tokens=16,
        semantic_rate=Fraction(20),
        num_coarse=2,
        num_fine=2,
        codebook_size=16,
        frame_rate=Fraction(50),
    )


@pytest.fixture
def audiogen_stage() -> LMStage:
    """AudioGen's only one, with a text and a label to attend to."""
    torch.manual_seed(0)
    labels = {name: LabelConditioner(CAPTIONS, SHAPE.dim) for name in ("text", "label")}
    config = TokenLMConfig(transformer=SHAPE, num_streams=4, vocab_size=16)
    (stage,) = audiogen(
        TokenLM(config),
        pattern=delayed(range(4)),
        conditioners=Conditioners(labels, {"text": "cross", "label": "cross"}),
        frame_rate=Fraction(50),
        window_frames=100,
        overlap_frames=30,
        sampling=Sampling(),
    )
    return stage
