"""The training loop of the recipes for diffusion stages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.renderers.protocol import Renderer
from lm_audio.training.checkpoints import Checkpoints, check_finite
from lm_audio.training.diffusion_batches import NUM_BINS, LatentBatches
from lm_audio.training.diffusion_objective import DiffusionObjective
from lm_audio.training.latents import log_latent_samples
from lm_audio.training.optimization import EMA
from lm_audio.training.processes import Processes
from lm_audio.training.settings import TrainingSettings
from lm_audio.training.tracking import Tracker


@dataclass(frozen=True, kw_only=True, eq=False)
class DiffusionLoop:
    """Trains a diffusion stage, evaluates its averaged weights and writes the best model.

    Args:
        config: the recipe's settings; the model is written to `out / "model"`.
        renderer: for the logged samples.
        write: writes the model with this stage to a folder.
        lasting: what must not change when a run continues, besides the settings and the data.
    """

    objective: DiffusionObjective
    config: TrainingSettings
    processes: Processes
    batches: LatentBatches
    held_out: LatentBatches
    renderer: Renderer
    write: Callable[[DiffusionStage, Path], None]
    lasting: Mapping[str, Any] = field(default_factory=dict)

    @property
    def _model(self) -> Path:
        return self.config.out / "model"

    def run(self) -> list[float]:
        """Trains to the end and returns the loss of every step."""
        config, processes = self.config, self.processes
        optimizer = config.new_optimizer(self.objective)
        module, optimizer = processes.prepare(self.objective, optimizer)
        average = EMA(module, decay=config.average_decay)
        checkpoints = Checkpoints(config.out / "checkpoints", keep_last=config.keep_last)
        settings = config.lasting(processes.batches_per_step, data=self.batches.shards)
        settings |= self.lasting
        first_step = processes.resume(checkpoints, settings, module, optimizer, average)
        tracker = Tracker(config.out / "log", after=first_step, active=processes.is_main)

        losses: list[float] = []
        steps = range(first_step, config.steps)
        shares = processes.batches(self.batches, steps=steps, num_workers=config.num_workers)
        progress = tqdm(
            steps, initial=first_step, total=config.steps, disable=not processes.is_main
        )
        for step, share in zip(progress, shares, strict=True):  # of this process
            rate = config.schedule_learning_rate(optimizer, step)
            loss = processes.accumulate(module, share, num_codebooks=NUM_BINS, seed=config.seed)
            losses.append(loss.mean)
            norm = processes.step(module, optimizer, max_norm=config.max_norm)
            check_finite(losses[-1], norm, step=step, checkpoints=checkpoints)
            average.update(step)

            done = step + 1
            progress.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
            bins = [float(x) for x in loss.sums / loss.counts.clamp(min=1)]
            numbers = {f"train/noise level {i}": each for i, each in enumerate(bins)}
            numbers |= {"train/loss": losses[-1], "train/gradient norm": norm, "train/rate": rate}
            tracker.numbers(numbers, step=done)
            held_out_loss = None
            if done % config.evaluate_every == 0 or done == config.steps:
                with average.swapped():
                    held_out_loss = self._evaluate(module, checkpoints, tracker, step=done)
            if held_out_loss is not None or done % config.save_every == 0:
                state = processes.state(module, optimizer, average)
                if processes.is_main:
                    checkpoints.save({**state, "settings": settings}, step=done, loss=held_out_loss)
        if not losses and (best := checkpoints.best()):  # already trained; other parts may be new
            processes.restore(checkpoints.read(best), module, optimizer, average)
            with average.swapped(), processes.gathered(module, self.objective.stage) as whole:
                if processes.is_main:
                    self.write(whole, self._model)
        tracker.close()
        return losses

    def _evaluate(
        self, module: nn.Module, checkpoints: Checkpoints, tracker: Tracker, *, step: int
    ) -> float:
        """The held-out loss; logs it with samples, and writes the model if it is the best."""
        by_bin = self.processes.mean_loss(
            module, self.held_out, num_batches=self.config.evaluate_batches
        )
        loss = float(by_bin[by_bin > 0].mean())  # few crops may miss a bin
        with self.processes.gathered(module, self.objective.stage) as whole:
            if self.processes.is_main:
                log_latent_samples(whole, self.held_out, tracker, step=step, renderer=self.renderer)
                if checkpoints.is_best(loss):
                    self.write(whole, self._model)
        tracker.numbers({"held out/loss": loss}, step=step)
        if self.processes.is_main:
            tqdm.write(f"step {step}: held-out loss {loss:.3f}")
        return loss
