"""Orders of clips: the same ones give the same files, and are not made twice."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from audio_tokenizers.audio_files import audio_info
from lm_audio.evaluation.clips import ClipFile
from measures.clip_specs import (
    ClipSpec,
    GeneratedClip,
    caption_specs,
    continuation_specs,
    generate_missing,
    semantic_tokens,
)
from measures.corpus_clips import CorpusClip

CAPTIONS = {"rain": ["rain", "it rains"], "dog bark": ["a dog", "a hound", "barks"]}


def test_labels_get_equally_many_clips_of_their_captions_in_turns() -> None:
    specs = caption_specs(CAPTIONS, clips_per_label=5, seconds=1.0, seed=0)
    texts = [spec.text for spec in specs if spec.label == "rain"]
    assert sorted(map(texts.count, CAPTIONS["rain"])) == [2, 3]
    assert len({spec.seed for spec in specs}) == 10
    assert caption_specs(CAPTIONS, clips_per_label=5, seconds=1.0, seed=0) == specs
    assert caption_specs(CAPTIONS, clips_per_label=5, seconds=1.0, seed=1) != specs
    fewer = caption_specs({"rain": CAPTIONS["rain"]}, clips_per_label=3, seconds=1.0, seed=0)
    assert fewer == specs[:3]  # other classes and more clips change nothing


def test_a_continuation_begins_where_its_prompt_ends() -> None:
    clips = [CorpusClip(name=n, path=Path(f"{n}.wav"), seconds=9.0, speaker=n) for n in "ab"]
    specs = continuation_specs(clips, prompt=3.0, seconds=5.0)
    assert [o.prompt and (o.prompt.start, o.prompt.duration) for o in specs] == [(0, 3)] * 2
    assert [(o.name, o.speaker, o.seconds, o.seed) for o in specs] == [
        ("a", "a", 5.0, 0),
        ("b", "b", 5.0, 1),
    ]


def test_any_other_spec_has_another_file() -> None:
    spec = ClipSpec(name="a/b", seconds=1.0, seed=0, text="rain")
    others = [
        replace(spec, text="rains"),
        replace(spec, seed=1),
        replace(spec, guided=False),
        replace(spec, prompt=ClipFile(name="x", path=Path("x.wav"))),
    ]
    moved = replace(spec, prompt=ClipFile(name="x", path=Path("elsewhere/x.wav")))
    assert moved.file_name == others[-1].file_name
    names = {spec.file_name, *(other.file_name for other in others)}
    assert len(names) == 5
    assert all(name.startswith("a_b-") and name.endswith(".wav") for name in names)


def test_clips_that_are_there_are_not_made_again(tmp_path: Path) -> None:
    asked: list[list[bool]] = []

    def make(specs: Sequence[ClipSpec]) -> list[GeneratedClip]:
        asked.append([spec.guided for spec in specs])
        return [
            GeneratedClip(
                samples=torch.full((1, 800), 0.001 * spec.seed),
                sample_rate=8000,
                semantic=torch.tensor([[spec.seed]]),
            )
            for spec in specs
        ]

    specs = [ClipSpec(name="a", seconds=0.1, seed=i, guided=i != 1) for i in range(4)]
    done: list[int] = []
    clips = generate_missing(specs[:3], tmp_path, make, batch=2, progress=done.append)
    assert asked == [[True, True], [False]]
    assert sum(done) == 3
    assert [audio_info(clip.path).num_samples for clip in clips] == [800] * 3
    generate_missing(specs, tmp_path, make, batch=2)
    assert asked[2:] == [[True]]
    assert [tokens.tolist() for tokens in semantic_tokens(clips)] == [[0], [1], [2]]
