"""Compares generated clips with real ones by all judges that are given.

A metric that lacks a judge, real clips or metadata is reported as missing, with the reason.

Shapes: B clips, n vectors, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_audio.evaluation.clips import ClipFile, pair_clips
from lm_audio.evaluation.judges.classifier import AudioClassifier, classify_clips
from lm_audio.evaluation.judges.embedding import (
    AudioEmbedding,
    LogMelStatistics,
    clip_means,
    embed_clips,
)
from lm_audio.evaluation.judges.loading import Judges
from lm_audio.evaluation.metrics.classification import (
    kl_divergence,
    label_accuracy,
    nearest_labels,
)
from lm_audio.evaluation.metrics.frechet import frechet_distance
from lm_audio.evaluation.metrics.speakers import nearest_speakers, speaker_similarity
from lm_audio.evaluation.metrics.words import character_errors, word_errors
from lm_audio.evaluation.report import Measurement, error_rate, mean_of, missing

NO_REAL = "no real clips; pass --real"
NO_PAIRS = "no real clip has the same name as a generated one"
NEIGHBOURS = 5


def measure_clips(
    generated: Sequence[ClipFile], real: Sequence[ClipFile], judges: Judges
) -> list[Measurement]:
    """All metrics of generated clips, including missing ones with the reason."""
    found = []
    for embedding in judges.embeddings:
        found += _in_space(embedding, generated, real)
    if all(isinstance(embedding, LogMelStatistics) for embedding in judges.embeddings):
        reason = "no trained embedding; pass --clap, --vggish or --yamnet"
        found.append(missing("Frechet audio distance, trained embedding", reason=reason))
    for classifier in judges.classifiers:
        found += _labels(classifier, generated, real)
    if not judges.classifiers:
        reason = "no classifier; pass --yamnet or --classifier"
        found += [missing("KL divergence", reason=reason), missing("label accuracy", reason=reason)]
    return [
        *found,
        _clap_score(generated, judges),
        *_words(generated, judges),
        *_voices(generated, real, judges),
        *_quality(generated, judges),
    ]


def _in_space(
    embedding: AudioEmbedding, generated: Sequence[ClipFile], real: Sequence[ClipFile]
) -> list[Measurement]:
    """The Frechet distance in an embedding space, and the accuracy of nearest real neighbours."""
    names = (
        f"Frechet distance, {embedding.name}",
        f"{NEIGHBOURS}-NN label accuracy, {embedding.name}",
    )
    if not real:
        return [missing(name, reason=NO_REAL) for name in names]
    ours, theirs = embed_clips(embedding, generated), embed_clips(embedding, real)
    return [_frechet(names[0], ours, theirs), _neighbours(names[1], generated, real, ours, theirs)]


def _frechet(metric: str, ours: list[Tensor], theirs: list[Tensor]) -> Measurement:
    first, second = torch.cat(ours), torch.cat(theirs)
    fewest, D = min(len(first), len(second)), first.shape[1]
    if fewest < 2:
        return missing(metric, reason="needs at least two windows of real and of generated sound")
    note = f"biased upwards: only {fewest} vectors for {D} dimensions" if fewest <= D else ""
    return Measurement(
        metric=metric,
        implementation="pytorch-fid, fadtk (formula)",
        value=frechet_distance(first, second),
        num_items=len(first),
        better="lower",
        note=note,
    )


def _neighbours(
    metric: str,
    generated: Sequence[ClipFile],
    real: Sequence[ClipFile],
    ours: list[Tensor],
    theirs: list[Tensor],
) -> Measurement:
    labelled = [i for i, clip in enumerate(generated) if clip.label is not None]
    known = [i for i, clip in enumerate(real) if clip.label is not None]
    if not labelled or not known:
        return missing(metric, reason="no labels for the generated and the real clips")
    own = torch.tensor([[generated[i].name == real[j].name for j in known] for i in labelled])
    if own.all(dim=1).any():
        return missing(metric, reason="a clip has no real neighbour other than its own pair")
    answers = nearest_labels(
        clip_means([ours[i] for i in labelled]),
        clip_means([theirs[i] for i in known]),
        [str(real[i].label) for i in known],
        k=NEIGHBOURS,
        own=own,
    )
    right = [float(a == generated[i].label) for a, i in zip(answers, labelled, strict=True)]
    implementation = "scikit-learn KNeighborsClassifier, cosine, means of windows, without the pair"
    return mean_of(right, metric=metric, implementation=implementation, better="higher")


def _labels(
    classifier: AudioClassifier, generated: Sequence[ClipFile], real: Sequence[ClipFile]
) -> list[Measurement]:
    """The divergence from the real pair's class probabilities, and the label accuracy."""
    divergence, accuracy = f"KL divergence, {classifier.name}", f"label accuracy, {classifier.name}"
    pairs = pair_clips(generated, real)
    found = [missing(divergence, reason=NO_PAIRS if real else NO_REAL)]
    if pairs:
        ours, theirs = (classify_clips(classifier, clips) for clips in zip(*pairs, strict=True))
        found = [
            mean_of(
                kl_divergence(ours, theirs),
                metric=divergence,
                implementation="audiocraft kld_pq: KL(real, generated), epsilon 1e-6",
                better="lower",
            )
        ]
    named = [clip for clip in generated if clip.label in classifier.labels]
    if not named:
        reason = f"no clip has one of the classifier's labels, such as {classifier.labels[0]!r}"
        return [*found, missing(accuracy, reason=reason)]
    right = label_accuracy(
        classify_clips(classifier, named), [str(clip.label) for clip in named], classifier.labels
    )
    implementation = "top-1 accuracy"
    return [*found, mean_of(right, metric=accuracy, implementation=implementation, better="higher")]


