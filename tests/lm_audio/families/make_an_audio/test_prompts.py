"""Pictures, films and sounds in the place of text, against CLIP and CLAP of transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, CLIPConfig, CLIPModel

import lm_audio
from audio_tokenizers.audio_writer import write_audio
from lm_audio.families.make_an_audio.reading import read_make_an_audio
from lm_audio.families.make_an_audio.writing import write_make_an_audio
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising
from lm_audio.server.engine import Engine
from tests.lm_audio.families.make_an_audio.conftest import WIDTH, randomise, tokenizer
from tests.lm_audio.server.conftest import running

RATE, FRAME, WINDOW, SIZE = 16_000, 32, 12, 8
DDIM = Denoising(steps=3, solver="ddim", guidance_scale=3.0)
ONE, LONG = FRAME * WINDOW / RATE, FRAME * 31 / RATE
MEAN, DEVIATION = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def clip_model() -> CLIPModel:
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
             "num_attention_heads": 2}  # fmt: skip
    config = CLIPConfig(
        text_config=tower | {"vocab_size": 13, "max_position_embeddings": 20, "eos_token_id": 3},
        vision_config=tower | {"image_size": SIZE, "patch_size": 4},
        projection_dim=10,
    )
    return CLIPModel(config)


def clap_model() -> ClapModel:
    text = {
        "vocab_size": 13, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 30, "projection_dim": 12,
    }  # fmt: skip
    audio = {
        "hidden_size": 8, "patch_embeds_hidden_size": 4, "depths": [1, 1], "window_size": 4,
        "num_attention_heads": [1, 2], "num_mel_bins": 8, "spec_size": 32, "patch_size": 4,
        "patch_stride": [4, 4], "projection_dim": 12, "num_hidden_layers": 2,
    }  # fmt: skip
    return ClapModel(
        ClapConfig(text_config=text, audio_config=audio, projection_dim=12, hidden_size=16)
    )


class Map(nn.Module):
    """The map, in the words of its equations."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second, self.last = (nn.Linear(width, 20), nn.Linear(20, 20),
                                              nn.Linear(20, WIDTH))  # fmt: skip
        self.tokens = nn.Parameter(torch.randn(5, 20))
        self.mean = nn.Parameter(torch.randn(5, WIDTH))

    @torch.no_grad()
    def tokens_of(self, vector: Tensor) -> Tensor:
        rows = [F.gelu(self.first(vector)) + token for token in self.tokens]
        made = torch.stack([self.last(row + F.gelu(self.second(row))) for row in rows])
        return (self.mean + made)[None]

    def save(self, folder: Path, *, in_width: int) -> None:
        folder.mkdir()
        config = {"model_type": "lm-audio-prompt-map", "in_width": in_width, "hidden_width": 20,
                  "num_tokens": 5, "width": WIDTH}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
        save_file(self.state_dict(), folder / "model.safetensors")


