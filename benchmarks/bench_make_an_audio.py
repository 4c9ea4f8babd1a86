"""Time and peak memory of a clip of Make-An-Audio, compared with the classes of diffusers.

    python benchmarks/bench_make_an_audio.py                         # 5 minutes, 5 GB
    python benchmarks/bench_make_an_audio.py --preset tiny --steps 2 --duration 0.02       # seconds

No pipeline runs this model, so its peer is composed by hand: BERT and the projection, a U-Net with
both rows of guidance in one pass, DPM-Solver++, the autoencoder and BigVGAN (diffusers 0.42's
MMAudioVocoder). Both use the same random weights of the published sizes. Each run is a process of
its own; they take turns. Time is that of the clip, from the text to the samples; memory is the
process's peak, loading included. The peer runs in float32.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from bench_diffusion import (  # type: ignore[import-not-found]  # beside this file
    PEER,
    PROMPT,
    compare,
    one_run,
)
from bench_diffusion import Config as Shared

from lm_audio.families.make_an_audio.parts import LOG_MEL
from lm_audio.families.make_an_audio.reading import PIPELINE, text_config
from lm_audio.families.make_an_audio.text import ClapTextEncoder, TextTokens
from lm_audio.families.make_an_audio.writing import write_text
from lm_audio.networks.big_vgan import BigVgan, BigVganConfig
from lm_audio.saving.part_folder import read_network
from lm_audio.saving.spectrograms import write_vocoder
from lm_audio.saving.text_models import load_tokenizer

GUIDANCE = 3.0


@dataclass(frozen=True, kw_only=True)
class Config(Shared):  # type: ignore[misc]  # as above
    duration: float = 9.984
    steps: int = 10


def main(config: Config) -> None:
    if config.run is not None:
        print(json.dumps(one_run(config, load_peer if config.run == PEER else load_ours)))
        return
    compare(
        config,
        write=write_checkpoint,
        script=__file__,
        title="Clips of Make-An-Audio",
        about=__doc__ or "",
    )


def load_ours(config: Config) -> Any:
    import lm_audio

    assert config.run is not None
    model = lm_audio.load(config.folder, dtype=config.run, device="cpu")
    sampling = lm_audio.Denoising(steps=config.steps, guidance_scale=GUIDANCE)
    return lambda: (
        model.generate(PROMPT, duration=config.duration, seed=0, sampling=sampling).samples
    )


def load_peer(config: Config) -> Any:
    import diffusers

    folder, library = config.folder, diffusers
    assert folder is not None
    classes: Any = library
    unet = classes.UNet2DConditionModel.from_pretrained(folder / "unet")
    vae = classes.AutoencoderKL.from_pretrained(folder / "vae")
    vocoder = classes.MMAudioVocoder.from_pretrained(folder / "peer")
    scheduler = classes.DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler")
    encoder, _ = read_network(
        folder / "text_encoder", lambda x: ClapTextEncoder(*x), text_config
    )  # BertModel and three layers
    tokenizer = load_tokenizer(folder / "tokenizer")

    @torch.inference_mode()
    def make() -> torch.Tensor:
        words = tokenizer(
            ["", PROMPT], padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        )
        tokens = encoder(words.input_ids)
        scheduler.set_timesteps(config.steps)
        columns = vocoder.config.num_mels // 8
        frames = round(config.duration * LOG_MEL.sample_rate / hop_of(vocoder.config) / 8)
        x = torch.randn(1, 4, columns, frames, generator=torch.Generator().manual_seed(0))
        for step in scheduler.timesteps:
            both = unet(torch.cat([x, x]), step, encoder_hidden_states=tokens).sample
            free, led = both.chunk(2)
            x = scheduler.step(free + GUIDANCE * (led - free), step, x).prev_sample
        mel = vae.decode(x / vae.config.scaling_factor).sample[:, 0]
        return vocoder(mel).sample

    return make


def hop_of(shape: Any) -> int:
    return int(torch.tensor(shape.upsample_rates).prod())


def write_checkpoint(folder: Path, *, tiny: bool) -> None:
    """Random weights in the published sizes, or much smaller ones."""
    import diffusers
    import transformers

    library: Any = diffusers
    new_bert: Any = transformers.BertConfig
    torch.manual_seed(0)
    widths = (32, 64) if tiny else (320, 640)
    context = 32 if tiny else 1024
    library.UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock2D",) * 2, attention_head_dim=2 if tiny else 8,
        up_block_types=("CrossAttnUpBlock2D",) * 2, cross_attention_dim=context,
    ).save_pretrained(folder / "unet")  # fmt: skip
    library.AutoencoderKL(
        in_channels=1, out_channels=1, latent_channels=4, layers_per_block=2,
        block_out_channels=(32,) * 4 if tiny else (128, 256, 256, 512),
        down_block_types=(*["DownEncoderBlock2D"] * 2, *["AttnDownEncoderBlock2D"] * 2),
        up_block_types=(*["AttnUpDecoderBlock2D"] * 2, *["UpDecoderBlock2D"] * 2),
    ).save_pretrained(folder / "vae")  # fmt: skip
    rates, kernels = ((4, 2), (8, 4)) if tiny else ((4, 4, 2, 2, 2, 2), (8, 8, 4, 4, 4, 4))
    shape = BigVganConfig(
        num_mels=LOG_MEL.num_mels, sample_rate=LOG_MEL.sample_rate, width=16 if tiny else 1536,
        rates=rates, kernels=kernels, block_kernels=(3, 7, 11), block_dilations=((1, 3, 5),) * 3,
        tanh=False, last_bias=False,
    )  # fmt: skip
    peer = library.MMAudioVocoder(shape.num_mels, shape.width, rates, kernels)
    peer.save_pretrained(folder / "peer")
    vocoder = BigVgan(shape)
    weights = {name: x for name, x in peer.state_dict().items() if not name.endswith(".filter")}
    vocoder.load_state_dict(weights)
    write_vocoder(folder / "vocoder", vocoder)
    library.DDIMScheduler(
        beta_start=0.00085, beta_end=0.0120, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 32} if tiny else {}  # fmt: skip
    encoder = ClapTextEncoder(new_bert(**small), context).eval()
    write_text(folder, TextTokens(encoder, tokenizer()))
    mel = {name: getattr(LOG_MEL, name) for name in LOG_MEL.__dataclass_fields__}
    mel |= {"hop_length": shape.hop_length}
    stated = {"log_mel": mel, "window_frames": 78, "mel_first": True}
    (folder / "vae" / "spectrogram.json").write_text(json.dumps(stated))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": PIPELINE}))


def tokenizer() -> Any:
    """Words of the prompt, with BERT's special tokens."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    library: Any = transformers
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocab = {word: i for i, word in enumerate([*special, *sorted(set(PROMPT.split()))])}
    made = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=["[CLS]", "$A", "[SEP]"], special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return library.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", model_max_length=512
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
