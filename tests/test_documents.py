"""The Python code in the documents runs as it is printed, but for the names of downloads."""

import ast
import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from audio_tokenizers.acoustic.frame_codec import FrameCodec, tiny
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.text import SentencePieceTokenizer
from lm_audio import pretrained
from lm_audio.clip import Clip
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.text import OwnTextEncoder, OwnTextEncoderConfig, TextConditioner
from lm_audio.families.audiocraft.stages import audiogen
from lm_audio.model import Model
from lm_audio.networks import presets
from lm_audio.networks.token_lm import TokenLM
from lm_audio.patterns import delayed
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling

ROOT = Path(__file__).parents[1]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the files that the documents speak of."""
    torch.manual_seed(0)
    for name in ("speech.wav", "sounds/a.wav", "sounds/b/c.wav"):
        write_audio(tmp_path / name, 0.1 * torch.randn(1, 24_000), 24_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_code_of(document: str, replacements: dict[str, str]) -> dict[str, Any]:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert blocks
    code = "\n".join(blocks)
    for name, replacement in replacements.items():
        assert name in code
        code = code.replace(name, replacement)
    scope: dict[str, Any] = {"__name__": "document"}
    exec(compile(code, document, "exec"), scope)
    return scope


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the shape of AudioGen, tiny and random, that reads any text."""
    torch.manual_seed(0)
    codec = FrameCodec(tiny()).eval()
    for layer in codec.quantizer.layers:
        layer._codebook.embed.normal_(std=0.3)
        layer._codebook.initted.fill_(True)
    tokenizer = SentencePieceTokenizer.train(["a dog barking", "rain on a tent"], vocab_size=273)
    config = presets.tiny(num_streams=codec.num_codebooks, vocab_size=codec.codebook_size)
    two_sided = replace(config.transformer, causal=False, cross_attention=False)
    encoder = OwnTextEncoder(
        OwnTextEncoderConfig(transformer=two_sided, vocab_size=tokenizer.vocab_size), tokenizer
    )
    text = TextConditioner(encoder, config.transformer.dim)
    stages = audiogen(
        TokenLM(config),
        pattern=delayed(range(codec.num_codebooks)),
        conditioners=Conditioners({"text": text}, {"text": "cross"}),
        frame_rate=Fraction(50),
        window_frames=500,
        overlap_frames=200,
        sampling=Sampling(),
    )
    folder = tmp_path_factory.mktemp("models") / "audiogen"
    AudioPipeline(Model(stages, CodecRenderer(codec))).save(folder)
    return folder


SHORT = {
    "duration=5.0": "duration=0.3",
    "duration=30.0": "duration=0.6",
    "[5.0, 8.0]": "[0.2, 0.4]",
}


def test_the_code_of_the_readme(
    workplace: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "DEFAULT_FOLDER", model_folder)
    span = {"start=1.0, end=2.0": "start=0.1, end=0.2"}
    scope = run_code_of(
        "README.md", {"facebook/audiogen-medium": str(model_folder), **SHORT, **span}
    )
    assert scope["other"].duration == 0.3
    assert (workplace / "models/audiogen/config.json").exists()
    assert [clip.seed for clip in scope["clips"]] == [1, 2]


def test_the_code_of_generation(workplace: Path, model_folder: Path) -> None:
    for name in ("intro.wav", "clip.wav"):
        write_audio(workplace / name, 0.1 * torch.randn(1, 60_000), 24_000)
    changes = SHORT | {"[5.0, 8.0]": "[0.2, 0.4]", "facebook/audiogen-medium": str(model_folder)}
    scope = run_code_of("docs/generation.md", changes)
    assert scope["other"].duration == 2.5


def test_the_code_of_the_notebook(
    workplace: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "DEFAULT_FOLDER", model_folder)
    notebook = json.loads((ROOT / "docs/notebook.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    scope: dict[str, Any] = {"__name__": "notebook"}
    shown = []
    for cell in cells:
        for text, replacement in (SHORT | {"start=1.0, end=2.0": "start=0.1, end=0.2"}).items():
            cell = cell.replace(text, replacement)
        *body, last = ast.parse(cell).body
        exec(compile(ast.Module(body, []), "notebook.ipynb", "exec"), scope)
        if isinstance(last, ast.Expr):
            shown.append(eval(ast.unparse(last), scope))
        else:
            exec(ast.unparse(last), scope)
    players = [clip._repr_html_() for clip in shown if isinstance(clip, Clip)]
    assert len(players) == 6
    assert all("<audio" in player for player in players)
    assert (workplace / "dog.mp3").exists()


def test_the_code_of_semantic_tokens(workplace: Path) -> None:
    import joblib
    from sklearn.cluster import MiniBatchKMeans
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    settings = HubertConfig(
        hidden_size=32,
        num_hidden_layers=9,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    HubertModel(settings).save_pretrained(workplace / "hubert")
    Wav2Vec2FeatureExtractor().save_pretrained(workplace / "hubert")
    fitted = MiniBatchKMeans(5, n_init=1).fit(torch.randn(50, 32).numpy())
    joblib.dump(fitted, workplace / "hubert_base_ls960_L9_km500.bin")
    scope = run_code_of(
        "docs/semantic-tokens.md",
        {
            "facebook/hubert-base-ls960": str(workplace / "hubert"),
            "num_clusters=500": "num_clusters=8",
        },
    )
    assert (workplace / "hubert-km500" / "centroids.safetensors").exists()
    assert (workplace / "again.wav").exists()
    assert scope["bundled"].encode(scope["audio"].samples[None]).shape == (1, 1, 25)
    assert scope["tokenizer"].num_tokens == 5
    assert scope["tokenizer"].encode(scope["audio"].samples[None]).max() < 5


def test_the_code_of_rave(workplace: Path) -> None:
    from audio_tokenizers.acoustic import rave

    codec = rave.RaveCodec(rave.tiny(causal=True), trainable=False)
    codec.set_codebooks(torch.randn(4, 32, 4))
    rave.save_rave(codec, workplace / "runs/piano")
    code = {"codec = load": "import torch\nsamples = torch.zeros(1, 1, 999)\ncodec = load"}
    code["block = stream"] = "block = torch.zeros(1, 512)\nblock = stream"
    scope = run_code_of("docs/rave.md", code)
    assert scope["latents"].shape == (1, 8, 8)
    assert scope["samples"].shape == (1, 1, 1024)
    assert scope["tokens"].shape == (1, 4, 8)
    assert scope["block"].shape == (1, 512)
