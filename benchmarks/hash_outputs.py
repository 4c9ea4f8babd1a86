"""Prints hashes of seeded outputs to compare two commits.

    python benchmarks/hash_outputs.py --models /tmp/tiny > before.md
    git checkout some-branch
    python benchmarks/hash_outputs.py --models /tmp/tiny > after.md
    diff before.md after.md

Covers the bundled model, and a MusicGen and a Bark with a few thousand random weights: clips
generated alone, in a batch, streamed, continued and inpainted. A refactoring must not change any
line. The tiny models are written once and reused. Hashes are comparable on one machine only.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import lm_audio

PROMPTS = ["a dog barking", "rain", None]
SEEDS = [3, 4, 5]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", type=Path, required=True, metavar="DIR", help="folder of the tiny models"
    )
    folder = parser.parse_args().models
    write_musicgen(folder / "musicgen")
    write_bark(folder / "bark")
    print("| model | call | tokens | samples |\n|---|---|---|---|")
    for name, source in (
        ("default", None),
        ("musicgen", folder / "musicgen"),
        ("bark", folder / "bark"),
    ):
        model = lm_audio.load(source, device="cpu")
        for call, tokens, samples in outputs(model, continues=name != "bark"):
            print(f"| {name} | {call} | {hashed(tokens)} | {hashed(samples)} |", flush=True)


def outputs(model: Any, *, continues: bool) -> Iterator[tuple[str, list[Any], torch.Tensor]]:
    """Yields each call with the tokens of all stages and the samples."""
    alone = model.generate(PROMPTS[0], duration=1.3, seed=SEEDS[0])
    yield "alone", stage_tokens(alone), alone.samples
    for i, clip in enumerate(model.generate(PROMPTS, duration=[1.3, 2.0, 0.7], seed=SEEDS)):
        yield f"batch {i}", stage_tokens(clip), clip.samples
    yield "long", *whole(model.generate(PROMPTS[1], duration=33.0, seed=6))
    pieces = list(model.stream(PROMPTS[0], duration=1.3, seed=SEEDS[0]))
    yield f"streamed, {len(pieces)} pieces", [], torch.cat(pieces, dim=1)
    if continues:
        sampling = lm_audio.Sampling(temperature=0.8, top_k=20, guidance_scale=2.0)
        yield "sampling", *whole(model.generate("rain", duration=1.0, seed=1, sampling=sampling))
        yield "negative", *whole(model.generate("rain", duration=1.0, seed=1, negative="wind"))
        more = model.continue_from(alone, duration=1.1, text="rain", seed=8)
        yield "continued", *whole(more)
        both = model.continue_from([alone, more], duration=[0.5, 0.9], seed=9)
        for i, clip in enumerate(both):
            yield f"continued, batch {i}", *whole(clip)
        filled = model.inpaint(more, start=0.9, end=1.4, text="rain", seed=10)
        yield "inpainted", *whole(filled)


def whole(clip: Any) -> tuple[list[Any], torch.Tensor]:
    return stage_tokens(clip), clip.samples


def stage_tokens(clip: Any) -> list[Any]:
    return [clip.tokens, *(tokens for _, tokens in sorted(clip.stage_values.items()))]


def hashed(values: Any) -> str:
    digest = hashlib.sha256()
    for value in values if isinstance(values, list) else [values]:
        digest.update(repr((value.dtype, tuple(value.shape))).encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def write_musicgen(folder: Path) -> None:
    from transformers import (
        EncodecConfig,
        MusicgenConfig,
        MusicgenDecoderConfig,
        MusicgenForConditionalGeneration,
        T5Config,
    )

    if folder.exists():
        return
    torch.manual_seed(0)
    codec = EncodecConfig(
        sampling_rate=32_000,
        upsampling_ratios=[8, 5, 4, 4],
        use_causal_conv=False,
        use_conv_shortcut=False,
        pad_mode="constant",
        num_filters=4,
        hidden_size=16,
        codebook_size=64,
        target_bandwidths=[1.2],
    )
    decoder_config: Any = MusicgenDecoderConfig
    decoder = decoder_config(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        ffn_dim=64,
        num_attention_heads=2,
        num_codebooks=4,
        pad_token_id=64,
        bos_token_id=64,
        decoder_start_token_id=64,
    )
    t5_config: Any = T5Config
    t5 = t5_config(
        vocab_size=40,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_heads=2,
        num_layers=1,
        decoder_start_token_id=0,
    )
    model: Any = MusicgenForConditionalGeneration(
        MusicgenConfig(
            text_encoder=t5.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict()
        )
    )
    randomise(model)
    start = dict.fromkeys(("pad_token_id", "bos_token_id", "decoder_start_token_id"), 64)
    model.generation_config.update(do_sample=True, guidance_scale=3.0, max_length=1500, **start)
    model.eval().save_pretrained(folder)
    write_t5_tokenizer(folder)


def write_t5_tokenizer(folder: Path) -> None:
    import tokenizers

    pieces = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = [(piece, -float(4 - len(piece))) for piece in pieces]
    tokenizer: Any = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "extra_ids": 0}
    config = {"tokenizer_class": "T5Tokenizer", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_bark(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        BarkCoarseConfig,
        BarkConfig,
        BarkFineConfig,
        BarkModel,
        BarkSemanticConfig,
        EncodecConfig,
        PreTrainedTokenizerFast,
    )

    if folder.exists():
        return
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_layers": 2, "num_heads": 2, "hidden_size": 16, "block_size": 64, "bias": True,
    }  # fmt: skip
    sizes = {"semantic": (96, 48), "coarse": (76, 76), "fine": (18, 18)}
    semantic, coarse, fine = (
        kind(**shape, input_vocab_size=sizes[name][0], output_vocab_size=sizes[name][1]).to_dict()
        for name, kind in (
            ("semantic", BarkSemanticConfig),
            ("coarse", BarkCoarseConfig),
            ("fine", BarkFineConfig),
        )
    )
    model: Any = BarkModel(
        BarkConfig(
            semantic_config=semantic,
            coarse_acoustics_config=coarse,
            fine_acoustics_config=fine,
            codec_config=EncodecConfig(num_filters=4, hidden_size=8, codebook_size=16).to_dict(),
        )
    )
    randomise(model)
    model.eval().save_pretrained(folder)
    generation = {
        "codebook_size": 16,
        "semantic_config": {
            "eos_token_id": 40, "semantic_vocab_size": 40, "text_encoding_offset": 48,
            "text_pad_token": 90, "semantic_infer_token": 94, "max_input_semantic_length": 8,
            "max_new_tokens": 24,
        },
        "coarse_acoustics_config": {
            "coarse_semantic_pad_token": 72, "coarse_infer_token": 74,
            "max_coarse_input_length": 8, "max_coarse_history": 21, "sliding_window_len": 6,
        },
        "fine_acoustics_config": {"max_fine_input_length": 16, "max_fine_history_length": 8},
    }  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(generation))
    words = ["[PAD]", "[UNK]", "a", "dog", "rain", "barking"]
    tokenizer: Any = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)


def randomise(model: torch.nn.Module) -> None:
    """Makes the weights large, so that each of them affects the result."""
    for name, weight in model.named_parameters():
        if "audio_encoder" not in name and "codec" not in name:
            is_scale = "norm" in name and name.endswith("weight")
            torch.nn.init.normal_(weight, float(is_scale), 0.3)
    for name, buffer in model.named_buffers():
        if name.endswith("embed"):
            torch.nn.init.normal_(buffer)


if __name__ == "__main__":
    main()
