"""Small random checkpoints of Make-An-Audio, of classes of diffusers and transformers."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniBigVGANConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniToken2WavBigVGANModel

from lm_audio.sampling import gaussians

Parts = dict[str, Any]
Make = Callable[..., Parts]
Write = Callable[..., Path]
WORDS = ["a", "dog", "barks", "rain", "on", "tin", "low", "quality", "wind"]
NUM_TOKENS, WINDOW, WIDTH = 77, 12, 48
LOG_MEL = {
    "sample_rate": 16_000, "fft_length": 1024, "hop_length": 8, "num_mels": 16, "low": 0,
    "high": 8000, "floor": 1e-5, "base": "10",
}  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    """Words with BERT's special tokens."""
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    made = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=["[CLS]", "$A", "[SEP]"], special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", model_max_length=512
    )


class Text(nn.Module):
    """BERT, and CLAP's projection as the paper of msclap has it."""

    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=4 + len(WORDS), hidden_size=64, num_hidden_layers=2, num_attention_heads=1,
            intermediate_size=40, max_position_embeddings=80, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        self.base = BertModel(config)
        self.projection = nn.ModuleDict(
            {
                "linear1": nn.Linear(64, WIDTH, bias=False),
                "linear2": nn.Linear(WIDTH, WIDTH, bias=False),
                "layer_norm": nn.LayerNorm(WIDTH),
            }
        )

    def forward(self, text: str) -> Tensor:
        """The embeddings [1, 77, D] of a text, as the original pads and projects it."""
        ids = tokenizer()(
            text, max_length=NUM_TOKENS, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        first = self.projection["linear1"](self.base(input_ids=ids).last_hidden_state)
        second = self.projection["linear2"](F.gelu(first))
        return self.projection["layer_norm"](first + second)


def vocode(voice: Qwen2_5OmniToken2WavBigVGANModel, mel: Tensor) -> Tensor:
    """The sound [B, N] of log-mel spectrograms [B, M, T] by the first version of BigVGAN."""
    x = voice.conv_pre(mel)
    count = len(voice.config.resblock_kernel_sizes)
    for i, (up,) in enumerate(voice.ups):
        x = up(x)
        x = sum(block(x) for block in voice.resblocks[i * count : (i + 1) * count]) / count
    return voice.conv_post(voice.activation_post(x)).tanh()[:, 0]


@torch.no_grad()
def naive_clip(
    parts: Parts, prompts: Sequence[str | Tensor], *, steps: int, seed: int, num_frames: int
) -> Tensor:
    """A clip by DDIM, as the original's scripts make it.

    Args:
        prompts: texts or tokens [1, L, D]: the negative one, and that of the clip.
    """
    unet, vae, scheduler = parts["unet"], parts["vae"], parts["scheduler"]
    tokens = [parts["text_encoder"](x) if isinstance(x, str) else x for x in prompts]
    x = gaussians(seed, "diffusion/0/start", 0, num_frames, 16).view(1, 4, 4, num_frames)
    scheduler.set_timesteps(steps)
    for time in scheduler.timesteps:
        free, led = (unet(x, time, encoder_hidden_states=one).sample for one in tokens)
        x = scheduler.step(free + 3.0 * (led - free), time, x).prev_sample
    mel = vae.decode(x / vae.config.scaling_factor).sample[:, 0]
    return vocode(parts["vocoder"], mel)[:, : num_frames * 32]


def randomise(module: nn.Module) -> None:
    for name, weight in module.named_parameters():
        is_scale = "norm" in name.lower() and name.endswith("weight")
        width = weight[0].numel() if weight.dim() > 1 else 4
        nn.init.normal_(weight, float(is_scale), 0.3 if is_scale else 0.8 * width**-0.5)


def small_parts(**overrides: Any) -> Parts:
    """Random parts; overrides are settings of the U-Net, `vae` and `vocoder`."""
    torch.manual_seed(overrides.pop("seed", 0))
    vae: dict[str, Any] = {
        "in_channels": 1, "out_channels": 1, "block_out_channels": (32, 32, 64),
        "layers_per_block": 1, "latent_channels": 4, "scaling_factor": 0.7,
        "down_block_types": ("DownEncoderBlock2D", *["AttnDownEncoderBlock2D"] * 2),
        "up_block_types": (*["AttnUpDecoderBlock2D"] * 2, "UpDecoderBlock2D"),
    } | overrides.pop("vae", {})  # fmt: skip
    voice: dict[str, Any] = {
        "mel_dim": 16, "upsample_initial_channel": 16, "upsample_rates": [4, 2],
        "upsample_kernel_sizes": [8, 4], "resblock_kernel_sizes": [3, 5],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
    } | overrides.pop("vocoder", {})  # fmt: skip
    unet: dict[str, Any] = {
        "in_channels": 4, "out_channels": 4, "block_out_channels": (32, 64), "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",) * 2, "attention_head_dim": 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2, "cross_attention_dim": WIDTH,
    } | overrides  # fmt: skip
    vocoder = Qwen2_5OmniToken2WavBigVGANModel(Qwen2_5OmniBigVGANConfig(**voice))
    width = vocoder.conv_post.in_channels
    vocoder.conv_post = nn.Conv1d(width, 1, 7, padding=3)  # the first version has a bias
    parts: Parts = {
        "unet": UNet2DConditionModel(**unet),
        "vae": AutoencoderKL(**vae),
        "vocoder": vocoder,
        "text_encoder": Text(),
    }
    for part in parts.values():
        randomise(part)
        part.eval().requires_grad_(False)
    parts["scheduler"] = DDIMScheduler(
        beta_start=0.00085, beta_end=0.0120, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    parts["tokenizer"] = tokenizer()
    return parts


def write(parts: Parts, folder: Path) -> Path:
    """Writes parts as a folder with one subfolder per part."""
    for name in ("unet", "vae", "scheduler", "tokenizer"):
        parts[name].save_pretrained(folder / name)
    shape = {"log_mel": LOG_MEL, "window_frames": WINDOW, "mel_first": True}
    (folder / "vae" / "spectrogram.json").write_text(json.dumps(shape))
    config = {"model_type": "bigvgan", "sampling_rate": 16_000} | vocoder_settings(parts)
    _write_part(folder / "vocoder", config, parts["vocoder"].state_dict())
    text = parts["text_encoder"]
    weights = {name: x for name, x in text.state_dict().items() if ".pooler." not in name}
    config = text.base.config.to_dict() | {"projection_dim": WIDTH}
    _write_part(folder / "text_encoder", config, weights)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "MakeAnAudioPipeline"}))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def _write_part(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: x.contiguous() for name, x in weights.items()}, folder / "model.safetensors")


