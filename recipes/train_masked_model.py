"""Trains the masked audio model, whose features become semantic tokens (BEST-RQ).

    python recipes/train_masked_model.py --preset tiny        # seconds, synthetic sounds
    python recipes/train_masked_model.py --data sounds/ --out runs/masked_model
    torchrun --nproc_per_node 8 recipes/train_masked_model.py --preset paper --data shards/

The model predicts the codes that a fixed random quantiser gives to masked patches; it needs neither
labels nor a teacher (docs/adr/0003-masked-model.md). `--data` is a folder of audio of any format
and rate, with one subfolder per kind, a prepared corpus, or shards with samples. `--out` receives
config.json and model.safetensors, from the averaged weights; next, train a codebook over one of its
layers with recipes/train_semantic_codebook.py. The best and the most recent checkpoints are in
OUT/checkpoints. Run the same command again to resume an interrupted run; the losses are the same as
without the interruption.

The preset small has 21 M parameters; a step takes 4 s on one core and 2 GB. The preset paper has
the depth and width of the largest BEST-RQ (302 M parameters, because its blocks are plain
transformer blocks, not Conformers); `--dry-run` estimates its cost on GPUs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from audio_tokenizers.semantic.masked_model import (
    MaskedAudioModel,
    MaskedModelConfig,
    save_masked_model,
    tiny,
)
from audio_tokenizers.semantic.masked_prediction import (
    MaskedPrediction,
    PredictionConfig,
    measure_patches,
)
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.batches import seed_of
from lm_audio.data.corpus import FULL_SCALE, Recording, SegmentSampler
from lm_audio.training.checkpoints import Checkpoints, check_finite, check_same_settings
from lm_audio.training.code_usage import code_usage
from lm_audio.training.estimate import cost_table, step_cost
from lm_audio.training.optimization import (
    EMA,
    Schedule,
    adamw,
    learning_rate_share,
    set_learning_rate,
)
from lm_audio.training.settings import check_least
from lm_audio.training.sound_settings import SoundSettings, read_corpus
from lm_audio.training.tracking import Tracker

MEASURED_BATCHES = 16


@dataclass(frozen=True, kw_only=True)
class Config(SoundSettings):
    preset: Literal["tiny", "default", "small", "paper"] = "small"
    out: Path = Path("runs/masked_model")
    """Folder for the model, checkpoints and log; an interrupted run in it resumes."""
    steps: int = 50_000
    batch_size: int = 16
    seconds: float = 8.0
    """Length of a segment in seconds."""
    mask_share: float = 0.4
    """Expected share of masked frames."""
    learning_rate: float = 5e-4
    """Peak learning rate."""
    warmup_steps: int = 1000
    schedule: Schedule = "cosine"
    weight_decay: float = 0.01
    evaluate_every: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, steps=1, warmup_steps=0)


MODELS = {
    "tiny": tiny(),
    "default": MaskedModelConfig(width=256, num_layers=6, num_heads=4),
    "small": MaskedModelConfig(),
    "paper": MaskedModelConfig(width=1024, num_layers=24, num_heads=16),
}
PRESETS = {
    "tiny": Config(
        preset="tiny",
        steps=60,
        batch_size=4,
        seconds=2.0,
        learning_rate=5e-3,
        warmup_steps=5,
        average_decay=0.9,
        precision="float32",
    ),
    "default": Config(preset="default", steps=2600, learning_rate=1e-3, warmup_steps=200),
    "small": Config(),
    "paper": Config(
        preset="paper",
        steps=400_000,
        batch_size=256,
        seconds=16.0,
        warmup_steps=25_000,
        schedule="inverse_sqrt",
        evaluate_every=5000,
    ),
}


def main(config: Config) -> list[float]:
    """Trains to the end and returns the loss of every step."""
    if config.dry_run:
        print(cost(config))
        return []
    steps = config.steps
    accelerator = config.new_accelerator()
    device, rank = accelerator.device, accelerator.process_index

    torch.manual_seed(config.seed)
    model = MaskedAudioModel(MODELS[config.preset])
    prediction = MaskedPrediction(model, PredictionConfig(mask_share=config.mask_share))
    prediction.to(device).train()
    optimizer = adamw(
        prediction, learning_rate=config.learning_rate, weight_decay=config.weight_decay
    )
    average = EMA(prediction, decay=config.average_decay)
    corpus = read_corpus(config, model.sample_rate)
    sampler = SegmentSampler(
        corpus.train,
        length=int(config.seconds * model.sample_rate),
        batch_size=config.batch_size,
        seed=config.seed,
    )

    first_step, settings = 0, config.lasting(corpus)
    checkpoints = Checkpoints(config.out / "checkpoints", keep_last=config.keep_last)
    if (latest := checkpoints.latest()) is not None:
        saved = checkpoints.read(latest)
        check_same_settings(saved["settings"], settings, path=latest.path)
        prediction.load_state_dict(saved["average"])
        average.restart()
        prediction.load_state_dict(saved["prediction"])
        optimizer.load_state_dict(saved["optimizer"])
        first_step = latest.step
    else:
        few = max(1, config.batch_size // 4)  # four segments of each batch are enough
        first = [sampler.batch(number, num_parts=few) for number in range(MEASURED_BATCHES)]
        measure_patches(model, [samples.to(device) for samples in first])

    tracker = Tracker(config.out / "log", after=first_step, active=rank == 0)
    trained, optimizer = accelerator.prepare(prediction, optimizer)
    losses = []
    progress = tqdm(range(first_step, steps), initial=first_step, total=steps, disable=rank > 0)
    for step in progress:
        share = learning_rate_share(
            step, steps=steps, warmup_steps=config.warmup_steps, schedule=config.schedule
        )
        set_learning_rate(optimizer, share * config.learning_rate)
        samples = sampler.batch(step, part=rank, num_parts=accelerator.num_processes).to(device)
        mask_seed = seed_of(config.seed, step * accelerator.num_processes + rank)
        result = trained(samples, generator=torch.Generator().manual_seed(mask_seed))
        accelerator.backward(result.loss)
        norm = accelerator.clip_grad_norm_(trained.parameters(), config.max_norm)
        numbers = torch.stack([result.loss.detach(), result.accuracy, norm])
        loss, accuracy, gradient = accelerator.reduce(numbers, "mean").tolist()
        check_finite(loss, gradient, step=step, checkpoints=checkpoints)
        optimizer.step()
        optimizer.zero_grad()
        average.update(step)
        losses.append(loss)
        progress.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
        if step % 10 == 0:
            values = {"loss": loss, "accuracy": accuracy, "gradient norm": gradient}
            tracker.numbers({f"train/{name}": v for name, v in values.items()}, step=step)

        if ((step + 1) % config.evaluate_every == 0 or step + 1 == steps) and rank == 0:
            with average.swapped():
                held_out = evaluate(prediction, corpus.held_out, config, tracker, step=step + 1)
                check_finite(held_out, gradient, step=step, checkpoints=checkpoints)
                averaged = {name: v.clone() for name, v in prediction.state_dict().items()}
                save_masked_model(model, config.out)
            checkpoints.save(
                {
                    "settings": settings,
                    "prediction": prediction.state_dict(),
                    "average": averaged,
                    "optimizer": optimizer.state_dict(),
                },
                step=step + 1,
                loss=held_out,
            )
    tracker.close()
    if rank == 0:
        print(
            f"Wrote the model to {config.out}. Next: python recipes/train_semantic_codebook.py "
            f"--model {config.out}"
        )
    return losses


@torch.no_grad()
def evaluate(
    prediction: MaskedPrediction,
    clips: list[Recording],
    config: Config,
    tracker: Tracker,
    *,
    step: int,
) -> float:
    """The mean loss on the first seconds of up to 24 held-out clips of each kind, with fixed masks.

    Logs and prints it with the masked accuracy per kind and the perplexity of the targets, whose
    logarithm is the loss of a model that ignores its input.
    """
    prediction.eval()
    device = next(prediction.parameters()).device
    length = int(config.seconds * prediction.model.sample_rate)
    counts = torch.zeros(
        prediction.config.num_codebooks, prediction.config.codebook_size, dtype=torch.int64
    )
    report: dict[str, float] = {}
    losses = []
    for kind in sorted({clip.kind for clip in clips}):
        accuracies = []
        for number, clip in enumerate([clip for clip in clips if clip.kind == kind][:24]):
            samples = torch.from_numpy(clip.samples[:length]).float() / FULL_SCALE
            generator = torch.Generator().manual_seed(number)
            result = prediction(samples.to(device)[None, None], generator=generator)
            losses.append(result.loss.item())
            accuracies.append(result.accuracy.item())
            for codebook, targets in enumerate(result.targets[result.mask].T.cpu()):
                counts[codebook] += targets.bincount(minlength=counts.shape[1])
        report[f"accuracy/{kind}"] = sum(accuracies) / len(accuracies)
    prediction.train()
    loss = sum(losses) / len(losses)
    report |= {"loss": loss, "perplexity of targets": code_usage(counts).perplexity}
    tracker.held_out(report, step=step)
    return loss


def cost(config: Config) -> str:
    """The cost of a run, an upper bound: as if all frames were predicted, not only masked ones."""
    with torch.device("meta"):
        model = MaskedAudioModel(MODELS[config.preset])
        prediction = MaskedPrediction(model, PredictionConfig())

    def loss() -> Tensor:
        samples = torch.zeros(1, 1, int(config.seconds * model.sample_rate))
        hidden = model.encode_patches(model.embed(model.patches(samples)))
        return prediction.heads(hidden).logsumexp(-1).sum()

    one = step_cost(prediction, loss)
    return cost_table(prediction, one, batch_size=config.batch_size, steps=config.steps)


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
