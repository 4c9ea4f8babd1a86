"""Folders of autoencoders and vocoders: other libraries read them, and they come back the same."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from transformers import SpeechT5HifiGan

from lm_audio.networks.autoencoder2d import Autoencoder2d, Autoencoder2dConfig
from lm_audio.networks.big_vgan import BigVgan, BigVganConfig, low_pass
from lm_audio.networks.hifi_gan import HifiGan, HifiGanConfig
from lm_audio.renderers.latent import LatentRenderer
from lm_audio.saving.renderer import describe_renderer, load_spectrogram_renderer, save_renderer
from lm_audio.saving.spectrograms import (
    USUAL_WINDOW,
    log_mel_of,
    overlap_of,
    read_renderer,
    write_autoencoder,
    write_renderer,
    write_vocoder,
)

SHAPE = Autoencoder2dConfig(
    channels=1, latent_channels=3, widths=(8, 16, 16), num_blocks=2, attends=(False, True, False),
    num_groups=4,
)  # fmt: skip
VOICE = HifiGanConfig(
    num_mels=16, sample_rate=1600, width=16, rates=(4, 2), kernels=(8, 4), block_kernels=(3, 5),
    block_dilations=((1, 3), (1, 3)), slope=0.2,
)  # fmt: skip
WINDOW = 16


def random_weights(module: nn.Module) -> None:
    for weight in [*module.parameters(), *module.buffers()]:
        nn.init.normal_(weight, 0.0, 0.15)
    module.eval().requires_grad_(False)


def new_vocoder(voice: HifiGanConfig = VOICE) -> HifiGan:
    torch.manual_seed(1)
    vocoder = HifiGan(voice)
    random_weights(vocoder)
    vocoder.scale.abs_().add_(0.5)
    return vocoder


def new_autoencoder(shape: Autoencoder2dConfig = SHAPE) -> Autoencoder2d:
    torch.manual_seed(0)
    autoencoder = Autoencoder2d(shape)
    random_weights(autoencoder)
    return autoencoder


def write(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """Both folders; `changes` are those of the autoencoder's spectrograms."""
    log_mel = replace(log_mel_of(VOICE), **changes)
    write_autoencoder(
        folder / "vae", new_autoencoder(), scale=0.7, log_mel=log_mel, window_frames=WINDOW
    )
    write_vocoder(folder / "vocoder", new_vocoder())
    return folder / "vae", folder / "vocoder"


