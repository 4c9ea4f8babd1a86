"""Small random models.

MusicGens, with a T5 and a 32 kHz EnCodec, in both layouts that are published. Ready folders,
written once: `musicgen_folder`, `stereo_musicgen_folder`, and with the same weights
`audiocraft_folder`, `stereo_audiocraft_folder`. To make others: `make_musicgen`, `save_musicgen`,
`save_audiocraft`. `tiny_t5` is a folder with a T5 and its tokenizer, `sentence_folder` one with a
sentence encoder, `model_folder` one with a model of our own.

`backend` runs a test with the CPU kernels, and without them. `cosine_scheduler` is a scheduler of
diffusers that needs another package.
"""

import importlib
import json
import re
import string
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tokenizers
import torch
from transformers import (
    EncodecConfig,
    EncodecModel,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

from audio_tokenizers.acoustic.frame_codec import FrameCodec, tiny
from audio_tokenizers.text import SentencePieceTokenizer
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.conditioners.number import NumberConditioner
from lm_audio.conditioners.sentence import SentenceEncoder, SentenceModel, SentenceModelConfig
from lm_audio.families.audiocraft.stages import audiogen
from lm_audio.model import Model, ModelCard
from lm_audio.networks import presets
from lm_audio.networks.cpu import kernels
from lm_audio.networks.token_lm import TokenLM
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import delayed
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling

CODEC: dict[str, Any] = {
    "sampling_rate": 32_000, "upsampling_ratios": [8, 5, 4, 4], "use_causal_conv": False,
    "use_conv_shortcut": False, "pad_mode": "constant", "num_filters": 4, "hidden_size": 16,
    "codebook_size": 64, "target_bandwidths": [4 * 50 * 6 / 1000],
}  # fmt: skip

# As audiocraft writes it, references to other settings included.
LM_SETTINGS = """
solver: musicgen
sample_rate: 32000
channels: {num_channels}
compression_model_checkpoint: //pretrained/facebook/encodec_32khz
interleave_stereo_codebooks:
  use: {interleave}
  per_timestep: false
dataset:
  segment_duration: 30
classifier_free_guidance:
  training_dropout: 0.3
  inference_coef: 3.0
attribute_dropout: {{}}
fuser:
  cross_attention_pos_emb: false
  cross_attention_pos_emb_scale: 1
  sum: []
  prepend: []
  cross:
  - description
  input_interpolate: []
conditioners:
  args:
    merge_text_conditions_p: 0.25
    drop_desc_p: 0.5
  description:
    model: t5
    t5:
      name: t5-base
      finetune: false
      word_dropout: 0.3
      normalize_text: false
lm_model: transformer_lm
codebooks_pattern:
  modeling: delay
  delay:
    delays: {delays}
    flatten_first: 0
    empty_initial: 0
transformer_lm:
  dim: {dim}
  num_heads: {num_heads}
  num_layers: {num_layers}
  hidden_scale: {hidden_scale}
  n_q: {num_codebooks}
  card: {vocab_size}
  dropout: 0.0
  emb_lr: null
  activation: gelu
  norm_first: true
  bias_ff: false
  bias_attn: false
  bias_proj: false
  past_context: null
  causal: true
  custom: false
  memory_efficient: true
  attention_as_float32: false
  layer_scale: null
  positional_embedding: sin
  xpos: false
  checkpointing: torch
  weight_init: gaussian
  depthwise_init: current
  zero_bias_init: true
  norm: layer_norm
  cross_attention: false
  qk_layer_norm: false
  qk_layer_norm_cross: false
  attention_dropout: null
  kv_repeat: 1
  two_step_cfg: false
optim:
  lr: 1e-4
device: cuda
"""
CODEC_SETTINGS = """
compression_model: encodec
sample_rate: 32000
channels: 1
encodec:
  autoencoder: seanet
  quantizer: rvq
  sample_rate: ${sample_rate}
  channels: ${channels}
  causal: false
  renormalize: false
seanet:
  dimension: 16
  channels: ${channels}
  causal: ${encodec.causal}
  n_filters: 4
  n_residual_layers: 1
  ratios: [8, 5, 4, 4]
  activation: ELU
  activation_params:
    alpha: 1.0
  norm: weight_norm
  norm_params: {}
  kernel_size: 7
  residual_kernel_size: 3
  last_kernel_size: 7
  dilation_base: 2
  pad_mode: constant
  true_skip: true
  compress: 2
  lstm: 2
  disable_norm_outer_blocks: 0
  decoder:
    trim_right_ratio: 1.0
    final_activation: null
  encoder: {}
rvq:
  n_q: 4
  q_dropout: false
  bins: 64
device: cpu
"""
_AUDIOCRAFT_NAMES = (
    (r"^decoder\.(model\.decoder\.)?", ""),
    (r"^embed_tokens", "emb"),
    (r"^lm_heads", "linears"),
    (r"^layer_norm", "out_norm"),
    (r"^layers", "transformer.layers"),
    (r"self_attn_layer_norm", "norm1"),
    (r"encoder_attn_layer_norm", "norm_cross"),
    (r"final_layer_norm", "norm2"),
    (r"encoder_attn", "cross_attention"),
    (r"fc(\d)", r"linear\1"),
    (r"^enc_to_dec_proj", "condition_provider.conditioners.description.output_proj"),
)


@pytest.fixture(params=["kernels", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(kernels, "available", lambda: False)
    elif not kernels.available():
        pytest.skip("the CPU kernels cannot be compiled here")
    return str(request.param)


@pytest.fixture(scope="session")
def make_tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a T5 encoder of one layer and a tokenizer of letters: `make_tiny_t5(width=16)`."""

    def make(width: int = 16) -> Path:
        folder = tmp_path_factory.mktemp("t5")
        pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase, "▁a", "▁dog"]
        vocabulary = [(piece, -float(4 - len(piece))) for piece in pieces]
        fast = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=2))
        fast.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        fast.decoder = tokenizers.decoders.Metaspace()
        fast.post_processor = tokenizers.processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 1)]
        )
        fast.save(str(folder / "tokenizer.json"))
        names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "extra_ids": 0}
        config = {"tokenizer_class": "T5Tokenizer", **names}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            T5EncoderModel(_t5_config(width)).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_t5(make_tiny_t5: Callable[..., Path]) -> Path:
    """A folder with a T5 of width 16 and its tokenizer."""
    return make_tiny_t5()


@pytest.fixture(scope="session")
def make_musicgen() -> Callable[..., MusicgenForConditionalGeneration]:
    """Builds one: `make_musicgen(num_channels=2, hidden_size=48, text_width=16)`."""

    def make(
        num_channels: int = 1, text_width: int = 16, **decoder: Any
    ) -> MusicgenForConditionalGeneration:
        shape = {
            "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 64,
            "num_attention_heads": 2, "num_codebooks": 4 * num_channels,
            "audio_channels": num_channels, "pad_token_id": 64, "bos_token_id": 64,
            "decoder_start_token_id": 64, "dropout": 0.0,
        } | decoder  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = MusicgenConfig(
                text_encoder=_t5_config(text_width).to_dict(),
                audio_encoder=EncodecConfig(**CODEC).to_dict(),
                decoder=MusicgenDecoderConfig(**shape).to_dict(),
            )
            model = MusicgenForConditionalGeneration(config)
            _randomise(model)
        model.generation_config.update(**_generation(shape["vocab_size"]))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def save_musicgen(tiny_t5: Path) -> Callable[..., Path]:
    """Writes one as transformers does, with its tokenizer: `save_musicgen(model, folder)`."""

    def save(model: MusicgenForConditionalGeneration, folder: Path, **options: Any) -> Path:
        model.save_pretrained(folder, **options)
        for file in tiny_t5.glob("tokenizer*.json"):
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    return save


@pytest.fixture(scope="session")
def save_audiocraft(tiny_t5: Path) -> Callable[..., Path]:
    """Writes one as audiocraft does: `save_audiocraft(model, folder)`.

    The T5, which audiocraft does not keep, goes to the subfolder `t5`.
    """

    def save(
        model: MusicgenForConditionalGeneration,
        folder: Path,
        *,
        names: tuple[str, str] = ("state_dict.bin", "compression_state_dict.bin"),
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        settings = audiocraft_settings(model)
        stamp = {"version": "1.3.0", "exported": True}
        lm = {"best_state": audiocraft_state(model), "xp.cfg": settings, **stamp}
        codec_state = audiocraft_codec_state(model.audio_encoder)
        torch.save(lm, folder / names[0])
        torch.save(
            {"best_state": codec_state, "xp.cfg": CODEC_SETTINGS, **stamp}, folder / names[1]
        )
        model.text_encoder.save_pretrained(folder / "t5")
        for file in tiny_t5.glob("tokenizer*.json"):
            (folder / "t5" / file.name).write_bytes(file.read_bytes())
        return folder

    return save


@pytest.fixture(scope="session")
def musicgen_folder(
    make_musicgen: Callable[..., Any],
    save_musicgen: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return save_musicgen(make_musicgen(), tmp_path_factory.mktemp("musicgen"))


@pytest.fixture(scope="session")
def stereo_musicgen_folder(
    make_musicgen: Callable[..., Any],
    save_musicgen: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    model = make_musicgen(num_channels=2)
    return save_musicgen(model, tmp_path_factory.mktemp("stereo-musicgen"))


@pytest.fixture(scope="session")
def audiocraft_folder(
    make_musicgen: Callable[..., Any],
    save_audiocraft: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return save_audiocraft(make_musicgen(), tmp_path_factory.mktemp("audiocraft"))


@pytest.fixture(scope="session")
def stereo_audiocraft_folder(
    make_musicgen: Callable[..., Any],
    save_audiocraft: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    model = make_musicgen(num_channels=2)
    return save_audiocraft(model, tmp_path_factory.mktemp("stereo-audiocraft"))


def audiocraft_settings(model: MusicgenForConditionalGeneration) -> str:
    config = model.config.decoder
    per_channel = range(config.num_codebooks // config.audio_channels)
    return LM_SETTINGS.format(
        num_channels=config.audio_channels,
        interleave="true" if config.audio_channels == 2 else "false",
        delays=[k for k in per_channel for _ in range(config.audio_channels)],
        dim=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_layers=config.num_hidden_layers,
        hidden_scale=config.ffn_dim / config.hidden_size,
        num_codebooks=config.num_codebooks,
        vocab_size=config.vocab_size,
    )


def audiocraft_state(model: MusicgenForConditionalGeneration) -> dict[str, torch.Tensor]:
    """The decoder's weights as audiocraft names and stacks them."""
    state, stacks = {}, {}
    for name, x in model.state_dict().items():
        if not name.startswith(("decoder.", "enc_to_dec_proj.")) or "embed_positions" in name:
            continue
        for ours, theirs in _AUDIOCRAFT_NAMES:
            name = re.sub(ours, theirs, name)
        if match := re.fullmatch(r"(.+)\.([qkv])_proj\.weight", name):
            stacks.setdefault(f"{match[1]}.in_proj_weight", {})[match[2]] = x
        else:
            state[name] = x
    return state | {name: torch.cat([x[p] for p in "qkv"]) for name, x in stacks.items()}


def audiocraft_codec_state(model: EncodecModel) -> dict[str, torch.Tensor]:
    state = {}
    for name, x in model.state_dict().items():
        name = name.replace(".parametrizations.weight.original0", ".weight_g")
        name = name.replace(".parametrizations.weight.original1", ".weight_v")
        if match := re.fullmatch(r"(.+)\.conv\.(\w+)", name):
            transposed = type(model.get_submodule(match[1])).__name__ == "EncodecConvTranspose1d"
            kind = "convtr" if transposed else "conv"
            name = f"{match[1]}.{kind}.{kind}.{match[2]}"
        name = name.replace("coder.layers.", "coder.model.")
        name = name.replace("quantizer.layers", "quantizer.vq.layers")
        state[name.replace(".codebook.", "._codebook.")] = x
    return state


@pytest.fixture(scope="session")
def sentence_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder with random weights that float16 holds, 24 wide."""
    words = ["a dog barks in the rain", "birds sing", "the wind over the sea"] * 3
    tokenizer = SentencePieceTokenizer.train(words, 280)
    shape = TransformerConfig(dim=16, num_layers=1, num_heads=2, hidden_dim=16, causal=False)
    config = SentenceModelConfig(
        transformer=shape, vocab_size=280, embedding_dim=8, sentence_dim=24, max_length=40
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SentenceModel(config)
    for weight in model.parameters():
        weight.data = weight.data.half().float()
    folder = tmp_path_factory.mktemp("sentence") / "encoder"
    SentenceEncoder(model, tokenizer).save(folder)
    return folder


def _t5_config(width: int) -> T5Config:
    return T5Config(
        vocab_size=40, d_model=width, d_kv=8, d_ff=32, num_heads=2, num_layers=1,
        decoder_start_token_id=0,
    )  # fmt: skip


def _randomise(model: MusicgenForConditionalGeneration) -> None:
    """Weights so large that each of them tells in the result."""
    for name, weight in model.named_parameters():
        if "norm" in name and weight.ndim == 1:
            torch.nn.init.normal_(weight, float(name.endswith("weight")), 0.3)
        elif not name.startswith("audio_encoder"):
            torch.nn.init.normal_(weight, 0.0, 0.2)
    for layer in model.audio_encoder.quantizer.layers:
        layer.codebook.embed.normal_()


def _generation(start: int) -> dict[str, Any]:
    return {
        "do_sample": True, "guidance_scale": 3.0, "max_length": 1500, "pad_token_id": start,
        "bos_token_id": start, "decoder_start_token_id": start,
    }  # fmt: skip


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 kHz mono, 50 frames a second; takes a text (of two), a kind and a pitch."""
    torch.manual_seed(0)
    codec = FrameCodec(tiny()).eval()
    for layer in codec.quantizer.layers:
        layer._codebook.embed.normal_(std=0.3)
        layer._codebook.initted.fill_(True)
    config = presets.tiny(num_streams=codec.num_codebooks, vocab_size=codec.codebook_size)
    D = config.transformer.dim
    conditioners = Conditioners(
        {
            "text": LabelConditioner(["a dog", "rain"], D),
            "kind": LabelConditioner(["soft", "7"], D),
            "pitch": NumberConditioner(D, 0.0, 10.0),
        },
        {"text": "cross", "kind": "cross", "pitch": "cross"},
    )
    model = TokenLM(config)
    for weight in (*model.parameters(), *conditioners.parameters()):
        weight.data *= 2.5  # so that tokens depend on all that comes in
    stages = audiogen(
        model,
        pattern=delayed(range(codec.num_codebooks)),
        conditioners=conditioners,
        frame_rate=Fraction(50),
        window_frames=100,
        overlap_frames=50,
        sampling=Sampling(temperature=0.9, top_k=20),
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipeline = AudioPipeline(
        Model(stages, CodecRenderer(codec), card=ModelCard(licence="Apache-2.0"))
    )
    pipeline.save(folder)
    return folder


@pytest.fixture(scope="session")
def cosine_scheduler() -> Iterator[Any]:
    """diffusers' CosineDPMSolverMultistepScheduler, for tests that set its `noise_sampler`.

    torchsde, which it imports, makes its usual noise alone.
    """
    name = "diffusers.schedulers.scheduling_cosine_dpmsolver_multistep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchsde", ModuleType("torchsde"))
        yield importlib.import_module(name).CosineDPMSolverMultistepScheduler
