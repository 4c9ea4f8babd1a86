"""Watermarks clips with AudioSeal (arXiv 2401.17264), whose detector finds the mark.

Needs the extra `watermark` and the weights of AudioSeal's generator, from a file or the hub.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_tokenizers.hub import hub_access
from audio_tokenizers.resampling import resample
from lm_audio.clip import Clip
from lm_audio.saving.pickles import read_pickle

HUB_ID = "facebook/audioseal"
HUB_FILE = "generator_base.pth"
CARD = "audioseal_wm_16bits"  # the generator's settings, part of the audioseal package
SAMPLE_RATE = 16_000
MESSAGE = [int(bit) for letter in b"lm" for bit in f"{letter:08b}"]
# Suffixes of a weight's magnitude and direction in older and newer files.
_NORMED = {
    "weight_g": "weight_v",
    "parametrizations.weight.original0": "parametrizations.weight.original1",
}


class Watermark:
    """Adds an AudioSeal watermark with the message "lm".

    Args:
        generator: works at 16 kHz; its watermark is resampled to the rate of the clip.
    """

    def __init__(self, generator: Any) -> None:
        self.generator = generator.eval()

    @staticmethod
    def load(source: str | Path) -> "Watermark":
        """Reads the weights of a generator: a file, or `facebook/audioseal` on the hub."""
        builder, loader = _audioseal()
        path = _file(source)
        weights = read_pickle(path)  # AudioSeal's own reader would run code from the pickle
        settings = loader.OmegaConf.to_container(loader.load_local_model_config(CARD))
        config = loader.AudioSeal.parse_config(settings, builder.AudioSealWMConfig)
        generator = builder.create_generator(config)
        try:
            plain = _without_weight_norm(weights.get("model", weights))
            generator.load_state_dict(loader.convert_state_dict_for_scriptable_model(plain))
        except (AttributeError, KeyError, RuntimeError, TypeError):
            raise ValueError(
                f"{path} does not contain the weights of AudioSeal's generator. Give {HUB_FILE} of "
                f"{HUB_ID}."
            ) from None
        return Watermark(generator)

    @torch.inference_mode()
    def marked(self, clip: Clip) -> Clip:
        """The clip with the watermark."""
        resampled = resample(clip.samples, clip.sample_rate, SAMPLE_RATE)[:, None]  # [C, 1, N]
        message = torch.tensor([MESSAGE] * len(resampled))
        mark = self.generator.get_watermark(resampled, message=message)[:, 0]
        mark = _of_length(resample(mark, SAMPLE_RATE, clip.sample_rate), clip.samples.shape[1])
        return replace(clip, samples=(clip.samples + mark).clone())


def _audioseal() -> tuple[Any, Any]:
    """The modules of audioseal that build models and read their settings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated torch APIs
            from audioseal import builder, loader
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Watermarking needs AudioSeal. Install it with: pip install 'lm-audio[watermark]'."
        ) from error
    return builder, loader


def _without_weight_norm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, with each pair of magnitude and direction merged into one tensor."""
    plain = dict(weights)
    for length, direction in _NORMED.items():
        for name in [name for name in weights if name.endswith(f".{length}")]:
            stem = name.removesuffix(length)
            g, v = plain.pop(name), plain.pop(stem + direction)
            plain[f"{stem}weight"] = torch._weight_norm(v, g, 0)
    return plain


def _of_length(samples: Tensor, length: int) -> Tensor:
    samples = samples[:, :length]
    return torch.nn.functional.pad(samples, (0, length - samples.shape[1]))


def _file(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if str(source) != HUB_ID:
        raise ValueError(
            f"No such file: {source}; give the weights of AudioSeal's generator, or {HUB_ID}."
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        with hub_access(HUB_ID):
            return Path(hf_hub_download(HUB_ID, HUB_FILE))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"{HUB_ID} is not in the cache, and the hub is not reachable. Go online, or give the "
            f"path of {HUB_FILE}."
        ) from error