@pytest.mark.parametrize(
    "changes",
    [{}, {"middle_attention": False, "quant_conv": False, "post_quant_conv": False}],
)
@torch.no_grad()
def test_diffusers_reads_the_autoencoder(tmp_path: Path, changes: dict[str, Any]) -> None:
    shape = replace(SHAPE, **changes)
    ours = new_autoencoder(shape)
    mel = log_mel_of(VOICE)
    write_autoencoder(tmp_path / "vae", ours, scale=0.7, log_mel=mel, window_frames=WINDOW)
    theirs, report = AutoencoderKL.from_pretrained(tmp_path / "vae", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert theirs.config.scaling_factor == 0.7
    x = torch.randn(2, 1, 24, 16)
    mean, deviation = ours.encode(x)
    found = theirs.eval().encode(x).latent_dist
    torch.testing.assert_close(found.mean, mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.std, deviation, rtol=1e-4, atol=1e-4)
    z = torch.randn_like(mean)
    torch.testing.assert_close(theirs.decode(z).sample, ours.decode(z), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalize", [True, False])
@torch.no_grad()
def test_transformers_reads_the_vocoder(tmp_path: Path, normalize: bool) -> None:
    ours = new_vocoder(replace(VOICE, normalize=normalize))
    write_vocoder(tmp_path / "vocoder", ours)
    theirs, report = SpeechT5HifiGan.from_pretrained(tmp_path / "vocoder", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    mel = torch.randn(2, 16, 10)
    found = theirs.eval()(mel.transpose(1, 2))
    torch.testing.assert_close(found, ours(mel), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_weight_normalisation_is_joined(tmp_path: Path) -> None:
    plain, normalised = new_vocoder(), new_vocoder()
    for layer in normalised.modules():
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
            weight_norm(layer)
    write_autoencoder(
        tmp_path / "vae",
        new_autoencoder(),
        scale=1.0,
        log_mel=log_mel_of(VOICE),
        window_frames=WINDOW,
    )
    write_vocoder(tmp_path / "vocoder", normalised)
    read = read_renderer(tmp_path / "vae", tmp_path / "vocoder").vocoder
    mel = torch.randn(1, 16, 10)
    torch.testing.assert_close(read(mel), plain(mel), rtol=1e-4, atol=1e-4)


def test_a_renderer_comes_back_the_same(tmp_path: Path) -> None:
    renderer = read_renderer(*write(tmp_path))
    assert (renderer.scale, renderer.window_frames, renderer.overlap_frames) == (0.7, WINDOW, 2)
    assert describe_renderer(renderer) == {"takes": "spectrogram latents"}
    save_renderer(renderer, tmp_path / "model", half=False)
    again = load_spectrogram_renderer(tmp_path / "model", device="cpu")
    assert again.identity == renderer.identity
    values = torch.randn(renderer.signal.width, 40)
    assert torch.equal(again.render(values), renderer.render(values))
    samples = torch.randn(1, 999)
    assert again.encoder is not None
    assert renderer.encoder is not None
    assert torch.equal(again.encoder.encode(samples), renderer.encoder.encode(samples))


def test_folders_of_other_libraries_have_no_window_of_their_own(tmp_path: Path) -> None:
    folders = write(tmp_path)
    (folders[0] / "spectrogram.json").unlink()
    assert read_renderer(*folders).window_frames == USUAL_WINDOW
    assert read_renderer(*folders, window_frames=20).window_frames == 20


def test_an_interrupted_write_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, vocoder = write(tmp_path)
    identity = read_renderer(vae, vocoder).identity

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lm_audio.saving.part_folder.json.dumps", stop)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vae", "vocoder"]
    assert read_renderer(vae, vocoder).identity == identity


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    vae, vocoder = write(tmp_path / "other", sample_rate=3200)
    with pytest.raises(ValueError, match=r"has spectrograms of 16 bands at 3200 Hz .* takes 16"):
        read_renderer(vae, vocoder)
    vae, vocoder = write(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"Folder .*nowhere not found"):
        read_renderer(tmp_path / "nowhere", vocoder)
    with pytest.raises(ValueError, match=r"config.json has no in_channels"):
        read_renderer(vocoder, vocoder)
    with pytest.raises(ValueError, match=r"config.json has no model_in_dim"):
        read_renderer(vae, vae)
    (vae / "spectrogram.json").write_text('{"log_mel": {"sample_rate": 1}}')
    with pytest.raises(ValueError, match=r"spectrogram.json is damaged"):
        read_renderer(vae, vocoder)
    shutil.rmtree(vae)
    write_autoencoder(
        vae,
        new_autoencoder(replace(SHAPE, widths=(8,) * 6, attends=(False,) * 6)),
        scale=1.0,
        log_mel=log_mel_of(VOICE),
        window_frames=WINDOW,
    )
    with pytest.raises(ValueError, match=r"do not match: The autoencoder needs .* 16 mel bands"):
        read_renderer(vae, vocoder)
    config = json.loads((vocoder / "config.json").read_text())
    (vocoder / "config.json").write_text(json.dumps(config | {"upsample_initial_channel": 32}))
    with pytest.raises(ValueError, match=r"weight shapes that do not match config.json"):
        read_renderer(vae, vocoder)


def test_a_renderer_with_settings_of_its_own_is_not_saved(tmp_path: Path) -> None:
    renderer = read_renderer(*write(tmp_path))
    assert overlap_of(WINDOW) == 2
    with pytest.raises(ValueError, match="windows that overlap by an eighth"):
        describe_renderer(replace(renderer, overlap_frames=4))
    with pytest.raises(ValueError, match="with its vocoder's spectrograms"):
        describe_renderer(replace(renderer, log_mel=None))
    other = LatentRenderer(
        autoencoder=Wrapped(renderer.autoencoder),
        vocoder=renderer.vocoder,
        scale=1.0,
        window_frames=16,
        overlap_frames=2,
    )
    with pytest.raises(ValueError, match="got a Wrapped and a HifiGan"):
        describe_renderer(other)
    heads, log_mel = new_autoencoder(replace(SHAPE, head_width=8)), log_mel_of(VOICE)
    with pytest.raises(ValueError, match="several heads"):
        write_autoencoder(tmp_path / "x", heads, scale=1.0, log_mel=log_mel, window_frames=8)
    assert not (tmp_path / "x").exists()


class Wrapped(nn.Module):
    """An autoencoder of another class."""

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.config: Any = autoencoder.config


def with_big_vgan(**settings: Any) -> LatentRenderer:
    shape = BigVganConfig(
        num_mels=16, sample_rate=1600, width=16, rates=(4, 2), kernels=(8, 4), block_kernels=(3,),
        block_dilations=((1, 3),), **settings,
    )  # fmt: skip
    vocoder = BigVgan(shape)
    random_weights(vocoder)
    mel = replace(log_mel_of(VOICE), base="10", fft_length=64)
    return LatentRenderer(
        autoencoder=new_autoencoder(), vocoder=vocoder, scale=0.7, window_frames=WINDOW,
        overlap_frames=overlap_of(WINDOW), log_mel=mel, mel_first=True,
    )  # fmt: skip


@pytest.mark.parametrize("settings", [{}, {"tanh": False, "last_bias": False}])
def test_a_renderer_with_big_vgan_comes_back_the_same(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    renderer = with_big_vgan(**settings)
    assert describe_renderer(renderer) == {"takes": "spectrogram latents"}
    write_renderer(renderer, tmp_path / "vae", tmp_path / "vocoder")
    again = read_renderer(tmp_path / "vae", tmp_path / "vocoder")
    assert again.identity == renderer.identity
    values = torch.randn(renderer.signal.width, 20)
    assert torch.equal(again.render(values), renderer.render(values))
    (tmp_path / "vae" / "spectrogram.json").unlink()
    with pytest.raises(ValueError, match=r"spectrogram.json is missing"):
        read_renderer(tmp_path / "vae", tmp_path / "vocoder")


def test_stored_filters_of_big_vgan_are_checked(tmp_path: Path) -> None:
    renderer = with_big_vgan()
    write_renderer(renderer, tmp_path / "vae", tmp_path / "vocoder")
    path = tmp_path / "vocoder" / "model.safetensors"
    name = "activation_post.upsample.filter"
    weights = load_file(path)
    save_file(weights | {name: low_pass()[None, None].clone()}, path)
    again = read_renderer(tmp_path / "vae", tmp_path / "vocoder")
    assert again.identity == renderer.identity
    save_file(weights | {name: low_pass()[None, None] + 0.1}, path)
    with pytest.raises(ValueError, match=f"The filter {name} is not the one of published"):
        read_renderer(tmp_path / "vae", tmp_path / "vocoder")
    config = tmp_path / "vocoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"activation": "snake"}))
    with pytest.raises(ValueError, match="activation is 'snake'; expected 'snakebeta'"):
        read_renderer(tmp_path / "vae", tmp_path / "vocoder")