def _clap_score(generated: Sequence[ClipFile], judges: Judges) -> Measurement:
    if judges.clap is None:
        return missing("CLAP score", reason="no CLAP model; pass --clap")
    metric = f"CLAP score, {judges.clap.name}"
    clips = [clip for clip in generated if clip.text]
    if not clips:
        return missing(metric, reason="the clips have no captions")
    texts = judges.clap.embed_texts([str(clip.text) for clip in clips])
    scores = clap_scores(embed_clips(judges.clap, clips), texts)
    implementation = "audiocraft CLAPTextConsistencyMetric: mean cosine"
    return mean_of(scores, metric=metric, implementation=implementation, better="higher")


def clap_scores(audio: Sequence[Tensor], texts: Tensor) -> Tensor:
    """The cosine of each clip's windows [n, D], averaged, and its text [B, D]: [B].

    Audiocraft's `CLAPTextConsistencyMetric` for clips of one window; scores of different CLAP
    checkpoints cannot be compared.
    """
    means = torch.stack([F.normalize(windows, dim=-1).mean(dim=0) for windows in audio])
    return F.cosine_similarity(means, texts, dim=-1)


def _words(generated: Sequence[ClipFile], judges: Judges) -> list[Measurement]:
    recognizer, clips = judges.recognizer, [clip for clip in generated if clip.transcript]
    reason = None
    if recognizer is None:
        reason = "no speech recogniser; pass --asr"
    elif not clips:
        reason = "the clips have no transcripts"
    if recognizer is None or reason is not None:
        names = ("word error rate", "character error rate")
        return [missing(name, reason=str(reason)) for name in names]
    rate = recognizer.sample_rate
    pairs = [(str(clip.transcript), recognizer(clip.audio(rate).samples[0])) for clip in clips]
    implementation = f"jiwer, lower case without punctuation; {recognizer.name}"
    return [
        error_rate(
            [count(reference, transcript) for reference, transcript in pairs],
            metric=metric,
            implementation=implementation,
        )
        for metric, count in (
            ("word error rate", word_errors),
            ("character error rate", character_errors),
        )
    ]


def _voices(
    generated: Sequence[ClipFile], real: Sequence[ClipFile], judges: Judges
) -> list[Measurement]:
    """The similarity to the real pair, and the accuracy of the nearest enrolled speaker."""
    names = ("speaker similarity", "speaker classification accuracy")
    if judges.voices is None:
        reason = "no speaker embedding; pass --voices"
        return [missing(name, reason=reason) for name in names]
    if not real:
        return [missing(name, reason=NO_REAL) for name in names]
    ours, theirs = (clip_means(embed_clips(judges.voices, clips)) for clips in (generated, real))
    places = {clip.name: i for i, clip in enumerate(real)}
    pairs = [(i, places[clip.name]) for i, clip in enumerate(generated) if clip.name in places]
    similarity = mean_of(
        speaker_similarity(ours[[i for i, _ in pairs]], theirs[[j for _, j in pairs]]),
        metric=names[0],
        implementation=f"cosine; {judges.voices.name}",
        better="higher",
        note="" if pairs else NO_PAIRS,
    )
    speakers = {clip.speaker for clip in real if clip.speaker is not None}
    known_speaker = [i for i, clip in enumerate(generated) if clip.speaker in speakers]
    if len(speakers) < 2 or not known_speaker:
        reason = "needs real clips of at least two speakers, and generated clips of at least one"
        return [similarity, missing(names[1], reason=reason)]
    known = [i for i, clip in enumerate(real) if clip.speaker is not None]
    pair_of, row_of = dict(pairs), {i: row for row, i in enumerate(known)}
    own = [row_of.get(pair_of[i]) if i in pair_of else None for i in known_speaker]
    voices = [str(real[i].speaker) for i in known]
    answers = nearest_speakers(ours[known_speaker], theirs[known], voices, own=own)
    right = [float(a == generated[i].speaker) for a, i in zip(answers, known_speaker, strict=True)]
    implementation = f"nearest of {len(speakers)} centroids; {judges.voices.name}"
    return [
        similarity,
        mean_of(right, metric=names[1], implementation=implementation, better="higher"),
    ]


def _quality(generated: Sequence[ClipFile], judges: Judges) -> list[Measurement]:
    names = {name: f"DNSMOS {name}" for name in ("overall", "speech", "background")}
    if judges.dnsmos is None:
        reason = "no DNSMOS; pass --dnsmos"
        return [missing(metric, reason=reason) for metric in names.values()]
    rated = [judges.dnsmos(clip.audio(judges.dnsmos.sample_rate).samples[0]) for clip in generated]
    return [
        mean_of(
            [getattr(quality, name) for quality in rated],
            metric=metric,
            implementation=f"speechmos; {judges.dnsmos.name}",
            better="higher",
        )
        for name, metric in names.items()
    ]
