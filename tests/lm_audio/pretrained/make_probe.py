"""Writes probe.safetensors, with which a test hears what the embedded default makes.

    python tests/lm_audio/pretrained/make_probe.py runs/esc10

The folder is what recipes/prepare_esc10.py wrote. The probe learns from the clips to train on, and
it prints how many of those held out it tells right.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from lm_audio.data.manifest import conditions_of, read_cut_audio, read_cuts
from lm_audio.evaluation.sound_probe import EAR, fit_probe, heard_as, look


def main(corpus: Path, path: Path) -> None:
    sounds, labels = {}, {}
    for split in ("train", "held_out"):
        cuts = list(read_cuts(corpus, split))
        audio = [read_cut_audio(cut, sample_rate=EAR.sample_rate, num_channels=1) for cut in cuts]
        sounds[split] = [each.samples for each in audio]
        labels[split] = [str(conditions_of(cut)["label"]) for cut in cuts]
    looks = torch.stack([look(samples) for samples in sounds["train"]])
    probe = fit_probe(looks, labels["train"])
    save_file(dict(probe), path)
    heard = [heard_as(probe, samples) for samples in sounds["held_out"]]
    right = sum(one == label for one, label in zip(heard, labels["held_out"], strict=True))
    print(f"{path}: {right} of {len(heard)} held-out clips told right")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("probe.safetensors"))
