"""The instruments: their General MIDI programs, their ranges, and what they can do."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["melody", "chords", "bass", "drums"]
Touch = Literal["plucked", "struck", "held"]


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """What plays a part.

    Attributes:
        program: in General MIDI, from 0; drums have a channel instead.
        low, high: the comfortable range of a melody, as MIDI pitches.
        roles: what it plays in an ensemble; one that has chords can accompany itself.
        touch: whether notes die away, or sound as long as they are held.
    """

    program: int
    low: int
    high: int
    roles: tuple[Role, ...]
    touch: Touch


INSTRUMENTS: dict[str, Instrument] = {
    "piano": Instrument(program=0, low=60, high=84, roles=("melody", "chords"), touch="struck"),
    "acoustic guitar": Instrument(
        program=25, low=55, high=76, roles=("melody", "chords"), touch="plucked"
    ),
    "electric guitar": Instrument(
        program=27, low=55, high=79, roles=("melody", "chords"), touch="plucked"
    ),
    "harp": Instrument(program=46, low=60, high=86, roles=("melody", "chords"), touch="plucked"),
    "organ": Instrument(program=19, low=60, high=81, roles=("melody", "chords"), touch="held"),
    "accordion": Instrument(program=21, low=60, high=81, roles=("melody", "chords"), touch="held"),
    "violin": Instrument(program=40, low=62, high=88, roles=("melody",), touch="held"),
    "cello": Instrument(program=42, low=41, high=64, roles=("melody", "bass"), touch="held"),
    "flute": Instrument(program=73, low=67, high=91, roles=("melody",), touch="held"),
    "clarinet": Instrument(program=71, low=55, high=79, roles=("melody",), touch="held"),
    "trumpet": Instrument(program=56, low=58, high=79, roles=("melody",), touch="held"),
    "saxophone": Instrument(program=65, low=53, high=77, roles=("melody",), touch="held"),
    "marimba": Instrument(program=12, low=55, high=84, roles=("melody",), touch="struck"),
    "xylophone": Instrument(program=13, low=67, high=91, roles=("melody",), touch="struck"),
    "music box": Instrument(program=10, low=72, high=93, roles=("melody",), touch="plucked"),
    "choir": Instrument(program=52, low=55, high=76, roles=("melody", "chords"), touch="held"),
    "strings": Instrument(program=48, low=55, high=81, roles=("melody", "chords"), touch="held"),
    "synthesizer": Instrument(program=81, low=57, high=84, roles=("melody",), touch="held"),
    "bass": Instrument(program=33, low=31, high=50, roles=("bass",), touch="plucked"),
    "double bass": Instrument(program=32, low=31, high=50, roles=("bass",), touch="plucked"),
    "drums": Instrument(program=0, low=0, high=0, roles=("drums",), touch="struck"),
}


def playing(role: Role) -> list[str]:
    """The names of the instruments that play a role."""
    return [name for name, instrument in INSTRUMENTS.items() if role in instrument.roles]
