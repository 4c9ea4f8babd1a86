"""Trains a diffusion transformer over latents of sound, and writes a whole model.

    python recipes/train_diffusion.py --preset tiny     # under a minute, synthetic sounds
    python recipes/train_diffusion.py --data shards
    python recipes/train_diffusion.py --data shards --semantic runs/semantic \\
        --semantic-tokenizer runs/semantic_codebook
    python recipes/train_diffusion.py --data shards --autoencoder runs/autoencoder/model \\
        --vocoder runs/vocoder/model
    python recipes/train_diffusion.py --data shards --distill runs/diffusion/model --out runs/fast
    accelerate launch --num_processes 8 recipes/train_diffusion.py ...              # a cluster

`--data` takes shards from recipes/tokenize_dataset.py. By default the latents are those of a codec,
for the acoustic tokens in the shards. With `--autoencoder` and `--vocoder`, the models from
recipes/train_autoencoder.py and recipes/train_vocoder.py, they are those of mel spectrograms, and
the shards need samples at the same rate (tokenize_dataset.py --codec none --samples 16000). With
`--semantic`, the output folder of recipes/train_stage.py --family duet --stage semantic, the model
generates semantic tokens first and follows them. `OUT/model` is a complete model for
`lm_audio.load`.

The network learns rectified flow by default (arXiv 2209.03003); `--predicts` and `--noise` choose
other targets and schedules. Conditions are dropped independently, for guidance and so that each is
optional. A share of the examples has known frames, for continuation and inpainting. `--distill`
turns a trained model into one that needs few steps and no guidance (arXiv 2310.04378). Run the same
command again to resume an interrupted run; the losses are the same as without the interruption.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch

from audio_tokenizers.acoustic.registry import load_codec
from audio_tokenizers.protocol import AcousticTokenizer, LatentCodec
from audio_tokenizers.semantic.tokenizer import load_feature_tokenizer
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.shards import SAMPLES, Conditions, Shards, acoustic_identity
from lm_audio.families.latent_flow.stages import latent_flow
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.noise_schedule import Kind, NoiseSchedule, Predicts
from lm_audio.generation.track import Stage
from lm_audio.model import Model
from lm_audio.networks import presets
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.renderers.codec_latents import CodecLatentRenderer
from lm_audio.renderers.latent import LatentRenderer
from lm_audio.renderers.protocol import Renderer
from lm_audio.sampling import Denoising
from lm_audio.saving.folder import load_model, save_model
from lm_audio.saving.spectrograms import read_renderer
from lm_audio.saving.stage_folder import read_stage
from lm_audio.signals import ACOUSTIC, SEMANTIC
from lm_audio.training.checkpoints import check_identity
from lm_audio.training.consistency_objective import ConsistencyObjective
from lm_audio.training.diffusion_batches import KnownFrames, LatentBatches
from lm_audio.training.diffusion_loop import DiffusionLoop
from lm_audio.training.diffusion_objective import DiffusionObjective
from lm_audio.training.latents import (
    SoundLatents,
    StandardisedLatents,
    TokenLatents,
    scale_of,
)
from lm_audio.training.processes import Processes
from lm_audio.training.settings import TrainingSettings, check_least, read_data
from lm_audio.training.stage_batches import Dropout
from lm_audio.training.text import chosen_text

VOCABULARY = 4000
"""Maximum number of word pieces of a text encoder that is trained with the network."""


def two_sided(dim: int, num_layers: int) -> TransformerConfig:
    return replace(presets.compact(dim=dim, num_layers=num_layers, dropout=0.0), causal=False)


SHAPES = {  # of the network, and of the text encoder that is trained with it
    "tiny": (
        replace(presets.tiny().transformer, causal=False),
        TransformerConfig(dim=32, num_layers=1, num_heads=2, hidden_dim=64, causal=False),
    ),
    "default": (two_sided(320, 8), presets.compact(dim=128, num_layers=3, reads=True)),
    "small": (two_sided(512, 9), presets.compact(dim=256, num_layers=4, reads=True)),
    "large": (two_sided(1024, 16), presets.compact(dim=512, num_layers=6, reads=True)),
}


@dataclass(frozen=True, kw_only=True)
class Config(TrainingSettings):
    preset: Literal["tiny", "default", "small", "large"] = "small"  # type: ignore[assignment]
    out: Path = Path("runs/diffusion")
    codec: Path = CODEC_FOLDER
    """Folder of the codec of the acoustic tokens."""
    autoencoder: Path | None = None
    """Folder of an autoencoder of mel spectrograms, to use instead of a codec. On a GPU, it encodes
    there with --num-workers 0, else on the CPU."""
    vocoder: Path | None = None
    """Folder of the vocoder for those spectrograms."""
    channels: int | None = None
    """Number of channels; defaults to the codec's. 2 also works with a mono codec."""
    frames_per_batch: int = 4_000
    """The most latent frames in a batch, padding included."""
    context_seconds: float = 10.0
    """Length of the training examples and of the model's windows, in seconds."""
    patch: int = 1
    """Latent frames per position of the network; 2 halves the time of a pass."""
    quantize: bool = True
    """Round latents to the codec's tokens before decoding, as in the training data."""
    predicts: Predicts = "flow"
    """What the network predicts."""
    noise: Kind = "flow"
    """The noise schedule."""
    distill: Path | None = None
    """Folder of a trained model to distill, with the guidance scale that is its default. The
    options for the network, the text and the labels then have no effect."""
    distilled_steps: int = 8
    """Default number of denoising steps of the distilled model."""
    semantic: Path | None = None
    """Output folder of a trained semantic stage, whose tokens the network follows."""
    semantic_tokenizer: Path | None = None
    """Folder of the semantic tokenizer to store in the model, so that it can continue audio."""
    t5: str | None = None
    """Folder or hub id of a T5 that encodes the captions. By default a small text encoder is
    trained with the network."""
    text_encoder: Path | None = None
    """Folder of an encoder from recipes/train_text_encoder.py for the captions; stays frozen."""
    labels: tuple[str, ...] = ()
    """Attributes of the data to condition on besides the text, such as: label speaker."""
    joint_dropout: float = 0.1
    """Share of examples that drop text and labels together, for classifier-free guidance."""
    text_dropout: float = 0.05
    """Share of examples that drop the text alone."""
    label_dropout: float = 0.1
    """Share of examples that drop a label, per label, so that labels are optional."""
    semantic_dropout: float = 0.15
    """Share of examples that drop the semantic tokens."""
    prompt_share: float = 0.25
    """Share of examples that continue known frames."""
    span_share: float = 0.1
    """Share of examples that fill a span between known frames. If both shares are 0, the network
    does not see known frames."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, frames_per_batch=1, patch=1, distilled_steps=1)
        if self.distill is not None and self.semantic is not None:
            raise ValueError(
                "--semantic has no effect with --distill, which keeps the model's own semantic "
                "stage; remove it."
            )
        if self.semantic is None and self.semantic_tokenizer is not None:
            raise ValueError(
                "--semantic-tokenizer has no effect without --semantic; pass --semantic or remove "
                "it."
            )
        if (self.autoencoder is None) != (self.vocoder is None):
            raise ValueError("--autoencoder and --vocoder need each other; pass both or neither.")
        if self.autoencoder is not None and (self.codec, self.channels, self.quantize) != (
            CODEC_FOLDER,
            None,
            True,
        ):
            raise ValueError(
                "--codec, --channels and --no-quantize have no effect with --autoencoder; remove "
                "them."
            )
        KnownFrames(before=self.prompt_share, around=self.span_share)  # raises unless valid


PRESETS: Mapping[str, Config] = {
    "tiny": Config(
        preset="tiny",
        steps=60,
        frames_per_batch=400,
        context_seconds=2.0,
        learning_rate=1e-2,
        warmup_steps=5,
        average_decay=0.9,
        precision="float32",
        evaluate_every=30,
        evaluate_batches=2,
        save_every=20,
    ),
    "default": Config(
        preset="default",
        steps=10_000,
        optimizer="muon",
        learning_rate=3e-3,
        warmup_steps=100,
        evaluate_every=500,
        save_every=250,
    ),
    "small": Config(),
    "large": Config(
        preset="large", steps=200_000, frames_per_batch=30_000, warmup_steps=3000, recompute=True
    ),
}


def main(config: Config) -> list[float]:
    """Trains to the end and returns the loss of every step."""
    processes = Processes(precision=config.precision, accumulation=config.accumulation)
    data = sound_data(config) if config.autoencoder is not None else token_data(config)
    torch.manual_seed(config.seed)
    if config.distill is None:
        model = new_model(config, data)
        objective = DiffusionObjective(cast(DiffusionStage, model.stages[-1])).train()
    else:
        model, objective = distilled_model(config, config.distill, data)
        data = replace(data, latents=type(data.latents)(model.renderer))  # type: ignore[arg-type]
    stage, renderer = objective.stage, data.latents.renderer
    if config.dry_run:
        print_size(objective, config)
        return []
    objective.model.recomputes = config.recompute  # type: ignore[assignment]
    if isinstance(renderer, LatentRenderer) and config.num_workers == 0:
        renderer.autoencoder.to(processes.device)  # in workers, it stays on the CPU
    known = KnownFrames(before=config.prompt_share, around=config.span_share)
    batches = partial(
        LatentBatches,
        stage,
        latents=data.latents,
        stream=data.stream,
        hop_length=data.hop_length,
        frames=config.frames_per_batch,
        seed=config.seed,
        known=known if stage.sees_known else None,
        logit_normal=config.noise == "flow" and config.distill is None,
    )
    losses = DiffusionLoop(
        objective=objective,
        config=config,
        processes=processes,
        batches=batches(data.shards, dropout=dropout(config, stage)),
        held_out=batches(data.held_out, dropout=None),
        renderer=renderer,
        write=lambda stage, folder: save_model(model.with_stage(stage), folder),
        lasting={"renderer": renderer.identity, "teacher": objective.teacher_identity},
    ).run()
    if processes.is_main:
        print(summary(stage, config))
    return losses


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """Shards, and how their values become latents.

    Args:
        stream: that of the values.
        hop_length: values per latent frame.
    """

    shards: Shards
    held_out: Shards
    latents: StandardisedLatents | SoundLatents
    stream: str
    hop_length: int


def token_data(config: Config) -> Data:
    """Acoustic tokens, which become a codec's latents."""
    codec = latent_codec(load_codec(config.codec), config)
    shards, held_out = read_data(config, codec)
    channels = config.channels or codec.num_channels
    sets = channels // codec.num_channels
    if ACOUSTIC not in shards.streams:
        raise ValueError("The shards have no acoustic tokens; use recipes/tokenize_dataset.py.")
    identity = acoustic_identity(codec.identity, token_sets=sets)
    check_identity(identity, shards.streams[ACOUSTIC].identity, option="--codec with --channels")
    mean, deviation = scale_of(shards, TokenLatents(codec, sets))
    renderer = CodecLatentRenderer(
        codec=codec,
        num_channels=channels,
        mean=mean,
        deviation=deviation,
        quantize=config.quantize,
    )
    return Data(
        shards=shards,
        held_out=held_out,
        latents=StandardisedLatents(renderer),
        stream=ACOUSTIC,
        hop_length=1,
    )


