"""Writes golden.json: the tokens that the embedded default makes of a prompt and a seed.

    python tests/lm_audio/pretrained/make_golden.py

Run it when other weights come into the package, on a CPU: tests/lm_audio/pretrained pins them.
"""

import json
from pathlib import Path

import lm_audio

REQUEST = {"prompt": "a dog barking", "duration": 1.0, "seed": 7}


def main(model: lm_audio.AudioPipeline, path: Path) -> None:
    clip = model.generate(**REQUEST)
    tokens = {name: tokens.tolist() for name, tokens in clip.stage_values.items()}
    path.write_text(json.dumps({"request": REQUEST, "tokens": tokens}) + "\n")
    print(f"{path}: {', '.join(tokens)}")


if __name__ == "__main__":
    main(lm_audio.load(device="cpu"), Path(__file__).with_name("golden.json"))
