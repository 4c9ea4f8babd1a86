"""Estimates memory and compute of a training run on 1 to 256 GPUs before it starts.

Weights are counted. Operations and activations are measured in a step on meta tensors. Allocator
fragmentation is not included.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from lm_audio.conditioners.description import text_encoders
from lm_audio.conditioners.frozen import FrozenEncoder
from lm_audio.conditioners.text import OwnTextEncoder
from lm_audio.conditioners.tokens import TokenConditioner
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.token_stage import TokenStage
from lm_audio.networks.condition import Condition, Fused
from lm_audio.networks.token_lm import TokenLM
from lm_audio.networks.transformer import CausalBlock, Transformer
from lm_audio.training.objective import StageObjective
from lm_audio.training.processes import Precision
from lm_audio.training.settings import LanguageModelSettings

GPU_NAME, GPU_BYTES = "H100", 80e9
GPU_FLOPS: dict[Precision, float] = {"bfloat16": 989e12, "float32": 67e12}  # per second
UTILISATION = 0.4  # the share of them that training reaches
NUMBERS_OF_GPUS = tuple(2**n for n in range(9))
TEXT_TOKENS = 32  # per caption
MARGIN = 0.9  # of a GPU's memory; the rest is a reserve
FLOAT = 4  # bytes; weights, gradients and optimizer state stay float32


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Parameter counts.

    Args:
        trained: with gradients.
        frozen: in frozen encoders.
        block: of the largest unit that FSDP gathers at once.
    """

    trained: int
    frozen: int = 0
    block: int = 0

    def memory(self, *, num_gpus: int, sharded: bool) -> float:
        """Bytes on each GPU for weights, gradients, both moments of AdamW, and the average.

        DDP has a second copy of the gradients, in its buckets; FSDP gathers two units, the current
        one and the next.
        """
        if sharded and num_gpus > 1:
            return FLOAT * (5 * self.trained / num_gpus + 2 * self.block + self.frozen)
        return FLOAT * ((5 + (num_gpus > 1)) * self.trained + self.frozen)


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """The cost of a forward and a backward pass.

    Args:
        flops: of matrix products, convolutions and attention.
        activations: bytes stored between the passes.
    """

    flops: float
    activations: float


