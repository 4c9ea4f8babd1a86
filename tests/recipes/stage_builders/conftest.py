"""Data for the builders: the codec in the package, and made-up tokens of it."""

import pytest
import torch

from audio_tokenizers.acoustic.registry import load_codec
from lm_audio.data.shards import Shards
from lm_audio.data.synthetic_shards import make_up_shards
from lm_audio.pretrained import CODEC_FOLDER
from stage_builders.plan import StageData


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> StageData:
    codec = load_codec(CODEC_FOLDER)
    folder = make_up_shards(tmp_path_factory.mktemp("made_up"), codec, num_clips=6)
    return StageData(
        shards=Shards(folder),
        held_out=Shards(folder, "held_out"),
        codec=codec,
        device=torch.device("cpu"),
    )