def sound_data(config: Config) -> Data:
    """Samples, which become the latents of spectrograms."""
    assert config.autoencoder is not None
    assert config.vocoder is not None
    renderer = read_renderer(config.autoencoder, config.vocoder)
    shards, held_out = read_data(config, sample_rate=renderer.sample_rate)
    stream = shards.streams.get(SAMPLES)
    if stream is None or stream.rate != renderer.sample_rate:
        found = "no samples" if stream is None else f"samples at {stream.rate} Hz"
        raise ValueError(
            f"The shards have {found}, but the autoencoder needs {renderer.sample_rate} Hz. Make "
            f"them with recipes/tokenize_dataset.py --samples {renderer.sample_rate}."
        )
    return Data(
        shards=shards,
        held_out=held_out,
        latents=SoundLatents(renderer),
        stream=SAMPLES,
        hop_length=renderer.hop_length,
    )


def latent_codec(codec: AcousticTokenizer, config: Config) -> LatentCodec:
    if not hasattr(codec, "latents_of"):
        raise ValueError(
            f"The codec in {config.codec} does not show its latents. Use a frame codec "
            "(recipes/train_codec.py)."
        )
    return cast(LatentCodec, codec)


def new_model(config: Config, data: Data) -> Model:
    """The model with new weights in its last stage."""
    renderer, shards = data.latents.renderer, data.shards
    followed: dict[str, Any] = {}
    earlier: list[Stage] = []
    tokenizer = None
    if config.semantic is not None:
        tokens = shards.identities
        if config.semantic_tokenizer is not None:
            tokenizer = load_feature_tokenizer(config.semantic_tokenizer)
            tokens[SEMANTIC] = tokenizer.identity
        semantic = read_stage(config.semantic / "stage", tokens=tokens)
        earlier.append(semantic)
        followed["num_semantic_tokens"] = semantic.num_tokens
        followed["semantic_rate"] = semantic.frame_rate
    transformer, reader = SHAPES[config.preset]
    text = chosen_text(
        shards, reader, vocab_size=VOCABULARY, t5=config.t5, text_encoder=config.text_encoder
    )
    every = [*shards.conditions, *data.held_out.conditions]
    stage = latent_flow(
        transformer,
        makes=renderer.signal,
        text=text,
        labels={name: labels_of(every, name) for name in config.labels},
        patch=config.patch,
        sees_known=config.prompt_share + config.span_share > 0,
        predicts=config.predicts,
        schedule=NoiseSchedule(kind=config.noise),
        window_seconds=config.context_seconds,
        **followed,
    )
    return Model([*earlier, stage], renderer, semantic_tokenizer=tokenizer)