def step_cost(
    module: nn.Module, loss: Callable[[], Tensor], *, precision: Precision = "float32"
) -> StepCost:
    """Counts the operations of `loss` and its gradient without computing them.

    Args:
        module: everything that is trained, on the meta device. Unusable afterwards.
        loss: also makes its inputs.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage()._cdata] = x.untyped_storage()
        return x

    # CPU operators that torch's counter does not include.
    attention: dict[Any, Any] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
            lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
        ),
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
        ),
    }
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        FlopCounterMode(display=False, custom_mapping=attention) as counter,
    ):
        module.to_empty(device="cpu").train()
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        ):
            result = loss()
        result.backward()
    for weight in module.parameters():
        kept.pop(weight.untyped_storage()._cdata, None)
    activations = sum(storage.nbytes() for storage in kept.values())
    return StepCost(flops=counter.get_total_flops(), activations=activations)


def count_weights(stage: TokenStage) -> Weights:
    """Counts the weights of a stage, which may be on the meta device."""
    objective = StageObjective(stage)
    sizes = [_size(each) for each in objective.modules() if isinstance(each, CausalBlock)]
    trained = sum(w.numel() for w in objective.parameters() if w.requires_grad)
    encoders = {id(e): e for e in text_encoders(stage.conditioners).values()}.values()
    frozen = sum(_size(e.model) for e in encoders if isinstance(e, FrozenEncoder))
    return Weights(
        trained=trained,
        frozen=frozen + _size(objective) - trained,
        block=max([_size(objective) - sum(sizes), *sizes]),
    )


def num_crops(stage: TokenStage, *, tokens: int) -> int:
    """The number of full-context crops in a batch of `tokens`."""
    return max(1, tokens // (stage.window_frames * stage.num_codebooks))


def batch_cost(
    stage: TokenStage,
    *,
    tokens: int,
    precision: Precision = "bfloat16",
    recompute: bool = False,
    source: TokenStage | None = None,
) -> StepCost:
    """The cost of a batch of full-context crops.

    Args:
        source: the stage whose tokens are this one's prefix, if there is one.
    """
    config, rows = stage.model.config, num_crops(stage, tokens=tokens)
    shape = config.transformer
    steps = stage.window_frames
    if isinstance(stage, LMStage):
        steps = stage.pattern.layout(steps).num_steps
    prefix = _prefix_length(stage, source)

    def with_layers(num_layers: int) -> StepCost:
        with torch.device("meta"):
            model = TokenLM(replace(config, transformer=replace(shape, num_layers=num_layers)))
            readers = [
                Transformer(encoder.config.transformer)
                for encoder in text_encoders(stage.conditioners).values()
                if isinstance(encoder, OwnTextEncoder)
            ]

        def loss() -> Tensor:
            inputs = torch.zeros(rows, config.num_streams, steps, dtype=torch.int64)
            fused = Fused(
                cross=_condition(rows, TEXT_TOKENS, shape.dim) if shape.cross_attention else None,
                prepend=_condition(rows, prefix, shape.dim) if prefix else None,
            )
            logits = model(inputs, fused=fused).transpose(1, 2).flatten(0, 2).float()
            total = F.cross_entropy(logits, inputs.flatten())
            for reader in readers:
                text = _condition(rows, TEXT_TOKENS, reader.config.dim)
                total = total + reader(text.embeddings, mask=text.mask).float().sum()
            return total

        return step_cost(nn.ModuleList([model, *readers]), loss, precision=precision)

    one, two = with_layers(1), with_layers(2)  # the cost is linear in the layers
    layer_flops, kept = two.flops - one.flops, two.activations - one.activations
    flops = one.flops + (shape.num_layers - 1) * layer_flops
    if not recompute:
        activations = one.activations + (shape.num_layers - 1) * kept
        return StepCost(flops=flops, activations=activations)
    # The forward pass, a third of the work, runs twice; layers store only their inputs, and one at
    # a time the rest.
    inputs = FLOAT * rows * (prefix + steps) * shape.dim
    return StepCost(
        flops=flops + shape.num_layers * layer_flops / 3,
        activations=one.activations + shape.num_layers * inputs,
    )


def print_estimate(
    stage: TokenStage, config: LanguageModelSettings, *, source: TokenStage | None = None
) -> None:
    """Prints the memory of each GPU and the time of the run.

    Args:
        stage: may be on the meta device.
        source: as in `batch_cost`.
    """
    weights, rows = count_weights(stage), num_crops(stage, tokens=config.tokens_per_batch)
    costs = [
        batch_cost(
            stage,
            tokens=config.tokens_per_batch,
            precision=config.precision,
            recompute=recompute,
            source=source,
        )
        for recompute in (False, True)
    ]
    cost = costs[config.recompute]
    tokens = rows * stage.window_frames * stage.num_codebooks
    seconds = cost.flops * config.accumulation / (GPU_FLOPS[config.precision] * UTILISATION)
    frozen = f", {weights.frozen / 1e6:,.1f} million are frozen" * (weights.frozen > 0)
    print(
        f"{stage.name}: {weights.trained / 1e6:,.1f} million weights are trained{frozen}.\n"
        f"A batch: {rows} crops of {stage.window_frames} frames, {tokens:,} tokens, "
        f"{cost.flops / 1e12:,.2f} TFLOP, {cost.flops / tokens / 1e9:,.2f} GFLOP a token"
        f"{', activations computed twice' if config.recompute else ''}.\n"
        f"Activations: {_gb(costs[0].activations)} GB, with --recompute "
        f"{_gb(costs[1].activations)} GB and {costs[1].flops / costs[0].flops - 1:.0%} more work.\n"
        f"A step, {config.accumulation} such batch{'es' * (config.accumulation > 1)} on each "
        f"GPU: {seconds:.2f} s at {UTILISATION:.0%} of an {GPU_NAME}'s "
        f"{GPU_FLOPS[config.precision] / 1e12:.0f} TFLOP/s; {config.steps:,} steps: "
        f"{seconds * config.steps / 3600:,.1f} hours.\n"
    )
    print("| GPUs | tokens a step | hours per 1e9 tokens | DDP, GB each | FSDP, GB each | fits |")
    print("|---|---|---|---|---|---|")
    for num_gpus in NUMBERS_OF_GPUS:
        ddp, fsdp = (
            weights.memory(num_gpus=num_gpus, sharded=sharded) + cost.activations
            for sharded in (False, True)
        )
        fits = "DDP" if ddp < MARGIN * GPU_BYTES else "FSDP" if fsdp < MARGIN * GPU_BYTES else "no"
        a_step = tokens * config.accumulation * num_gpus
        print(
            f"| {num_gpus} | {a_step:,} | {seconds / 3600 * 1e9 / a_step:.3g} | {_gb(ddp)} | "
            f"{_gb(fsdp)} | {fits} |"
        )


def cost_table(module: nn.Module, cost: StepCost, *, batch_size: int, steps: int) -> str:
    """Memory of each GPU and time of a run with DDP, for numbers of GPUs that divide the batch.

    Args:
        cost: of one item of a batch.
    """
    weights = Weights(trained=sum(w.numel() for w in module.parameters() if w.requires_grad))
    lines = [
        f"{weights.trained / 1e6:.1f} M parameters; "
        f"{cost.flops * batch_size / 1e12:.3g} TFLOP a step of {batch_size} items",
        "",
        f"| GPUs | items each | GB each, at most | hours at {UTILISATION:.0%} of an {GPU_NAME} |",
        "|---:|---:|---:|---:|",
    ]
    for num_gpus in NUMBERS_OF_GPUS:
        if batch_size % num_gpus == 0:
            items = batch_size // num_gpus
            memory = weights.memory(num_gpus=num_gpus, sharded=False) + items * cost.activations
            seconds = steps * items * cost.flops / (GPU_FLOPS["bfloat16"] * UTILISATION)
            lines.append(f"| {num_gpus} | {items} | {memory / 1e9:.2f} | {seconds / 3600:.2f} |")
    return "\n".join(lines)


def _condition(rows: int, length: int, dim: int) -> Condition:
    mask = torch.ones(rows, length, dtype=torch.bool)
    return Condition(embeddings=torch.zeros(rows, length, dim, requires_grad=True), mask=mask)


def _prefix_length(stage: TokenStage, source: TokenStage | None) -> int:
    name = stage.source.condition if stage.source is not None else ""
    if stage.conditioners.fuse.get(name) != "prepend":
        return 0
    rate = stage.frame_rate if source is None else source.frame_rate
    conditioner = stage.conditioners[name]
    assert isinstance(conditioner, TokenConditioner)
    return int(stage.window_frames * rate / stage.frame_rate) * conditioner.num_codebooks


def _size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f}"
