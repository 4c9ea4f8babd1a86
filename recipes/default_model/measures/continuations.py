"""Continuations of speech and music: do voice, key and tempo stay the same?

Only the new sound is judged. The real continuations are judged in the same way, which shows how
well a perfect model would do.

Shapes: n clips, D width.
"""

from collections.abc import Sequence

import torch

from lm_audio.evaluation.clips import ClipFile
from lm_audio.evaluation.judges.dnsmos import Dnsmos
from lm_audio.evaluation.metrics.speakers import nearest_speakers
from lm_audio.evaluation.report import Measurement, mean_of, missing
from measures.clip_scores import (
    ClipEmbedder,
    Progress,
    no_progress,
    overall_quality,
    without_target,
)
from measures.musical_profiles import (
    SAMPLE_RATE,
    correlations,
    own_prompts,
    pitch_class_profile,
    pulse_profile,
)
from measures.targets import TargetResult

METHODS = {
    "chroma": "that of pitch-class profiles (roots of magnitudes, 100 to 2000 Hz)",
    "tempo": "that of autocorrelations of onsets at lags of 0.1 to 1 s",
    "chroma and tempo": "the sum of both",
}


def voice_results(
    made: Sequence[ClipFile],
    real: Sequence[ClipFile],
    enrolled: Sequence[ClipFile],
    embedder: ClipEmbedder | None,
) -> list[TargetResult]:
    """Whether the speaker is still the same."""
    metric = "speech continuation: speaker identified"
    if embedder is None:
        return without_target(
            "speech", [missing(metric, reason="no speaker embedding; pass --voices")]
        )
    speakers = len({clip.speaker for clip in enrolled})
    rows = [
        mean_of(
            right_speakers(clips, enrolled, embedder),
            metric=metric + note,
            implementation=f"nearest of {speakers} centroids of {len(enrolled)} training "
            f"utterances; {embedder.name}",
            better="higher",
        )
        for note, clips in (("", made), (", real", real))
    ]
    result = TargetResult(group="speech", measurement=rows[0], target=0.7, stretch=0.95)
    return [result, *without_target("speech", rows[1:])]


def continuation_quality_results(
    made: Sequence[ClipFile],
    real: Sequence[ClipFile],
    dnsmos: Dnsmos | None,
    *,
    progress: Progress = no_progress,
) -> list[TargetResult]:
    metric = "speech continuation: DNSMOS overall"
    if dnsmos is None:
        return without_target("speech", [missing(metric, reason="no DNSMOS; pass --dnsmos")])
    rows = [
        mean_of(
            overall_quality(clips, dnsmos, progress=progress),
            metric=metric + note,
            implementation=f"speechmos; {dnsmos.name}",
            better="higher",
        )
        for note, clips in (("", made), (", real", real))
    ]
    result = TargetResult(group="speech", measurement=rows[0], target=2.8, stretch=3.3)
    return [result, *without_target("speech", rows[1:])]


def music_results(
    made: Sequence[ClipFile], real: Sequence[ClipFile], prompts: Sequence[ClipFile]
) -> list[TargetResult]:
    """Whether chroma and tempo match the clip's own prompt better than that of another piece."""
    *parts, both = prompt_agreement(made, prompts, what="piano continuation")
    ceiling = prompt_agreement(real, prompts, what="real piano")
    result = TargetResult(group="piano", measurement=both, target=0.8, stretch=0.95)
    return [result, *without_target("piano", [*parts, *ceiling])]


def right_speakers(
    clips: Sequence[ClipFile], enrolled: Sequence[ClipFile], embedder: ClipEmbedder
) -> list[float]:
    """1 for each clip whose nearest centroid of enrolled clips is its speaker's, else 0.

    A clip without an embeddable voice scores 0.
    """
    voices, known = embedder.means(clips), embedder.means(enrolled)
    answers = nearest_speakers(voices.nan_to_num(), known, [str(c.speaker) for c in enrolled])
    voiced = voices.isfinite().all(dim=1).tolist()
    return [
        float(has_voice and answer == clip.speaker)
        for has_voice, answer, clip in zip(voiced, answers, clips, strict=True)
    ]


def prompt_agreement(
    continuations: Sequence[ClipFile], prompts: Sequence[ClipFile], *, what: str
) -> list[Measurement]:
    """How often continuations match their own prompt better than that of another piece."""
    samples = [[c.audio(SAMPLE_RATE).samples[0] for c in x] for x in (continuations, prompts)]
    agreement = {
        name: correlations(*(torch.stack([profile(y) for y in x]) for x in samples))
        for name, profile in (("chroma", pitch_class_profile), ("tempo", pulse_profile))
    }
    agreement["chroma and tempo"] = agreement["chroma"] + agreement["tempo"]
    return [
        mean_of(
            own_prompts(matrix),
            metric=f"{what}: {name} of the own prompt rather than another's",
            implementation="choices between two prompts by Pearson's correlation, "
            f"{METHODS[name]}; each of {len(prompts)} pieces against all others, chance is 0.5",
            better="higher",
        )
        for name, matrix in agreement.items()
    ]