def distilled_model(config: Config, folder: Path, data: Data) -> tuple[Model, ConsistencyObjective]:
    """A trained model whose last stage is the student, which starts as a copy of its teacher."""
    model = load_model(folder)
    teacher = model.stages[-1]
    if not isinstance(teacher, DiffusionStage):
        raise ValueError(f"The last stage of the model in {folder} does not denoise latents.")
    scale = teacher.sampling.guidance_scale
    if not isinstance(scale, int | float):
        raise ValueError(
            f"The model in {folder} has a guidance scale per condition. Save it with a single one."
        )
    if codec_of(model.renderer) != codec_of(data.latents.renderer):
        raise ValueError(
            f"The data does not have the latents of the model in {folder}. Pass its codec as "
            "--codec, or its autoencoder and vocoder."
        )
    shared = {id(one): one for one in (model.text_encoder,) if one is not None}
    student = replace(
        teacher,
        network=deepcopy(teacher.network),
        conditioners=deepcopy(teacher.conditioners, shared),
        sampling=Denoising(steps=config.distilled_steps, solver="ping-pong", guidance_scale=1.0),
    )
    objective = ConsistencyObjective(student, teacher=teacher, guidance_scale=float(scale))
    return model.with_stage(student), objective.train()


def codec_of(renderer: Renderer) -> str:
    """What the latents depend on, apart from their scale."""
    return (
        renderer.codec.identity if isinstance(renderer, CodecLatentRenderer) else renderer.identity
    )