@pytest.fixture(scope="module")
def spaces() -> dict[str, Any]:
    torch.manual_seed(1)
    made = {
        "clip": clip_model(),
        "clap": clap_model(),
        "picture map": Map(10),
        "sound map": Map(12),
    }
    for module in made.values():
        randomise(module)
        module.eval().requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def folder(
    parts: dict[str, Any],
    spaces: dict[str, Any],
    write_parts: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = write_parts(parts, tmp_path_factory.mktemp("model"))
    spaces["clip"].save_pretrained(folder / "image_encoder")
    tokenizer().save_pretrained(folder / "image_encoder")
    shown = {"image_mean": MEAN, "image_std": DEVIATION}
    (folder / "image_encoder" / "preprocessor_config.json").write_text(json.dumps(shown))
    spaces["picture map"].save(folder / "image_encoder" / "prompt_map", in_width=10)
    spaces["clap"].save_pretrained(folder / "audio_encoder")
    tokenizer().save_pretrained(folder / "audio_encoder")
    ClapFeatureExtractor(feature_size=8, max_length_s=1, truncation="rand_trunc").save_pretrained(
        folder / "audio_encoder"
    )
    spaces["sound map"].save(folder / "audio_encoder" / "prompt_map", in_width=12)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> AudioPipeline:
    return lm_audio.load(folder)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


@torch.no_grad()
def seen(spaces: dict[str, Any], image: np.ndarray) -> Tensor:
    """CLIP's vector [D] of a picture."""
    x = torch.from_numpy(image).permute(2, 0, 1) / 255
    x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
    found = spaces["clip"].get_image_features(pixel_values=x[None])
    vector = found if isinstance(found, Tensor) else found.pooler_output
    return F.normalize(vector[0], dim=-1)


def made(model: AudioPipeline, text: str | None = None, **settings: Any) -> Tensor:
    given = {"duration": ONE, "seed": 5, "sampling": DDIM, "raw": True} | settings
    return model.generate(text, **given).samples


def same(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_a_picture_takes_the_place_of_the_text(
    model: AudioPipeline,
    spaces: dict[str, Any],
    parts: dict[str, Any],
    their_clip: Callable[..., Tensor],
    tmp_path: Path,
) -> None:
    assert model.conditions == ("text", "image", "video", "audio")
    image = picture(0)
    tokens = spaces["picture map"].tokens_of(seen(spaces, image))
    ours = made(model, conditions={"image": image})
    same(ours, their_clip(parts, ("", tokens), steps=3, seed=5, num_frames=WINDOW))
    Image.fromarray(image).save(tmp_path / "x.png")
    assert torch.equal(made(model, conditions={"image": str(tmp_path / "x.png")}), ours)
    both = torch.cat([parts["text_encoder"]("rain"), tokens], dim=1)
    same(
        made(model, "rain", conditions={"image": image}),
        their_clip(parts, ("", both), steps=3, seed=5, num_frames=WINDOW),
    )


def test_a_recording_takes_the_place_of_the_text(
    model: AudioPipeline,
    spaces: dict[str, Any],
    parts: dict[str, Any],
    their_clip: Callable[..., Tensor],
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    samples = 0.1 * torch.randn(1, 30_000)
    extractor = ClapFeatureExtractor(feature_size=8, max_length_s=1, truncation="rand_trunc")
    inputs = extractor([samples[0].numpy()], sampling_rate=48_000, return_tensors="pt")
    inputs["is_longer"] = torch.zeros(1, 1, dtype=torch.bool)
    with torch.no_grad():
        found = spaces["clap"].get_audio_features(**inputs)
    vector = found if isinstance(found, Tensor) else found.pooler_output
    tokens = spaces["sound map"].tokens_of(F.normalize(vector[0], dim=-1))
    expected = their_clip(parts, ("", tokens), steps=3, seed=5, num_frames=WINDOW)
    same(made(model, conditions={"audio": (samples, 48_000)}), expected)
    write_audio(tmp_path / "x.wav", samples, 48_000)
    torch.testing.assert_close(
        made(model, conditions={"audio": tmp_path / "x.wav"}), expected, atol=0.02, rtol=0
    )


def test_a_film_is_interpolated_at_the_time_of_each_window(
    model: AudioPipeline,
    folder: Path,
    spaces: dict[str, Any],
    parts: dict[str, Any],
    their_clip: Callable[..., Tensor],
) -> None:
    film = [picture(seed) for seed in range(3)]
    vectors = torch.stack([seen(spaces, one) for one in film])
    middle = ONE / 2  # of the only window, in seconds
    mixed = F.normalize((1 - middle) * vectors[0] + middle * vectors[1], dim=-1)
    tokens = spaces["picture map"].tokens_of(mixed)
    same(
        made(model, conditions={"video": film}),
        their_clip(parts, ("", tokens), steps=3, seed=5, num_frames=WINDOW),
    )
    ours: Any = read_make_an_audio(folder).prompts["video"]
    for seconds, expected in ((0.0, vectors[0]), (1.25, 0.75 * vectors[1] + 0.25 * vectors[2]),
                              (2.0, vectors[2]), (99.0, vectors[2])):  # fmt: skip
        tokens = spaces["picture map"].tokens_of(F.normalize(expected, dim=-1))
        torch.testing.assert_close(ours.tokens_at(vectors, seconds), tokens[0], atol=1e-5, rtol=0)
    still = made(model, duration=LONG, conditions={"video": film[:1]})
    one = made(model, duration=LONG, conditions={"image": film[0]})
    torch.testing.assert_close(still, one, atol=1e-3, rtol=0)
    contexts: list[Tensor] = []
    network: Any = model.stages["diffusion"].network  # type: ignore[attr-defined]
    hook = network.unet.register_forward_pre_hook(lambda _, x: contexts.append(x[2][0].tokens))
    made(model, duration=LONG, conditions={"video": film}, sampling=Denoising(steps=1))
    hook.remove()
    led = [tokens[0] for tokens in contexts if tokens.shape[1] == 5]  # without the negative rows
    windows = [(0, 12), (9, 21), (18, 30), (27, 31)]  # each keeps three frames
    assert len(led) == len(windows)
    for tokens, (start, stop) in zip(led, windows, strict=True):
        seconds = (start + stop) / 2 * FRAME / RATE
        torch.testing.assert_close(tokens, ours.tokens_at(vectors, seconds), atol=1e-5, rtol=0)
    assert not torch.allclose(led[0], led[-1], atol=1e-3)


def test_a_clip_with_a_picture_is_the_same_in_any_batch_and_in_pieces(model: AudioPipeline) -> None:
    given: dict[str, Any] = {
        "conditions": {"image": picture(0), "video": [picture(1), picture(2)]},
        "sampling": DDIM,
    }
    alone = model.generate("rain", duration=LONG, seed=2, **given).samples
    batch = model.generate(["wind", "rain"], duration=[ONE, LONG], seed=[1, 2], **given)
    assert torch.equal(batch[1].samples, alone)
    pieces = list(model.stream("rain", duration=LONG, seed=2, **given))
    assert torch.equal(torch.cat(pieces, dim=1), alone)


def test_bad_prompts_are_refused(
    model: AudioPipeline, parts: dict[str, Any], write_parts: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="No such picture"):
        made(model, conditions={"image": "none.png"})
    with pytest.raises(ValueError, match="An audio prompt must be a path, a Clip, or samples"):
        made(model, conditions={"audio": 3})
    plain = lm_audio.load(write_parts(parts, tmp_path / "plain"))
    with pytest.raises(ValueError, match="This model has no condition 'image'"):
        made(plain, conditions={"image": picture(0)})


def test_parts_that_do_not_match_are_refused(
    parts: dict[str, Any],
    spaces: dict[str, Any],
    write_parts: Callable[..., Path],
    tmp_path: Path,
) -> None:
    folder = write_parts(parts, tmp_path / "model")
    spaces["clip"].save_pretrained(folder / "image_encoder")
    tokenizer().save_pretrained(folder / "image_encoder")
    spaces["sound map"].save(folder / "image_encoder" / "prompt_map", in_width=12)
    with pytest.raises(ValueError, match=r"takes vectors of width 12, and the encoder makes 10"):
        lm_audio.load(folder)
    config = folder / "image_encoder" / "prompt_map" / "config.json"
    config.write_text(config.read_text().replace("lm-audio-prompt-map", "bert"))
    with pytest.raises(ValueError, match="model_type is 'bert'; expected 'lm-audio-prompt-map'"):
        lm_audio.load(folder)


def test_a_path_of_the_server_is_refused(model: AudioPipeline) -> None:
    with running(Engine(model)) as served:
        body = {"input": "rain", "duration": ONE, "conditions": {"image": "/etc/hostname"}}
        answer = served.client.post("/v1/audio/speech", json=body)
        assert answer.status_code == 400
        assert "takes a file of this machine" in answer.json()["error"]["message"]


def test_what_is_written_takes_the_same_prompts(
    model: AudioPipeline, folder: Path, tmp_path: Path
) -> None:
    write_make_an_audio(read_make_an_audio(folder), tmp_path / "written", source=folder)
    again = lm_audio.load(tmp_path / "written")
    for conditions in ({"image": picture(0)}, {"audio": (torch.ones(1, 9000), 48_000)}):
        expected = made(model, conditions=conditions)
        torch.testing.assert_close(made(again, conditions=conditions), expected, atol=1e-5, rtol=0)
