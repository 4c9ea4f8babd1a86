"""CLAP as a judge of sounds and texts (arXiv 2211.06687), through transformers.

Shapes: C channels, N samples.
"""

from pathlib import Path

from torch import Tensor

from audio_tokenizers.resampling import resample
from lm_audio.conditioners.joint_spaces import SoundSpace
from lm_audio.evaluation.judges.pretrained import load_feature_extractor, load_pretrained


class Clap(SoundSpace):
    """Embeds audio, as an `AudioEmbedding`, and text."""

    def __init__(self, source: str | Path, *, device: str = "cpu") -> None:
        from transformers import AutoTokenizer, ClapModel

        super().__init__(
            load_pretrained(ClapModel, source, device=device),
            load_feature_extractor(source),
            AutoTokenizer.from_pretrained(source),
        )
        self.name = f"{source} (transformers ClapModel)"

    def score(self, samples: Tensor, sample_rate: int, text: str) -> float:
        """The cosine between samples [C, N] and a text, the mean over windows."""
        mono = resample(samples.mean(dim=0, keepdim=True), sample_rate, self.sample_rate)
        return float((self(mono) @ self.embed_texts([text]).T).mean())
