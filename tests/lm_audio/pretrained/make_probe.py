"""Writes probe.safetensors, with which a test classifies the clips of the embedded default.

    python tests/lm_audio/pretrained/make_probe.py runs/esc10

The folder comes from recipes/prepare_esc10.py. The probe is fitted to the training clips, and the
script prints how many of the held-out clips it classifies correctly.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from lm_audio.data.manifest import conditions_of, read_cut_audio, read_cuts
from sound_probe import EMBEDDING, classify, features, fit_probe


def main(corpus: Path, path: Path) -> None:
    sounds, labels = {}, {}
    for split in ("train", "held_out"):
        cuts = list(read_cuts(corpus, split))
        audio = [
            read_cut_audio(cut, sample_rate=EMBEDDING.sample_rate, num_channels=1) for cut in cuts
        ]
        sounds[split] = [each.samples for each in audio]
        labels[split] = [str(conditions_of(cut)["label"]) for cut in cuts]
    vectors = torch.stack([features(samples) for samples in sounds["train"]])
    probe = fit_probe(vectors, labels["train"])
    save_file(dict(probe), path)
    heard = [classify(probe, samples) for samples in sounds["held_out"]]
    right = sum(one == label for one, label in zip(heard, labels["held_out"], strict=True))
    print(f"{path}: {right} of {len(heard)} held-out clips classified correctly")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("probe.safetensors"))
