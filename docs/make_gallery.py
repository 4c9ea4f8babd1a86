"""Renders the clips of the gallery and writes the tables that link them.

    python docs/make_gallery.py                 # every clip into docs/audio, then both tables
    python docs/make_gallery.py --only rain     # some of them
    python docs/make_gallery.py --tables        # the tables alone

CLIPS is the single source: the table in README.md and docs/gallery.md follow from it.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
AUDIO, PAGE, README = ROOT / "docs" / "audio", ROOT / "docs" / "gallery.md", ROOT / "README.md"
START, END = "<!-- gallery: python docs/make_gallery.py -->", "<!-- end of gallery -->"
SECONDS = 5.0


class Sample(NamedTuple):
    """One clip of the gallery, by the bundled model with its default settings."""

    name: str
    prompt: str
    seed: int

    @property
    def command(self) -> str:
        return f'lm-audio generate "{self.prompt}" --seed {self.seed}'


CLIPS = (
    Sample("telephone", "an old telephone rings", 5),
    Sample("dog", "a dog barking", 6),
    Sample("crickets", "crickets at night", 2),
    Sample("baby", "a baby crying", 4),
    Sample("birds", "birds singing", 2),
    Sample("fire", "a crackling fire", 3),
    Sample("waves", "sea waves on a beach", 0),
    Sample("organ", "a church organ", 7),
)


def readme_table() -> str:
    """The table of README.md: file names, each with its command."""
    lines = ["| Clip | Command |", "|---|---|"]
    lines += [f"| [{c.name}.mp3](docs/audio/{c.name}.mp3) | `{c.command}` |" for c in CLIPS]
    return "\n".join(lines)


def page() -> str:
    """docs/gallery.md, with a player for each clip."""
    parts = [
        "# Gallery\n",
        "Clips of the bundled model: 16.4 million parameters in two language models, 64 MB in all, "
        "generated on a CPU. Each command reproduces its clip.\n",
    ]
    for clip in CLIPS:
        parts.append(
            f'\n## {clip.prompt[0].upper()}{clip.prompt[1:]}\n\n<audio controls preload="metadata" '
            f'src="audio/{clip.name}.mp3"></audio>\n\n    {clip.command}\n'
        )
    return "".join(parts)


def write_tables() -> None:
    """Replaces the table in README.md and the page."""
    text = README.read_text(encoding="utf-8")
    head, rest = text.split(START)
    tail = rest.split(END)[1]
    README.write_text(f"{head}{START}\n{readme_table()}\n{END}{tail}", encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


def render(clips: Iterable[Sample], folder: Path, *, seconds: float = SECONDS) -> None:
    """Writes NAME.mp3 for each clip."""
    import lm_audio

    folder.mkdir(exist_ok=True)
    model = lm_audio.load()
    for clip in clips:
        path = folder / f"{clip.name}.mp3"
        model.generate(clip.prompt, duration=seconds, seed=clip.seed).save(path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[c.name for c in CLIPS], metavar="NAME")
    parser.add_argument("--tables", action="store_true", help="write the tables without rendering")
    options = parser.parse_args()
    if not options.tables:
        render([c for c in CLIPS if not options.only or c.name in options.only], AUDIO)
    write_tables()


if __name__ == "__main__":
    main()
