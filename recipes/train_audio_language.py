"""Trains the language of audio of an AudioLDM 2: GPT-2, which translates captions to sound vectors.

    python recipes/train_audio_language.py --preset tiny        # seconds, synthetic sounds
    python recipes/train_audio_language.py --data runs/corpus --model cvssp/audioldm2 \\
        --encoder audiomae/
    python recipes/train_audio_language.py --data runs/corpus --model cvssp/audioldm2 \\
        --encoder runs/masked_model

`--data` takes prepared corpora with captions. The targets are vectors of each sound by `--encoder`:
AudioMAE in the layout of transformers or timm, or our own masked audio model from
recipes/train_masked_model.py. `--model` is an AudioLDM 2, whose frozen CLAP and T5 read the
captions. `OUT/model` receives new `language_model` and `projection_model` folders in diffusers'
layout, the encoder, and all parts of `--model` that fit them. If its U-Net reads vectors of the
encoder's width (768 for AudioMAE), that is a complete model for `lm_audio.load`, which also reads
the language of audio from recordings; else its U-Net has yet to be trained.

The loss is the squared error relative to the variance of the targets: 1 is the error of their mean.
The held-out loss is that of the vectors that the model generates from the caption alone. The
weights with the lowest one are kept. Run the same command again to resume an interrupted run; the
losses are the same as without the interruption.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from audio_tokenizers.atomic import replacing
from audio_tokenizers.semantic.masked_model import MaskedAudioModel, save_masked_model, tiny
from lm_audio.cli.recipe import run_recipe
from lm_audio.conditioners.text import T5Encoder
from lm_audio.data.corpus import FULL_SCALE
from lm_audio.data.manifest import SPLITS, Cut, Split, conditions_of, read_cut_audio, read_cuts
from lm_audio.data.synthetic import synthetic_clips
from lm_audio.data.synthetic_shards import CAPTIONS
from lm_audio.families.audioldm.audio_encoder import AudioLanguageEncoder, load_audio_encoder
from lm_audio.families.audioldm.audio_language import ProjectionConfig
from lm_audio.families.audioldm.gpt2 import Gpt2Config
from lm_audio.families.audioldm.language_objective import (
    LanguageBatch,
    LanguageObjective,
    new_language,
)
from lm_audio.families.audioldm.reading import read_text_encoders
from lm_audio.families.audioldm.text import ClapText
from lm_audio.families.audioldm.writing import reads_width, write_language
from lm_audio.loading import find_checkpoint
from lm_audio.training.checkpoints import Checkpoints, check_finite, check_same_settings
from lm_audio.training.optimization import (
    EMA,
    Schedule,
    adamw,
    learning_rate_share,
    set_learning_rate,
)
from lm_audio.training.processes import Precision, new_accelerator
from lm_audio.training.settings import check_least
from lm_audio.training.sound_settings import check_batch_size
from lm_audio.training.tracking import Tracker

logger = logging.getLogger(__name__)
MOST_TEXTS = 20_000  # kept as embeddings, 25 to 500 kB each
NUM_POSITIONS = 1024
SYNTHETIC = 27  # clips of four seconds, three of them held out


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["tiny", "small", "paper"] = "small"
    data: tuple[Path, ...] = ()
    """One or more prepared corpora with captions; the tiny preset defaults to synthetic sounds."""
    model: str | None = None
    """Folder or hub id of an AudioLDM 2: its text encoders read the captions. The tiny preset
    defaults to text encoders with random weights."""
    encoder: Path | None = None
    """Folder of the audio encoder that makes the targets. The tiny preset defaults to a masked
    audio model with random weights."""
    out: Path = Path("runs/audio_language")
    """Folder for the model, checkpoints and log; an interrupted run in it resumes."""
    num_vectors: int = 8
    """Vectors per window of 10.24 seconds."""
    steps: int = 20_000
    batch_size: int = 64
    """Captions per step, over all processes."""
    text_dropout: float = 0.1
    """Share of examples with an empty caption, which guidance uses."""
    own_share: float = 0.5
    """Share of examples that continue the network's own vectors instead of the targets."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 500
    schedule: Schedule = "cosine"
    weight_decay: float = 0.01
    max_norm: float = 1.0
    """Maximum gradient norm; larger gradients are clipped."""
    average_decay: float = 0.999
    """Decay of the moving average of the weights, which is what is evaluated and saved."""
    evaluate_every: int = 500
    """Steps between evaluations, each of which saves a checkpoint."""
    evaluate_items: int = 200
    """Maximum number of held-out sounds in an evaluation."""
    save_every: int = 250
    """Steps between checkpoints."""
    keep_last: int = 2
    """Recent checkpoints to keep in addition to the best one."""
    precision: Precision = "bfloat16"
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(
            self,
            num_vectors=1,
            steps=1,
            batch_size=1,
            warmup_steps=0,
            evaluate_every=1,
            evaluate_items=1,
            save_every=1,
            keep_last=1,
        )
        for name in ("text_dropout", "own_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}.")


