"""VGGish: the embedding that the Frechet audio distance was defined with (arXiv 1609.09430).

Weights come by path, as safetensors or as the torch file of the public port (torchvggish), whose
names this network has. Vectors are those before the last ReLU, without PCA and quantisation, as
fadtk and frechet-audio-distance take them.

Shapes: B batch, N samples, n patches of 0.96 s.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from audio_tokenizers.weights import check_weights, read_pickle, read_safetensors

SAMPLE_RATE = 16_000
WINDOW, HOP, FFT = 400, 160, 512
BANDS, LOWEST, HIGHEST = 64, 125, 7500
PATCH = 96  # frames
_POOL = 0
_LAYERS = (64, _POOL, 128, _POOL, 256, 256, _POOL, 512, 512, _POOL)


class VGGish(nn.Module):
    """An `AudioEmbedding` of 128 dimensions, one vector for each patch."""

    sample_rate = SAMPLE_RATE

    def __init__(self, name: str = "VGGish") -> None:
        super().__init__()
        self.name = name
        layers: list[nn.Module] = []
        channels = 1
        for width in _LAYERS:
            if width == _POOL:
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(6 * 4 * 512, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(),
            nn.Linear(4096, 128),
        )  # fmt: skip

    @torch.inference_mode()
    def forward(self, samples: Tensor) -> Tensor:
        """The vectors [n, 128] of samples [B, N]."""
        device = next(self.parameters()).device
        patches = log_mel_patches(samples).to(device)
        x = self.features(patches[:, None])  # [n, 512, 6, 4]
        return self.embeddings(x.permute(0, 2, 3, 1).flatten(1))  # channels last, as TensorFlow's


def log_mel_patches(samples: Tensor) -> Tensor:
    """Log-mel patches [n, 96, 64] of samples [B, N], those of one row after the other.

    The arithmetic of VGGish's own front end: windows of 25 ms without padding, a periodic Hann
    window, magnitudes, triangles that are straight on the mel scale, log(x + 0.01), and only whole
    patches.
    """
    from transformers.audio_utils import mel_filter_bank

    shortest = WINDOW + (PATCH - 1) * HOP
    samples = nn.functional.pad(samples, (0, max(0, shortest - samples.shape[1]))).double().cpu()
    frames = samples.unfold(1, WINDOW, HOP)  # [B, frames, 400]
    window = torch.hann_window(WINDOW, periodic=True, dtype=torch.float64)
    magnitude = torch.fft.rfft(frames * window, n=FFT).abs()
    bank = mel_filter_bank(
        num_frequency_bins=FFT // 2 + 1,
        num_mel_filters=BANDS,
        min_frequency=LOWEST,
        max_frequency=HIGHEST,
        sampling_rate=SAMPLE_RATE,
        norm=None,
        mel_scale="htk",
        triangularize_in_mel_space=True,
    )
    mels = (magnitude @ torch.from_numpy(bank) + 0.01).log()  # [B, frames, 64]
    whole = mels.shape[1] // PATCH * PATCH
    return mels[:, :whole].unflatten(1, (-1, PATCH)).flatten(0, 1).float()


def load_vggish(path: str | Path, *, device: str = "cpu") -> VGGish:
    """Reads the weights from a .safetensors or torch file."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"File {path} not found. Give the weights of VGGish, such as vggish.pth.")
    weights = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    weights = {k: v for k, v in weights.items() if not k.startswith("pproc.")}  # PCA, not used
    model = VGGish(f"{path.name} (VGGish, before the last ReLU, no PCA)")
    check_weights(weights, model.state_dict(), source=path, settings="VGGish")
    model.load_state_dict(weights)
    return model.eval().to(device)
