"""Orders of clips: the same ones give the same files, and are not made twice."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from audio_tokenizers.audio_files import audio_info
from lm_audio.evaluation.clips import ClipFile
from lm_audio.evaluation.corpus_clips import CorpusClip
from lm_audio.evaluation.orders import (
    Made,
    Order,
    caption_orders,
    continuation_orders,
    fulfil,
    semantic_tokens,
)

CAPTIONS = {"rain": ["rain", "it rains"], "dog bark": ["a dog", "a hound", "barks"]}


def test_labels_get_equally_many_clips_of_their_captions_in_turns() -> None:
    orders = caption_orders(CAPTIONS, clips_per_label=5, seconds=1.0, seed=0)
    texts = [order.text for order in orders if order.label == "rain"]
    assert sorted(map(texts.count, CAPTIONS["rain"])) == [2, 3]
    assert len({order.seed for order in orders}) == 10
    assert caption_orders(CAPTIONS, clips_per_label=5, seconds=1.0, seed=0) == orders
    assert caption_orders(CAPTIONS, clips_per_label=5, seconds=1.0, seed=1) != orders
    fewer = caption_orders({"rain": CAPTIONS["rain"]}, clips_per_label=3, seconds=1.0, seed=0)
    assert fewer == orders[:3]  # other classes and more clips change nothing


def test_a_continuation_begins_where_its_prompt_ends() -> None:
    clips = [CorpusClip(name=n, path=Path(f"{n}.wav"), seconds=9.0, speaker=n) for n in "ab"]
    orders = continuation_orders(clips, prompt=3.0, seconds=5.0)
    assert [o.prompt and (o.prompt.start, o.prompt.duration) for o in orders] == [(0, 3)] * 2
    assert [(o.name, o.speaker, o.seconds, o.seed) for o in orders] == [
        ("a", "a", 5.0, 0),
        ("b", "b", 5.0, 1),
    ]


def test_any_other_order_has_another_file() -> None:
    order = Order(name="a/b", seconds=1.0, seed=0, text="rain")
    others = [
        replace(order, text="rains"),
        replace(order, seed=1),
        replace(order, guided=False),
        replace(order, prompt=ClipFile(name="x", path=Path("x.wav"))),
    ]
    moved = replace(order, prompt=ClipFile(name="x", path=Path("elsewhere/x.wav")))
    assert moved.file_name == others[-1].file_name
    names = {order.file_name, *(other.file_name for other in others)}
    assert len(names) == 5
    assert all(name.startswith("a_b-") and name.endswith(".wav") for name in names)


def test_clips_that_are_there_are_not_made_again(tmp_path: Path) -> None:
    asked: list[list[bool]] = []

    def make(orders: Sequence[Order]) -> list[Made]:
        asked.append([order.guided for order in orders])
        return [
            Made(
                samples=torch.full((1, 800), 0.001 * order.seed),
                sample_rate=8000,
                semantic=torch.tensor([[order.seed]]),
            )
            for order in orders
        ]

    orders = [Order(name="a", seconds=0.1, seed=i, guided=i != 1) for i in range(4)]
    done: list[int] = []
    clips = fulfil(orders[:3], tmp_path, make, batch=2, progress=done.append)
    assert asked == [[True, True], [False]]
    assert sum(done) == 3
    assert [audio_info(clip.path).num_samples for clip in clips] == [800] * 3
    fulfil(orders, tmp_path, make, batch=2)
    assert asked[2:] == [[True]]
    assert [tokens.tolist() for tokens in semantic_tokens(clips)] == [[0], [1], [2]]