SHAPES = {"tiny": (2, 16), "small": (6, 64), "paper": (12, 64)}  # layers and width of a head
PRESETS = {
    "tiny": Config(
        preset="tiny",
        steps=60,
        batch_size=16,
        learning_rate=1e-2,
        warmup_steps=5,
        average_decay=0.9,
        evaluate_every=20,
        save_every=10,
        precision="float32",
    ),
    "small": Config(),
    "paper": Config(preset="paper", steps=100_000, batch_size=256, warmup_steps=2000),
}


def main(config: Config) -> list[float]:
    """Trains to the end and returns the loss of every step."""
    accelerator = new_accelerator(config.precision)
    device, rank, count = accelerator.device, accelerator.process_index, accelerator.num_processes
    check_batch_size(config.batch_size, count)
    with accelerator.main_process_first():
        model, encoder_folder = read_sources(config)
        clap, t5 = read_text_encoders(model)
        encoder = load_audio_encoder(encoder_folder, num_vectors=config.num_vectors)
        encoder.patches.to(device)
        train, held_out = (read_examples(config, encoder, split) for split in SPLITS)
    clap.model.to(device)
    t5.to(device)
    captions = Captions(clap, t5)

    torch.manual_seed(config.seed)
    language = new_language(
        ProjectionConfig(first=clap.dim, second=t5.dim, dim=encoder.dim),
        gpt2_shape(config, encoder.dim),
        num_vectors=config.num_vectors,
    )
    objective = LanguageObjective(language, variance=variance_of(train.targets))
    objective.to(device).train()
    optimizer = adamw(
        objective, learning_rate=config.learning_rate, weight_decay=config.weight_decay
    )
    average = EMA(objective, decay=config.average_decay)
    checkpoints = Checkpoints(config.out / "checkpoints", keep_last=config.keep_last)
    first_step, settings = 0, lasting(config, train, held_out)
    if (latest := checkpoints.latest()) is not None:
        saved = checkpoints.read(latest)
        check_same_settings(saved["settings"], settings, path=latest.path)
        objective.load_state_dict(saved["average"])
        average.restart()
        objective.load_state_dict(saved["objective"])
        optimizer.load_state_dict(saved["optimizer"])
        first_step = latest.step

    tracker = Tracker(config.out / "log", after=first_step, active=rank == 0)
    trained, optimizer = accelerator.prepare(objective, optimizer)
    losses: list[float] = []
    steps = range(first_step, config.steps)
    progress = tqdm(steps, initial=first_step, total=config.steps, disable=rank > 0)
    for step in progress:
        share = learning_rate_share(
            step, steps=config.steps, warmup_steps=config.warmup_steps, schedule=config.schedule
        )
        set_learning_rate(optimizer, share * config.learning_rate)
        items = range(rank, config.batch_size, count)
        loss = trained(batch_of(train, captions, config, step=step, items=items, device=device))
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(trained.parameters(), config.max_norm)
        numbers = accelerator.reduce(torch.stack([loss.detach(), norm]), "mean")
        losses.append(float(numbers[0]))
        check_finite(losses[-1], float(numbers[1]), step=step, checkpoints=checkpoints)
        optimizer.step()
        optimizer.zero_grad()
        average.update(step)
        progress.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
        values = {"loss": losses[-1], "gradient norm": float(numbers[1]), "rate": share}
        tracker.numbers({f"train/{name}": v for name, v in values.items()}, step=step + 1)

        done, held_out_loss = step + 1, None
        evaluates = done % config.evaluate_every == 0 or done == config.steps
        if rank > 0 or not (evaluates or done % config.save_every == 0):
            continue
        with average.swapped():
            averaged = {name: v.clone() for name, v in objective.state_dict().items()}
            if evaluates:
                held_out_loss = evaluate(objective, held_out, captions, config, device=device)
                check_finite(held_out_loss, 0, step=step, checkpoints=checkpoints)
                if checkpoints.is_best(held_out_loss):
                    write_language(
                        config.out / "model", language, model=model, encoder=encoder_folder
                    )
                tracker.numbers({"held out/loss": held_out_loss}, step=done)
                progress.write(f"step {done}: held-out loss {held_out_loss:.3f}")
        state = {"settings": settings, "objective": objective.state_dict(), "average": averaged}
        state["optimizer"] = optimizer.state_dict()
        checkpoints.save(state, step=done, loss=held_out_loss)
    tracker.close()
    if rank == 0:
        print(summary(config, complete=reads_width(model, encoder.dim)))
    return losses


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Windows of sounds.

    Args:
        texts: the captions of each sound.
        owners: [n], the sound of each window.
        targets: [n, L, D].
        fingerprint: of the sounds, captions and the encoder.
    """

    texts: list[list[str]]
    owners: Tensor
    targets: Tensor
    fingerprint: str


class Captions:
    """The embeddings of captions by CLAP [1, D] and T5 [L, D], the latest of which are kept."""

    def __init__(self, clap: ClapText, t5: T5Encoder) -> None:
        self._clap, self._t5 = clap, t5
        self._kept: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, text: str) -> tuple[Tensor, Tensor]:
        if text not in self._kept:
            while len(self._kept) >= MOST_TEXTS:
                del self._kept[next(iter(self._kept))]
            (words,) = self._t5.encode([text])
            self._kept[text] = self._clap.encode(text).cpu(), words.float().cpu()
        return self._kept[text]


def batch_of(
    examples: Examples,
    captions: Captions,
    config: Config,
    *,
    step: int,
    items: range,
    device: torch.device,
) -> LanguageBatch:
    """This process's items of a batch; each is a function of the seed, the step and its number."""
    texts, rows, own = [], [], []
    for item in items:
        random = np.random.default_rng([config.seed, step, item])
        row = int(random.integers(len(examples.owners)))
        known = examples.texts[int(examples.owners[row])]
        text = known[int(random.integers(len(known)))]
        texts.append("" if random.random() < config.text_dropout else text)
        own.append(random.random() < config.own_share)
        rows.append(row)
    embedded = [captions(text) for text in texts]
    return LanguageBatch(
        clap=[clap.to(device) for clap, _ in embedded],
        words=[words.to(device) for _, words in embedded],
        targets=examples.targets[rows].to(device),
        own=torch.tensor(own, device=device),
    )


