"""The speech variants of AudioLDM 2: a transcription is a condition of its own."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AudioLDM2Pipeline
from diffusers.pipelines.audioldm2 import pipeline_audioldm2
from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2ProjectionModel
from torch import nn
from transformers import PreTrainedTokenizerFast, VitsConfig, VitsModel, VitsTokenizer

import lm_audio
from lm_audio.sampling import Denoising, gaussians

LENGTH = 15
SAMPLING = Denoising(steps=3, solver="ddim")


@pytest.fixture(scope="module")
def speech_parts(make_parts: Callable[..., dict[str, Any]], tmp_path_factory: Any) -> Any:
    parts = make_parts()
    torch.manual_seed(1)
    config = VitsConfig(
        vocab_size=190, hidden_size=20, num_hidden_layers=2, num_attention_heads=2, ffn_dim=24,
        flow_size=8, spectrogram_bins=9, upsample_initial_channel=16, wavenet_dilation_rate=1,
        hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, layerdrop=0.0,
        prior_encoder_num_flows=1, posterior_encoder_num_wavenet_layers=1,
        duration_predictor_num_flows=2, duration_predictor_filter_channels=8,
        depth_separable_num_layers=1, duration_predictor_flow_bins=4,
        upsample_rates=[2, 2], upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1]],
    )  # fmt: skip
    vits = VitsModel(config).eval()
    for weight in vits.text_encoder.parameters():
        nn.init.normal_(weight, 0.1, 0.3)
    projection = AudioLDM2ProjectionModel(
        12, 20, 16, use_learned_position_embedding=True, max_seq_length=LENGTH
    )
    for weight in projection.parameters():
        nn.init.normal_(weight, 0.0, 0.3)
    path = tmp_path_factory.mktemp("vits") / "vocab.json"
    path.write_text(json.dumps({"_": 0, **{x: i + 1 for i, x in enumerate("abcdehlorw ")}}))
    tokenizer = VitsTokenizer(
        str(path), pad_token="_", unk_token="a", add_blank=False, phonemize=False,
        model_max_length=LENGTH,
    )  # fmt: skip
    return parts | {
        "text_encoder_2": vits, "tokenizer_2": tokenizer, "projection_model": projection.eval()
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(speech_parts: Any, write_parts: Any, tmp_path_factory: Any) -> Path:
    made: Path = write_parts(speech_parts, tmp_path_factory.mktemp("speech"))
    return made


def test_speech_is_that_of_diffusers(
    speech_parts: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_audioldm2, "T5TokenizerFast", PreTrainedTokenizerFast)
    clip = lm_audio.load(folder).generate(
        "a dog barks",
        duration=0.12,
        seed=3,
        conditions={"transcription": "hello world"},
        sampling=SAMPLING,
        raw=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = AudioLDM2Pipeline(**speech_parts)
    pipeline.set_progress_bar_config(disable=True)
    flat = gaussians(3, "diffusion/0/start", 0, 12, 16)
    expected = pipeline(
        "a dog barks",
        transcription="hello world",
        latents=flat.view(4, 4, 12).transpose(1, 2)[None],
        num_inference_steps=3,
        guidance_scale=3.5,
        audio_length_in_s=0.12,
        output_type="pt",
    ).audios
    torch.testing.assert_close(clip.samples, expected, atol=1e-3, rtol=0)


def test_the_words_change_the_clip_and_long_ones_are_cut(folder: Path) -> None:
    model = lm_audio.load(folder)

    def clip(words: str | None) -> torch.Tensor:
        conditions = {} if words is None else {"transcription": words}
        settings: dict[str, Any] = {"duration": 0.1, "seed": 1, "sampling": SAMPLING}
        return model.generate("rain", conditions=conditions, **settings).samples

    hello = clip("hello")
    assert not torch.allclose(clip("world"), hello)
    assert not torch.allclose(clip(None), hello)
    with pytest.warns(UserWarning, match="truncated to 15, the limit of its encoder"):
        clip("hello world hello world")
    with pytest.raises(ValueError, match="must be a string, or None, got 3"):
        clip(3)  # type: ignore[arg-type]
