"""Trains a codebook of semantic tokens: k-means over one layer of a self-supervised audio model.

    python recipes/train_semantic_codebook.py --preset tiny          # seconds, synthetic sounds
    python recipes/train_semantic_codebook.py --model runs/masked_model --data sounds/
    python recipes/train_semantic_codebook.py --model facebook/hubert-base-ls960 --layer 9 \\
        --pooling 2 --num-clusters 1024 --data speech/

`--model` is a folder or hub id that `load_features` reads: our masked model, HuBERT, wav2vec 2,
WavLM or w2v-BERT 2.0. `fairseq2:NAME_OR_PATH` runs a wav2vec 2 or w2v-BERT in fairseq2 instead
(pip install 'lm-audio[parity]'), from a name such as wav2vec2_base or a checkpoint. `--data` is a
folder of audio of any format and rate, a prepared corpus, or shards with samples at the model's
sample rate. `--out` receives the semantic tokenizer (config.json and centroids.safetensors), a copy
of a local model so that the folder can be moved, and report.json with quality measures. Pass it to
recipes/tokenize_dataset.py as `--semantic`.

Features are computed once and stored in the output folder while k-means reads them (140 MB per hour
of sound for our model, 550 MB for HuBERT at 50 Hz), so memory does not grow with the data. AudioLM
uses layer 7 of 24, 1024 clusters, 25 Hz, standardised.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from audio_tokenizers.atomic import replacing
from audio_tokenizers.semantic.extractor import FeatureExtractor
from audio_tokenizers.semantic.features import FAIRSEQ2_PREFIX, load_features, save_features
from audio_tokenizers.semantic.frames import deduplicate, pool_frames
from audio_tokenizers.semantic.inputs import check_layer
from audio_tokenizers.semantic.kmeans import FeatureSource
from audio_tokenizers.semantic.kmeans_training import KMeansConfig, train_kmeans
from audio_tokenizers.semantic.masked_model import MaskedAudioModel, tiny
from audio_tokenizers.semantic.tokenizer import FeatureTokenizer, save_feature_tokenizer
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.corpus import FULL_SCALE, Recording
from lm_audio.training.code_usage import code_usage
from lm_audio.training.sound_settings import read_corpus

ROWS_AT_A_TIME = 10_000
SHORTEST_SECONDS = 0.1  # models of waveforms make no frame of less


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["tiny", "small", "paper"] = "small"
    model: str | None = None
    """A folder, hub id or fairseq2:NAME_OR_PATH. The tiny preset defaults to an untrained
    model."""
    data: tuple[Path, ...] = ()
    """One or more folders of audio; the tiny preset defaults to synthetic sounds."""
    out: Path = Path("runs/semantic_tokenizer")
    layer: int | None = None
    """Layer whose output to cluster; 0 is the input of the first. Defaults to the middle layer."""
    pooling: int = 1
    """Number of model frames to average per token."""
    num_clusters: int = 1024
    """Codebook size."""
    standardize: bool = True
    """Scale each feature dimension to mean 0 and standard deviation 1 before clustering."""
    num_passes: int = 4
    """Passes of mini-batch k-means over all features."""
    hours: float = 20.0
    """Maximum hours of sound to train on; clips are drawn in random order."""
    seconds: float = 30.0
    """Maximum seconds to use of each clip, at a random position."""
    device: str | None = None
    """Torch device; defaults to cuda if available, else cpu."""
    seed: int = 0


PRESETS = {
    "tiny": Config(preset="tiny", num_clusters=32, num_passes=2),
    "small": Config(),
    "paper": Config(preset="paper", num_passes=10, hours=100.0),
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Quality of a codebook; fields with `held_out_` are measured on held-out clips.

    Args:
        inertia: mean squared distance of frames to their centroids, relative to their variance:
            0 is perfect, 1 is no better than a single cluster.
        used: share of clusters that occur.
        perplexity: effective number of clusters, the exponential of the entropy.
        tokens_per_second: after merging equal neighbours; before, it is the frame rate.
    """

    num_frames: int
    inertia: float
    used: float
    held_out_inertia: float
    held_out_used: float
    held_out_perplexity: float
    held_out_tokens_per_second: float
    frame_rate: float


class FeatureFile:
    """Features [n, D], float32, in a file that is appended to, then read in pieces repeatedly."""

    def __init__(self, path: Path, *, width: int) -> None:
        self.path, self.width = path, width
        self.num_rows = 0

    def append(self, features: Tensor) -> None:
        """features: [T, D]"""
        with self.path.open("ab") as file:
            features.float().cpu().numpy().tofile(file)
        self.num_rows += len(features)

    def __iter__(self) -> Iterator[Tensor]:
        rows = np.memmap(self.path, np.float32, "r", shape=(self.num_rows, self.width))
        for start in range(0, self.num_rows, ROWS_AT_A_TIME):
            yield torch.from_numpy(np.array(rows[start : start + ROWS_AT_A_TIME]))