@torch.no_grad()
def evaluate(
    objective: LanguageObjective,
    held_out: Examples,
    captions: Captions,
    config: Config,
    *,
    device: torch.device,
) -> float:
    """The mean loss of the vectors that the first captions of held-out sounds generate."""
    losses = []
    for owner, target in list(zip(held_out.owners, held_out.targets, strict=True))[
        : config.evaluate_items
    ]:
        clap, words = captions(held_out.texts[int(owner)][0])
        made = objective.language(clap.to(device), words.to(device))  # [D, L]
        losses.append(float(objective.error(made.T.cpu(), target)))
    return sum(losses) / len(losses)


def read_sources(config: Config) -> tuple[Path, Path]:
    """The folders of the model and of the audio encoder; the tiny preset makes missing ones up."""
    for option, given in (("--model", config.model), ("--encoder", config.encoder)):
        if given is None and config.preset != "tiny":
            what = {"--model": "an AudioLDM 2", "--encoder": "an audio encoder"}[option]
            raise ValueError(
                f"The preset {config.preset!r} needs {option} with the folder of {what}."
            )
    model = config.out / "data" / "text"
    if config.model is not None:
        model = find_checkpoint(config.model).folder
    elif not model.is_dir():
        make_up_text_encoders(model)
    encoder = config.encoder or config.out / "data" / "encoder"
    if config.encoder is None and not encoder.is_dir():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            save_masked_model(MaskedAudioModel(tiny()), encoder)
    return model, encoder


def read_examples(config: Config, encoder: AudioLanguageEncoder, split: Split) -> Examples:
    """The examples of a split; their targets are kept in a file, for the next run."""
    rate = encoder.sample_rate
    known = [(name, texts) for name, texts, _ in read_sounds(config, split, sample_rate=rate)]
    facts = [encoder.identity, known]
    fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    path = config.out / "targets" / f"{split}.safetensors"
    found = kept_targets(path, fingerprint)
    if found is None:
        owners, made = [], []
        sounds = read_sounds(config, split, sample_rate=rate)
        sounds = tqdm(sounds, total=len(known), desc=f"encoding {split}")
        for number, (name, _, sound) in enumerate(sounds):
            try:
                samples = samples_of(sound, sample_rate=rate)
            except ValueError as error:
                logger.warning("skipped %s: %s", name, error)
                continue
            for start in starts_of(samples.shape[1], encoder.num_samples):
                window = samples[:, start : start + encoder.num_samples]
                made.append(encoder.encode(window).T.contiguous())
                owners.append(number)
        if not made:
            raise ValueError(f"The {split} split has no sound with a caption. Add captions.")
        found = {"owners": torch.tensor(owners), "targets": torch.stack(made)}
        with replacing(path) as temporary:
            save_file(found, temporary, metadata={"fingerprint": fingerprint})
    return Examples(texts=[texts for _, texts in known], fingerprint=fingerprint, **found)


