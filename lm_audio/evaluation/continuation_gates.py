"""Speech and music that go on after a prompt: still the same voice, the same key and tempo?

Only the new sound is judged. What really came after the prompts is judged in the same way, which
tells how well a perfect model would do.

Shapes: n clips, D width.
"""

from collections.abc import Sequence

import torch

from lm_audio.evaluation.clips import ClipFile
from lm_audio.evaluation.gates import GatedMeasurement
from lm_audio.evaluation.judges.dnsmos import Dnsmos
from lm_audio.evaluation.measure_gates import Listener, Watch, compared, overall_quality, unwatched
from lm_audio.evaluation.metrics.speakers import nearest_speakers
from lm_audio.evaluation.musical_profiles import (
    SAMPLE_RATE,
    correlations,
    own_beginnings,
    pitch_class_profile,
    pulse_profile,
)
from lm_audio.evaluation.report import Measurement, mean_of, missing

METHODS = {
    "chroma": "that of pitch-class profiles (roots of magnitudes, 100 to 2000 Hz)",
    "tempo": "that of autocorrelations of onsets at lags of 0.1 to 1 s",
    "chroma and tempo": "the sum of both",
}


def voice_gates(
    made: Sequence[ClipFile],
    real: Sequence[ClipFile],
    enrolled: Sequence[ClipFile],
    listener: Listener | None,
) -> list[GatedMeasurement]:
    """Whether the speaker is still the same."""
    metric = "speech continuation: speaker identified"
    if listener is None:
        return compared("speech", [missing(metric, reason="there is no embedding of voices")])
    speakers = len({clip.speaker for clip in enrolled})
    rows = [
        mean_of(
            right_speakers(clips, enrolled, listener),
            metric=metric + note,
            implementation=f"nearest of {speakers} centroids of {len(enrolled)} training "
            f"utterances; {listener.name}",
            better="higher",
        )
        for note, clips in (("", made), (", real", real))
    ]
    ours = GatedMeasurement(group="speech", measurement=rows[0], gate=0.7, goal=0.95)
    return [ours, *compared("speech", rows[1:])]


def continuation_quality_gates(
    made: Sequence[ClipFile],
    real: Sequence[ClipFile],
    dnsmos: Dnsmos | None,
    *,
    watch: Watch = unwatched,
) -> list[GatedMeasurement]:
    metric = "speech continuation: DNSMOS overall"
    if dnsmos is None:
        return compared("speech", [missing(metric, reason="there is no DNSMOS")])
    rows = [
        mean_of(
            overall_quality(clips, dnsmos, watch=watch),
            metric=metric + note,
            implementation=f"speechmos; {dnsmos.name}",
            better="higher",
        )
        for note, clips in (("", made), (", real", real))
    ]
    ours = GatedMeasurement(group="speech", measurement=rows[0], gate=2.8, goal=3.3)
    return [ours, *compared("speech", rows[1:])]


def music_gates(
    made: Sequence[ClipFile], real: Sequence[ClipFile], prompts: Sequence[ClipFile]
) -> list[GatedMeasurement]:
    """Whether chroma and tempo are rather those of the own prompt than of another piece's."""
    *parts, both = prompt_agreement(made, prompts, what="piano continuation")
    ceiling = prompt_agreement(real, prompts, what="real piano")
    gated = GatedMeasurement(group="piano", measurement=both, gate=0.8, goal=0.95)
    return [gated, *compared("piano", [*parts, *ceiling])]


def right_speakers(
    clips: Sequence[ClipFile], enrolled: Sequence[ClipFile], listener: Listener
) -> list[float]:
    """1 for each clip whose speaker has the nearest centroid of enrolled clips, else 0.

    A clip in which there is no voice to embed is wrong.
    """
    voices, known = listener.means(clips), listener.means(enrolled)
    answers = nearest_speakers(voices.nan_to_num(), known, [str(c.speaker) for c in enrolled])
    heard = voices.isfinite().all(dim=1).tolist()
    return [
        float(is_heard and answer == clip.speaker)
        for is_heard, answer, clip in zip(heard, answers, clips, strict=True)
    ]


def prompt_agreement(
    continuations: Sequence[ClipFile], prompts: Sequence[ClipFile], *, what: str
) -> list[Measurement]:
    """How often continuations are nearer to their own prompt than to that of another piece."""
    heard = [[c.audio(SAMPLE_RATE).samples[0] for c in x] for x in (continuations, prompts)]
    agreement = {
        name: correlations(*(torch.stack([profile(samples) for samples in x]) for x in heard))
        for name, profile in (("chroma", pitch_class_profile), ("tempo", pulse_profile))
    }
    agreement["chroma and tempo"] = agreement["chroma"] + agreement["tempo"]
    return [
        mean_of(
            own_beginnings(matrix),
            metric=f"{what}: {name} of the own prompt rather than another's",
            implementation="choices between two prompts by Pearson's correlation, "
            f"{METHODS[name]}; each of {len(prompts)} pieces against all others, chance is 0.5",
            better="higher",
        )
        for name, matrix in agreement.items()
    ]