def vocoder_settings(parts: Parts) -> dict[str, Any]:
    config = parts["vocoder"].config
    names = (
        "upsample_initial_channel", "upsample_rates", "upsample_kernel_sizes",
        "resblock_kernel_sizes", "resblock_dilation_sizes",
    )  # fmt: skip
    given = {name: getattr(config, name) for name in names}
    return given | {
        "num_mels": config.mel_dim,
        "resblock": "1",
        "activation": "snakebeta",
        "snake_logscale": True,
    }


def original_unet(
    weights: dict[str, Tensor], *, num_blocks: int, attends: list[bool]
) -> dict[str, Tensor]:
    """Weights of a U-Net that attends at some levels, under the names of latent diffusion."""
    residual = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
    }  # fmt: skip
    single = {
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }  # fmt: skip
    per = num_blocks + 1
    made = {}
    for name, weight in weights.items():
        for ours, theirs in residual.items():
            if ".resnets." in name:
                name = name.replace(f".{ours}.", f".{theirs}.")
        for ours, theirs in single.items():
            name = re.sub(rf"^{re.escape(ours)}\.", f"{theirs}.", name)
        patterns: list[tuple[str, Callable[[int, int], str]]] = [
            (r"down_blocks\.(\d)\.resnets\.(\d)", lambda i, j: f"input_blocks.{1 + i * per + j}.0"),
            (
                r"down_blocks\.(\d)\.attentions\.(\d)",
                lambda i, j: f"input_blocks.{1 + i * per + j}.1",
            ),
            (
                r"down_blocks\.(\d)\.downsamplers\.(\d)\.conv",
                lambda i, _: f"input_blocks.{(i + 1) * per}.0.op",
            ),
            (r"up_blocks\.(\d)\.resnets\.(\d)", lambda i, j: f"output_blocks.{i * per + j}.0"),
            (r"up_blocks\.(\d)\.attentions\.(\d)", lambda i, j: f"output_blocks.{i * per + j}.1"),
            (
                r"up_blocks\.(\d)\.upsamplers\.(\d)\.conv",
                lambda i, _: f"output_blocks.{i * per + num_blocks}.{1 + attends[-1 - i]}.conv",
            ),
        ]
        for pattern, theirs_of in patterns:
            if match := re.match(pattern, name):
                name = theirs_of(int(match[1]), int(match[2])) + name[match.end() :]
        made[name] = weight
    return made


def original_autoencoder(weights: dict[str, Tensor], *, num_levels: int) -> dict[str, Tensor]:
    """Weights of an autoencoder under the names of latent diffusion."""
    attention = {
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
    }
    made = {}
    for name, weight in weights.items():
        if ".attentions." in name:
            for ours, theirs in attention.items():
                name = name.replace(f".{ours}.", f".{theirs}.")
            weight = weight[:, :, None, None] if weight.dim() == 2 else weight
        name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        name = name.replace("mid_block.resnets.0", "mid.block_1")
        name = name.replace("mid_block.resnets.1", "mid.block_2")
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        name = re.sub(
            r"up_blocks\.(\d)", lambda x: f"up.{num_levels - 1 - int(x[1])}", name
        ).replace("down_blocks.", "down.")
        name = name.replace(".resnets.", ".block.").replace(".attentions.", ".attn.")
        name = name.replace("samplers.0.", "sample.")
        made[name] = weight
    return made