def kept_targets(path: Path, fingerprint: str) -> dict[str, Tensor] | None:
    """The targets in a file, unless they are of other sounds."""
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("fingerprint") != fingerprint:
            return None
        return {name: file.get_tensor(name) for name in ("owners", "targets")}


def starts_of(num_samples: int, window: int) -> range:
    """The starts of the windows of a sound; a rest of less than half a window is left out."""
    return range(0, max(1, num_samples - window // 2 + 1), window)


def read_sounds(
    config: Config, split: Split, *, sample_rate: int
) -> Iterator[tuple[str, list[str], Cut | Tensor]]:
    """The names and captions of sounds, each with its cut or its samples [1, N]."""
    for folder in config.data:
        for cut in read_cuts(folder, split):
            texts = conditions_of(cut).get("text")
            if isinstance(texts, list):
                yield cut.id, texts, cut
    if config.data:
        return
    if config.preset != "tiny":
        raise ValueError(
            f"The preset {config.preset!r} needs data. Pass --data with a prepared corpus "
            "(recipes/prepare_folder.py)."
        )
    clips = synthetic_clips(num_clips=SYNTHETIC, seconds=4.0, sample_rate=sample_rate, seed=0)
    for clip in clips[3:] if split == "train" else clips[:3]:
        samples = torch.from_numpy(clip.samples[:]).float()[None] / FULL_SCALE
        yield clip.name, CAPTIONS[clip.kind], samples


def samples_of(sound: Cut | Tensor, *, sample_rate: int) -> Tensor:
    if isinstance(sound, Tensor):
        return sound
    return read_cut_audio(sound, sample_rate=sample_rate, num_channels=1).samples


def gpt2_shape(config: Config, dim: int) -> Gpt2Config:
    num_layers, head_dim = SHAPES[config.preset]
    return Gpt2Config(
        dim=dim,
        num_layers=num_layers,
        num_heads=max(1, dim // head_dim),
        hidden_dim=4 * dim,
        num_positions=NUM_POSITIONS,
    )


def variance_of(targets: Tensor) -> float:
    """The mean squared distance of targets [n, L, D] to their mean."""
    return max(float((targets - targets.mean(dim=0)).square().mean()), 1e-8)


def lasting(config: Config, train: Examples, held_out: Examples) -> dict[str, Any]:
    """Settings that must not change when a run resumes."""
    free = {"data", "model", "encoder", "out", "evaluate_every", "evaluate_items", "save_every",
            "keep_last"}  # fmt: skip
    kept = {name: value for name, value in asdict(config).items() if name not in free}
    return {**kept, "data": f"{train.fingerprint}-{held_out.fingerprint}"}


def make_up_text_encoders(folder: Path) -> None:
    """Writes a CLAP and a T5 of random weights, whose words are those of the synthetic captions."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        ClapTextConfig,
        ClapTextModelWithProjection,
        PreTrainedTokenizerFast,
        T5Config,
        T5EncoderModel,
    )

    words = sorted({word for texts in CAPTIONS.values() for text in texts for word in text.split()})
    vocab = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A", "</s>"], special_tokens=[(x, vocab[x]) for x in ("<s>", "</s>")]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    new_tokenizer: Any = PreTrainedTokenizerFast  # untyped
    fast = new_tokenizer(tokenizer_object=tokenizer, model_max_length=64, **special)
    clap = ClapTextConfig(
        vocab_size=len(vocab), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=80, projection_dim=16,
    )  # fmt: skip
    t5 = T5Config(
        vocab_size=len(vocab), d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2,
        pad_token_id=vocab["<pad>"], eos_token_id=vocab["</s>"],
    )  # fmt: skip
    with torch.random.fork_rng():
        encoders: list[Any] = [ClapTextModelWithProjection(clap), T5EncoderModel(t5)]
        torch.manual_seed(0)
        for part, encoder in zip(("text_encoder", "text_encoder_2"), encoders, strict=True):
            for _, weight in sorted(encoder.named_parameters()):  # alike in all versions
                if weight.dim() == 2:
                    torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
            encoder.save_pretrained(folder / part)
    for name in ("tokenizer", "tokenizer_2"):
        fast.save_pretrained(folder / name)


def summary(config: Config, *, complete: bool) -> str:
    """The output path, and what can be done with it."""
    folder = config.out / "model"
    rest = f"Try: lm-audio generate rain --model {folder}"
    if not complete:
        rest = "It is not complete: no U-Net in --model reads vectors of this width."
    return f"Wrote the model to {folder}. Log: tensorboard --logdir {config.out}\n{rest}"


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
