"""The Python code in the documents runs as it is printed, but for the names of downloads."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from audio_tokenizers.audio_writer import write_audio

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


def test_the_code_of_the_readme(workplace: Path) -> None:
    run_code_of("README.md", {})
    assert (workplace / "again.wav").exists()


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
    assert scope["tokenizer"].num_tokens == 5
    assert scope["tokenizer"].encode(scope["audio"].samples[None]).max() < 5