def write_original(parts: Parts, folder: Path, *, clap_apart: bool = False) -> Path:
    """Writes parts as the authors do."""
    unet, vae = parts["unet"], parts["vae"]
    blocks, levels = unet.config.layers_per_block, len(vae.config.block_out_channels)
    attends = [name.startswith("Cross") for name in unet.config.down_block_types]
    text = parts["text_encoder"].state_dict()
    text["base.embeddings.position_ids"] = torch.arange(80)[None]
    state = {
        "betas": parts["scheduler"].betas,
        "scale_factor": torch.tensor(vae.config.scaling_factor),
        **_prefixed(
            "model.diffusion_model.",
            original_unet(unet.state_dict(), num_blocks=blocks, attends=attends),
        ),
        **_prefixed(
            "first_stage_model.", original_autoencoder(vae.state_dict(), num_levels=levels)
        ),
        "first_stage_model.loss.logvar": torch.zeros(()),
    }
    if clap_apart:
        (folder / "CLAP").mkdir(parents=True)
        clap = {"audio_encoder.base.weight": torch.zeros(1)} | _prefixed("caption_encoder.", text)
        torch.save({"model": clap}, folder / "CLAP" / "CLAP_weights_2022.pth")
    else:
        state |= _prefixed("cond_stage_model.caption_encoder.", text)
    (folder / "bigvgan").mkdir(parents=True)
    torch.save({"epoch": 3, "global_step": 7, "state_dict": state}, folder / "maa1_full.ckpt")
    _write_original_vocoder(parts, folder / "bigvgan")
    (folder / "txt2audio_args.yaml").write_text(yaml.safe_dump(original_settings(parts)))
    parts["tokenizer"].save_pretrained(folder / "tokenizer")
    return folder


def _prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: weight for name, weight in weights.items()}


def _write_original_vocoder(parts: Parts, folder: Path) -> None:
    voice: dict[str, Tensor] = {}
    for name, weight in parts["vocoder"].state_dict().items():
        if name.endswith(".weight"):  # normalised
            length = weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1))
            voice[f"{name}_g"], voice[f"{name}_v"] = length, 3 * weight
        else:
            voice[name] = weight
    voice["activation_post.upsample.filter"] = parts["vocoder"].activation_post.upsample.filter
    torch.save({"generator": voice}, folder / "best_netG.pt")
    settings = vocoder_settings(parts) | {"num_gpus": 0}
    (folder / "args.yml").write_text(yaml.safe_dump(settings))


def original_settings(parts: Parts) -> dict[str, Any]:
    """The settings file of the repository, of these sizes."""
    unet, vae = parts["unet"].config, parts["vae"].config
    widths = vae.block_out_channels
    resolution = WINDOW * 2 ** (len(widths) - 1)
    attends = [i for i, name in enumerate(vae.down_block_types) if "Attn" in name]
    network = {
        "in_channels": unet.in_channels, "out_channels": unet.out_channels,
        "model_channels": unet.block_out_channels[0], "attention_resolutions": [1, 2],
        "num_res_blocks": unet.layers_per_block, "num_heads": unet.attention_head_dim,
        "channel_mult": [x // unet.block_out_channels[0] for x in unet.block_out_channels],
        "use_spatial_transformer": True, "transformer_depth": 1, "legacy": False,
        "context_dim": unet.cross_attention_dim,
    }  # fmt: skip
    inner = {
        "double_z": True, "z_channels": vae.latent_channels, "resolution": resolution,
        "in_channels": 1, "out_ch": 1, "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": vae.layers_per_block, "dropout": 0.0,
        "attn_resolutions": [resolution // 2**level for level in attends],
    }  # fmt: skip
    return {
        "model": {
            "target": "ldm.models.diffusion.ddpm_audio.LatentDiffusion_audio",
            "params": {
                "linear_start": 0.00085, "linear_end": 0.0120, "timesteps": 1000,
                "mel_length": WINDOW, "unet_config": {"params": network},
                "first_stage_config": {
                    "params": {"embed_dim": vae.latent_channels, "ddconfig": inner}
                },
            },
        }
    }  # fmt: skip


@pytest.fixture(scope="session")
def make_parts() -> Make:
    """Random parts, as `small_parts`."""
    return small_parts


@pytest.fixture(scope="session")
def write_parts() -> Write:
    """Writes parts: `write_parts(parts, folder)`."""
    return write


@pytest.fixture(scope="session")
def write_original_parts() -> Write:
    """Writes parts as the authors do: `write_original_parts(parts, folder)`."""
    return write_original


@pytest.fixture(scope="session")
def their_clip() -> Callable[..., Tensor]:
    """A clip by the libraries' classes, as `naive_clip`."""
    return naive_clip


@pytest.fixture(scope="session")
def parts() -> Parts:
    return small_parts()


@pytest.fixture(scope="session")
def folder(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(parts, tmp_path_factory.mktemp("make_an_audio"))