def labels_of(conditions: list[Conditions], name: str) -> list[str]:
    """All values of an attribute."""
    found = {each[name] for each in conditions if isinstance(each.get(name), str)}
    if name == "text" or not found:
        raise ValueError(f"The data has no labels {name!r}.")
    return sorted(map(str, found))


def dropout(config: Config, stage: DiffusionStage) -> Dropout:
    each = dict.fromkeys(stage.conditions, config.label_dropout)
    if "text" in each:
        each["text"] = config.text_dropout
    if stage.source is not None:
        each[stage.source.condition] = config.semantic_dropout
    return Dropout(joint=config.joint_dropout, each=each)


def print_size(objective: DiffusionObjective, config: Config) -> None:
    """The weights, and the operations of a step: six per weight and position."""
    network = sum(weight.numel() for weight in objective.model.parameters())
    trained = sum(w.numel() for w in objective.parameters() if w.requires_grad)
    positions = config.accumulation * config.frames_per_batch / config.patch
    print(
        f"{trained / 1e6:.3g} million weights are trained, {network / 1e6:.3g} million in the "
        f"network. A step takes about {6 * network * positions / 1e12:.3g} trillion operations."
    )


def summary(stage: DiffusionStage, config: Config) -> str:
    """The output path and the next command."""
    text = '"rain" ' * ("text" in stage.conditions)
    return (
        f"Wrote the model to {config.out / 'model'}. Log: tensorboard --logdir {config.out}\n"
        f"Try: lm-audio generate {text}--model {config.out / 'model'}"
    )


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
