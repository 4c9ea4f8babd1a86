"""A small synthetic corpus with every field that the evaluation reads, made in seconds."""

import json
from fractions import Fraction
from pathlib import Path

import torch

from audio_tokenizers.audio_files import audio_info
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.protocol import SemanticTokenizer
from lm_audio.data.manifest import SPLITS, make_cut, write_cuts
from lm_audio.data.shards import Conditions, Example, Stream, shard_path, write_shard
from lm_audio.data.synthetic import synthetic_clips
from measures.corpus_clips import UNSEEN_FILE, read_corpus

PLAYERS = {"pluck": "piano", "chirp": "flute", "rain": "drums"}
SAMPLE_RATE = 24_000


def make_up_corpus(folder: Path, *, num_clips: int = 24, seed: int = 0) -> list[str]:
    """Writes clips of 3.5 s, half of them held out; the kind is label, instrument and speaker.

    Returns all captions, the unseen ones included.
    """
    cuts, texts = [], set()
    for clip in synthetic_clips(
        num_clips=num_clips, seconds=3.5, sample_rate=SAMPLE_RATE, seed=seed
    ):
        path = folder / "audio" / f"{clip.name}.wav"
        write_audio(path, torch.from_numpy(clip.samples)[None].float() / 2**15, SAMPLE_RATE)
        name = PLAYERS[clip.kind]
        captions = [f"the sound of {name}", f"{name} can be heard"]
        texts.update(captions)
        known: Conditions = {
            "text": captions,
            "label": name,
            "instruments": name,
            "speaker": name,
            "transcript": name,
        }
        cuts.append(make_cut(clip.name, path, info=audio_info(path), conditions=known))
    write_cuts(folder, cuts, seed=seed, held_out=0.5)
    unseen = [{"text": f"some {name}", "label": name} for name in PLAYERS.values()]
    (folder / UNSEEN_FILE).write_text("".join(f"{json.dumps(row)}\n" for row in unseen))
    return sorted(texts.union(row["text"] for row in unseen))


@torch.inference_mode()
def write_semantic_shards(folder: Path, corpus: Path, tokenizer: SemanticTokenizer) -> None:
    """Writes the semantic tokens of both splits of a corpus."""
    stream = Stream(
        rate=Fraction(tokenizer.frame_rate).limit_denominator(1000),
        num_codebooks=1,
        num_tokens=tokenizer.num_tokens,
        identity=tokenizer.identity,
    )
    for split in SPLITS:
        examples = []
        for clip in read_corpus(corpus, split):
            tokens = tokenizer.encode(clip.audio(tokenizer.sample_rate).samples[None])[0]
            examples.append(Example(id=clip.name, streams={"semantic": tokens}, conditions={}))
        write_shard(shard_path(folder, split, 0), examples, {"semantic": stream})
