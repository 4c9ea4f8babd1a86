"""A tiny model of our own in a folder, and a command line that fails in one line."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from audio_tokenizers.acoustic.frame_codec import FrameCodec, tiny
from lm_audio.cli import main
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.conditioners.number import NumberConditioner
from lm_audio.models import presets
from lm_audio.models.token_lm import TokenLM
from lm_audio.patterns import delayed
from lm_audio.pipeline import AudioPipeline
from lm_audio.pipeline.about import About
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling
from lm_audio.stages.audiogen import audiogen


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
        context=100,
        keep=50,
        sampling=Sampling(temperature=0.9, top_k=20),
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipeline = AudioPipeline(stages, CodecRenderer(codec), about=About(licence="Apache-2.0"))
    pipeline.save(folder)
    return folder


@pytest.fixture
def fails_with(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Runs arguments that must fail with status 2, and gives the one line that is shown."""

    def run(arguments: list[str]) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        shown = capsys.readouterr().err
        assert shown.startswith("lm-audio: ")
        assert shown.count("\n") == 1
        return shown

    return run
