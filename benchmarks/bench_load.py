"""Peak memory of `load`, compared with the size of the loaded tensors.

    python benchmarks/bench_load.py                                # a minute, 4 GB of disk
    python benchmarks/bench_load.py --preset tiny

Models with random weights are written in the two most common layouts: ours, and that of
transformers' MusicGen. A separate process loads each in each dtype and samples its private memory.
Pages of memory-mapped files do not count, since the system can reclaim them.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import tokenizers
import torch
import tyro
from bench_generate import SHAPES, new_peer  # type: ignore[import-not-found]  # beside this file

from audio_tokenizers.acoustic.frame_codec import FrameCodec, FrameCodecConfig
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.families.audiocraft.stages import audiogen
from lm_audio.model import Model
from lm_audio.networks.token_lm import TokenLM
from lm_audio.patterns import delayed
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling

_LOAD = """
import gc, json, sys, threading, time
import lm_audio, torch, transformers
from lm_audio.loading import load
from lm_audio.networks.cpu import kernels
kernels.available()

def own():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

most, going = 0, True

def watch():
    global most
    while going:
        most = max(most, own())
        time.sleep(0.002)

load(sys.argv[3], device="cpu", dtype=sys.argv[2])  # a tiny model, to import everything first
gc.collect()
before = own()
thread = threading.Thread(target=watch)
thread.start()
model = load(sys.argv[1], device="cpu", dtype=sys.argv[2])
going = False
thread.join()
tensors = [x for x in gc.get_objects() if isinstance(x, torch.Tensor)]
stored = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
print(json.dumps([most - before, sum(stored.values())]))
"""


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["tiny", "small"] = "small"
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "int8")


def main(config: Config) -> None:
    print("| layout | dtype | tensors, MB | peak, MB | peak / tensors |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        folder = Path(temporary)
        for name, write in (("ours", write_ours), ("transformers", write_musicgen)):
            write(config.preset, folder / name)
            write("tiny", folder / f"tiny-{name}")
            for dtype in config.dtypes:
                most, tensors = measured(folder / name, folder / f"tiny-{name}", dtype)
                print(
                    f"| {name} | {dtype} | {tensors / 1e6:.0f} | {most / 1e6:.0f} | "
                    f"{most / tensors:.2f} |",
                    flush=True,
                )


def measured(folder: Path, tiny: Path, dtype: str) -> tuple[int, int]:
    command = [sys.executable, "-c", _LOAD, str(folder), dtype, str(tiny)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    most, tensors = json.loads(done.stdout.splitlines()[-1])
    return most, tensors


def write_ours(preset: str, folder: Path) -> None:
    shape = SHAPES[preset]
    codec = FrameCodec(
        FrameCodecConfig(num_codebooks=shape.num_streams, codebook_size=shape.vocab_size)
    ).eval()
    for layer in codec.quantizer.layers:
        layer._codebook.initted.fill_(True)
    conditioners = Conditioners(
        {"text": LabelConditioner(["rain"], shape.transformer.dim)}, {"text": "cross"}
    )
    stages = audiogen(
        TokenLM(shape),
        pattern=delayed(range(shape.num_streams)),
        conditioners=conditioners,
        frame_rate=Fraction(codec.sample_rate, codec.hop_length),
        window_frames=1500,
        overlap_frames=600,
        sampling=Sampling(),
    )
    AudioPipeline(Model(stages, CodecRenderer(codec))).save(folder)


def write_musicgen(preset: str, folder: Path) -> None:
    shape = SHAPES[preset]
    new_peer(shape).save_pretrained(folder)
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("a", -1.0)]
    fast = tokenizers.Tokenizer(tokenizers.models.Unigram(words, unk_id=2))
    fast.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "extra_ids": 0}
    settings = {"tokenizer_class": "T5Tokenizer", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
