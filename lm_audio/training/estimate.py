"""What a run takes, before it is started: memory and floating-point operations, on 1 to 256 GPUs.

Weights are counted. Activations and operations are measured: training steps of a model of one and
of two layers are taken on tensors that have shapes and no memory, and the rest follows, for both
grow in proportion to the layers and to the rows. What an allocator wastes is not foreseen.

Shapes: B rows of a batch, J streams of the model, S steps after the pattern, V vocabulary.
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
from lm_audio.networks.condition import Condition, Fused
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.networks.transformer import CausalBlock, Transformer, TransformerConfig
from lm_audio.training.objective import StageObjective
from lm_audio.training.processes import Precision
from lm_audio.training.settings import LanguageModelSettings
from lm_audio.training.step_cost import H100_FLOPS, NUMBERS_OF_GPUS, UTILISATION

GPU_NAME, GPU_BYTES = "H100", 80e9
GPU_FLOPS: dict[Precision, float] = {"bfloat16": H100_FLOPS, "float32": 67e12}
TEXT_TOKENS = 32  # of a caption
MARGIN = 0.9  # of a GPU's memory; the rest is for what is not foreseen
FLOAT = 4  # bytes; weights and all that goes with them stay float32

Measured = tuple[float, float]
"""Operations of a step, and bytes that are kept between its halves."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Numbers of weights.

    Args:
        trained: those that have gradients.
        frozen: of encoders that are read and not trained.
        block: of the largest piece that FSDP gathers at once.
    """

    trained: int
    frozen: int
    block: int

    def memory(self, *, num_gpus: int, sharded: bool) -> float:
        """Bytes on each GPU for weights, gradients, both moments of AdamW, and the average.

        DDP has a second copy of the gradients, to send; FSDP has two pieces whole, the one that is
        used and the next.
        """
        if sharded and num_gpus > 1:
            return FLOAT * (5 * self.trained / num_gpus + 2 * self.block + self.frozen)
        return FLOAT * ((5 + (num_gpus > 1)) * self.trained + self.frozen)


@dataclass(frozen=True, kw_only=True)
class BatchCost:
    """What one batch of one GPU takes.

    Args:
        rows: crops of the whole context.
        steps: of each, after the pattern.
        flops: forward and backward.
        activations: bytes that are kept between them.
    """

    rows: int
    steps: int
    flops: float
    activations: float


def count_weights(stage: LMStage) -> Weights:
    """Counts the weights of a stage, which may be on the meta device."""
    objective = StageObjective(stage)
    blocks = [module for module in objective.modules() if isinstance(module, CausalBlock)]
    sizes = [_size(block) for block in blocks]
    trained = sum(w.numel() for w in objective.parameters() if w.requires_grad)
    encoders = {id(e): e for e in text_encoders(stage.conditioners).values()}.values()
    frozen = sum(_size(e.model) for e in encoders if isinstance(e, FrozenEncoder))
    return Weights(
        trained=trained,
        frozen=frozen + _size(objective) - trained,
        block=max([_size(objective) - sum(sizes), *sizes]),
    )


def batch_cost(
    stage: LMStage,
    *,
    tokens: int,
    precision: Precision = "bfloat16",
    recompute: bool = False,
    source: LMStage | None = None,
) -> BatchCost:
    """Measures a batch of as many crops of the whole context as `tokens` hold.

    Args:
        source: the stage whose tokens go before those of this one, if it has one.
    """
    config = stage.model.config
    steps = stage.pattern.layout(stage.window_frames).num_steps
    rows = max(1, tokens // (stage.window_frames * stage.num_codebooks))
    prefix = _prefix_length(stage, source)
    length = TEXT_TOKENS * config.transformer.cross_attention

    def model_step(layers: int, few: int) -> Measured:
        small = replace(config, transformer=replace(config.transformer, num_layers=layers))
        return _model_step(small, few, steps, prefix, length, precision)

    rest, layer = _measured(model_step, rows=rows)
    num_layers = config.transformer.num_layers
    flops, activations = (rest + num_layers * layer).tolist()
    if recompute:  # a third of a layer's work is done twice, and its input alone is kept
        flops += num_layers * float(layer[0]) / 3
        layer_input = rows * (prefix + steps) * config.transformer.dim * FLOAT
        activations = float(rest[1] + layer[1]) + num_layers * layer_input
    for encoder in text_encoders(stage.conditioners).values():
        if isinstance(encoder, OwnTextEncoder):
            more = _reader_cost(encoder.config.transformer, rows, precision)
            flops, activations = flops + more[0], activations + more[1]
    return BatchCost(rows=rows, steps=steps, flops=flops, activations=activations)


def print_estimate(
    stage: LMStage, config: LanguageModelSettings, *, source: LMStage | None = None
) -> None:
    """Prints what each GPU needs and how long the run takes.

    Args:
        stage: may be on the meta device, where its weights take no memory.
        source: as in `batch_cost`.
    """
    weights = count_weights(stage)
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
    tokens = cost.rows * stage.window_frames * stage.num_codebooks
    step_flops = cost.flops * config.accumulation
    seconds = step_flops / (GPU_FLOPS[config.precision] * UTILISATION)
    hours = seconds * config.steps / 3600
    frozen = f" and {weights.frozen / 1e6:,.1f} million that are not" * (weights.frozen > 0)
    print(
        f"{stage.name}: {weights.trained / 1e6:,.1f} million weights are trained{frozen}.\n"
        f"A batch: {cost.rows} crops of {stage.window_frames} frames, {tokens:,} tokens, "
        f"{cost.flops / 1e12:,.2f} TFLOP, {cost.flops / tokens / 1e9:,.2f} GFLOP a token"
        f"{', activations computed twice' if config.recompute else ''}.\n"
        f"Activations: {_gb(costs[0].activations)} GB, with --recompute "
        f"{_gb(costs[1].activations)} GB and {costs[1].flops / costs[0].flops - 1:.0%} more work.\n"
        f"A step, {config.accumulation} such batch{'es' * (config.accumulation > 1)} on each "
        f"GPU: {seconds:.2f} s at {UTILISATION:.0%} of an {GPU_NAME}'s "
        f"{GPU_FLOPS[config.precision] / 1e12:.0f} TFLOP/s; {config.steps:,} steps: "
        f"{hours:,.1f} hours.\n"
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


def _measured(step: Callable[[int, int], Measured], *, rows: int) -> tuple[Tensor, Tensor]:
    """What is outside the layers and what each layer adds, for so many rows: operations, bytes.

    Args:
        step: measures one, given the number of layers and of rows.
    """
    one, two = (
        few + (more - few) * (rows - 2) / 2
        for few, more in ((_pair(step(n, 2)), _pair(step(n, 4))) for n in (1, 2))
    )
    return 2 * one - two, two - one


def _pair(measured: Measured) -> Tensor:
    return torch.tensor(measured, dtype=torch.float64)


def _model_step(
    config: TokenLMConfig, rows: int, steps: int, prefix: int, text: int, precision: Precision
) -> Measured:
    with torch.device("meta"):
        model = TokenLM(config)
    dim = config.transformer.dim

    def loss() -> Tensor:
        tokens = torch.zeros(rows, config.num_streams, steps, dtype=torch.int64)
        fused = Fused(
            cross=_condition(rows, text, dim) if text else None,
            prepend=_condition(rows, prefix, dim) if prefix else None,
        )
        logits = model(tokens, fused=fused)
        return F.cross_entropy(logits.transpose(1, 2).flatten(0, 2).float(), tokens.flatten())

    return _measure(model, loss, precision)


def _reader_cost(config: TransformerConfig, rows: int, precision: Precision) -> Measured:
    def step(layers: int, few: int) -> Measured:
        return _reader_step(replace(config, num_layers=layers), few, precision)

    rest, layer = _measured(step, rows=rows)
    flops, kept = (rest + config.num_layers * layer).tolist()
    return flops, kept


def _reader_step(config: TransformerConfig, rows: int, precision: Precision) -> Measured:
    with torch.device("meta"):
        model = Transformer(config)

    def loss() -> Tensor:
        x = torch.zeros(rows, TEXT_TOKENS, config.dim, requires_grad=True)
        mask = torch.ones(rows, TEXT_TOKENS, dtype=torch.bool)
        return model(x, mask=mask).float().sum()

    return _measure(model, loss, precision)


def _measure(module: nn.Module, loss: Callable[[], Tensor], precision: Precision) -> Measured:
    """Operations of a step, and bytes that its forward half keeps beside the weights."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage()._cdata] = x.untyped_storage()
        return x

    lower = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    attention: dict[Any, Any] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_back,
    }
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        FlopCounterMode(display=False, custom_mapping=attention) as counter,
    ):
        module.to_empty(device="cpu").train()
        with lower, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            result = loss()
        result.backward()
    for weight in module.parameters():
        kept.pop(weight.untyped_storage()._cdata, None)
    return counter.get_total_flops(), sum(storage.nbytes() for storage in kept.values())


def _attention_flops(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _attention_back(grad: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


def _condition(rows: int, length: int, dim: int) -> Condition:
    mask = torch.ones(rows, length, dtype=torch.bool)
    return Condition(embeddings=torch.zeros(rows, length, dim, requires_grad=True), mask=mask)


def _prefix_length(stage: LMStage, source: LMStage | None) -> int:
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
