"""What must last is what changes the losses, and there is data or a clear word."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from audio_tokenizers.acoustic.registry import load_codec
from lm_audio.data.shards import Shards
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.training.settings import LanguageModelSettings, read_data


@dataclass(frozen=True, kw_only=True)
class Config(LanguageModelSettings):
    out: Path = Path("runs/x")
    text_dropout: float = 0.1


PRESETS = {"tiny": Config(preset="tiny", steps=5), "small": Config()}


def test_a_large_preset_needs_data_and_the_tiny_one_makes_it_up(tmp_path: Path) -> None:
    codec = load_codec(CODEC_FOLDER)
    small, tiny = (replace(PRESETS[name], out=tmp_path) for name in ("small", "tiny"))
    with pytest.raises(ValueError, match="The preset 'small' needs data"):
        read_data(small, codec)
    made_up, held_out = read_data(tiny, codec)
    assert made_up.streams["acoustic"].identity == codec.identity
    assert not {*made_up.ids} & {*held_out.ids}
    given, _ = read_data(replace(small, data=(tmp_path / "data",)), codec)
    assert given.ids == made_up.ids
    assert read_data(replace(small, dry_run=True), codec)[0].ids == made_up.ids


@pytest.mark.parametrize(
    ("changes", "lasts"),
    [
        ({"learning_rate": 0.1}, True),
        ({"seed": 1}, True),
        ({"steps": 7}, True),
        ({"text_dropout": 0.2}, True),
        ({"tokens_per_batch": 9}, True),
        ({"precision": "float32"}, True),
        ({"out": Path("elsewhere")}, False),
        ({"save_every": 1}, False),
        ({"num_workers": 3}, False),
        ({"recompute": True}, False),
    ],
)
def test_what_changes_the_losses_must_last(
    changes: dict[str, object], lasts: bool, make_shards: Callable[..., Shards]
) -> None:
    data = make_shards([20])
    changed = replace(PRESETS["small"], **changes)  # type: ignore[arg-type]
    assert (changed.lasting(4, data=data) != PRESETS["small"].lasting(4, data=data)) == lasts


def test_more_processes_may_go_on_with_less_accumulation(
    make_shards: Callable[..., Shards],
) -> None:
    data = make_shards([20])
    one = replace(PRESETS["small"], accumulation=4)
    assert one.lasting(4, data=data) == PRESETS["small"].lasting(4, data=data)
    assert one.lasting(4, data=data) != one.lasting(8, data=data)


def test_a_run_goes_on_with_the_data_that_it_had(make_shards: Callable[..., Shards]) -> None:
    before = PRESETS["small"].lasting(4, data=make_shards([20, 30]))
    assert PRESETS["small"].lasting(4, data=make_shards([20, 30])) == before
    assert PRESETS["small"].lasting(4, data=make_shards([20, 30, 40])) != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"accumulation": 0}, "accumulation must be at least 1, got 0"),
        ({"evaluate_every": 0}, "evaluate_every must be at least 1, got 0"),
        ({"evaluate_batches": 0}, "evaluate_batches must be at least 1, got 0"),
        ({"save_every": -1}, "save_every must be at least 1, got -1"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
    ],
)
def test_numbers_without_sense_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PRESETS["small"], **changes)


def test_the_learning_rate_follows_the_schedule() -> None:
    settings = replace(PRESETS["small"], steps=100, warmup_steps=10, learning_rate=0.5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=9.0)
    for step, share in ((0, 0.1), (9, 1.0), (99, 0.1)):
        assert settings.schedule_learning_rate(optimizer, step) == pytest.approx(share, abs=1e-3)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * share, abs=1e-3)