def main(config: Config) -> Report:
    """Trains, saves and evaluates a codebook."""
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    extractor = read_model(config, device)
    layer = extractor.num_layers // 2 if config.layer is None else config.layer
    check_layer(layer, num_layers=extractor.num_layers)
    if isinstance(extractor, MaskedAudioModel):
        extractor = extractor.up_to(layer)  # later layers are not needed or saved
    source = FeatureSource(model=extractor.identity, layer=layer, pooling=config.pooling)
    corpus = read_corpus(config, extractor.sample_rate)
    config.out.mkdir(parents=True, exist_ok=True)

    for left in config.out.glob("features-*"):  # left by a killed run, possibly gigabytes
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=config.out, prefix="features-") as folder:
        features = FeatureFile(Path(folder) / "rows.f32", width=extractor.width)
        for samples in tqdm(
            pieces(corpus.train, config, extractor.sample_rate), desc="features", unit="clip"
        ):
            activations = extractor.features(samples.to(device), layer)
            features.append(pool_frames(activations, config.pooling)[0])
        with tqdm(desc="k-means", unit="frame", unit_scale=True) as progress:
            progress.total = (config.num_passes + 2) * features.num_rows
            codebook, trained = train_kmeans(
                features,
                KMeansConfig(
                    num_clusters=config.num_clusters,
                    seed=config.seed,
                    num_passes=config.num_passes,
                    batch_size=max(ROWS_AT_A_TIME, 4 * config.num_clusters),
                    sample_size=max(50_000, 4 * config.num_clusters),
                    standardize=config.standardize,
                ),
                source=source,
                on_batch=lambda number, rows: progress.update(
                    number * features.num_rows + rows - progress.n
                ),
            )
        spread = variance(features, codebook.std)

    tokenizer = FeatureTokenizer(extractor, codebook)
    model = config.model
    is_local = model is None or Path(model.removeprefix(FAIRSEQ2_PREFIX)).exists()
    place = "model" if model is None or is_local else model
    if is_local:
        save_features(extractor, config.out / "model")
    save_feature_tokenizer(tokenizer, config.out, model=place)

    counts = torch.zeros(config.num_clusters, dtype=torch.int64)
    distances, num_tokens = 0.0, 0
    for samples in pieces(corpus.held_out, config, extractor.sample_rate):
        rows = tokenizer.features(samples.to(device), layer)[0].cpu()  # [T, D]
        tokens = codebook.assign(rows[None])[0]
        standardized = (rows - codebook.mean) / codebook.std
        distances += float((standardized - codebook.centroids[tokens]).double().square().sum())
        counts += tokens.bincount(minlength=config.num_clusters)
        num_tokens += len(deduplicate(tokens)[0])
    usage, num_frames = code_usage(counts[None]), int(counts.sum())
    report = Report(
        num_frames=trained.num_rows,
        inertia=trained.inertia / spread,
        used=trained.num_used / config.num_clusters,
        held_out_inertia=distances / num_frames / spread,
        held_out_used=usage.used,
        held_out_perplexity=usage.perplexity,
        held_out_tokens_per_second=num_tokens * tokenizer.frame_rate / num_frames,
        frame_rate=tokenizer.frame_rate,
    )
    with replacing(config.out / "report.json") as path:
        path.write_text(json.dumps({"layer": layer, **asdict(report)}, indent=2) + "\n")
    print(*(f"{name}: {value:.4g}" for name, value in asdict(report).items()), sep="\n")
    print(
        f"Wrote the semantic tokenizer to {config.out}. Next: python recipes/tokenize_dataset.py "
        f"--semantic {config.out} --data ..."
    )
    return report


def read_model(config: Config, device: str) -> FeatureExtractor:
    if config.model is not None:
        return load_features(config.model, device=device)
    if config.preset != "tiny":
        raise ValueError(
            f"No model for the preset {config.preset!r}; pass a folder or hub id as --model."
        )
    torch.manual_seed(config.seed)
    return MaskedAudioModel(tiny()).to(device).eval()


def pieces(clips: list[Recording], config: Config, sample_rate: int) -> Iterator[Tensor]:
    """Samples [1, 1, N] of clips in random order, up to `hours` in total."""
    random = np.random.default_rng(config.seed)
    length, left = int(config.seconds * sample_rate), int(config.hours * 3600 * sample_rate)
    for index in random.permutation(len(clips)):
        samples = clips[index].samples
        start = int(random.integers(max(1, len(samples) - length + 1)))
        piece = torch.from_numpy(samples[start : start + length]).float() / FULL_SCALE
        if len(piece) < SHORTEST_SECONDS * sample_rate:
            continue
        yield piece[None, None]
        left -= len(piece)
        if left <= 0:
            return


def variance(features: FeatureFile, std: Tensor) -> float:
    """The mean squared distance of features to their mean, with each dimension divided by `std`."""
    total, squares = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for rows in features:
        scaled = rows.double() / std
        total, squares = total + scaled.sum(0), squares + scaled.square().sum(0)
    mean = total / features.num_rows
    return (squares / features.num_rows - mean.square()).sum().item()


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
