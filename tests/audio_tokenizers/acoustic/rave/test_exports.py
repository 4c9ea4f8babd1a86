"""Published exports and checkpoints: read as data, equal to the modules that made them."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_tokenizers.acoustic.rave.exports import load_export, load_foreign, read_export, read_gin
from audio_tokenizers.acoustic.rave.torchscript import read_torchscript
from audio_tokenizers.acoustic.registry import load_codec

BANDS, CAPACITY, RATIOS, LATENT = 8, 8, (4, 2), 6


class Normed(nn.Module):
    """A convolution whose weight is a length and a direction, as weight norm scripts it."""

    def __init__(self, conv: nn.Conv1d | nn.ConvTranspose1d) -> None:
        super().__init__()
        shape = conv.weight.shape
        self.weight_g = nn.Parameter(torch.rand(shape[0], 1, 1) + 0.5)
        self.weight_v = nn.Parameter(torch.randn(shape))
        self.is_transposed = isinstance(conv, nn.ConvTranspose1d)
        self.stride, self.padding, self.dilation = (
            conv.stride[0],
            int(conv.padding[0]),
            conv.dilation[0],
        )

    def forward(self, x: Tensor) -> Tensor:
        weight = torch._weight_norm(self.weight_v, self.weight_g, 0)
        if self.is_transposed:
            return F.conv_transpose1d(x, weight, None, self.stride, self.padding)
        return F.conv1d(x, weight, None, self.stride, self.padding, self.dilation)


class Unit(nn.Module):
    def __init__(self, width: int, dilation: int, conv: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LeakyReLU(0.2),
            conv(nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation, bias=False)),
            nn.LeakyReLU(0.2),
            conv(nn.Conv1d(width, width, 1, bias=False)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


def encoder(conv: Callable[..., nn.Module], *, in_width: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = [conv(nn.Conv1d(in_width, CAPACITY, 7, padding=3, bias=False))]
    width = CAPACITY
    for ratio, dilations in zip(RATIOS, ((1, 3, 9), (1, 3)), strict=True):
        layers += [Unit(width, d, conv) for d in dilations] + [nn.LeakyReLU(0.2)]
        down = nn.Conv1d(width, 2 * width, 2 * ratio, ratio, ratio // 2, bias=False)
        layers.append(conv(down))
        width *= 2
    layers += [nn.LeakyReLU(0.2), conv(nn.Conv1d(width, out, 3, padding=1, bias=False))]
    return nn.Sequential(*layers)


def decoder(conv: Callable[..., nn.Module], *, out_width: int) -> nn.Sequential:
    width = CAPACITY * 2 ** len(RATIOS)
    layers: list[nn.Module] = [conv(nn.Conv1d(LATENT, width, 3, padding=1, bias=False))]
    for ratio, dilations in zip(RATIOS[::-1], ((1, 3), (1, 3, 9)), strict=True):
        up = nn.ConvTranspose1d(width, width // 2, 2 * ratio, ratio, ratio // 2, bias=False)
        layers += [nn.LeakyReLU(0.2), conv(up)]
        width //= 2
        layers += [Unit(width, d, conv) for d in dilations]
    layers += [nn.LeakyReLU(0.2), conv(nn.Conv1d(width, out_width, 7, padding=3, bias=False))]
    return nn.Sequential(*layers)


class Stub(nn.Module):
    """A module with the parts, buffers and methods of an export."""

    def __init__(self, *, normed: bool, channels: int = 1, books: int = 0) -> None:
        super().__init__()
        conv: Callable[..., nn.Module] = Normed if normed else lambda layer: layer
        self.sr = 44_100
        out = LATENT if books else 2 * LATENT
        self.encoder = encoder(conv, in_width=BANDS * channels, out=out)
        self.decoder = decoder(conv, out_width=2 * BANDS * channels)
        self.register_buffer("latent_pca", torch.linalg.qr(torch.randn(LATENT, LATENT))[0])
        self.register_buffer("latent_mean", torch.randn(LATENT))
        self.register_buffer("fidelity", torch.linspace(0.5, 1, LATENT))
        hop = BANDS * 8
        self.register_buffer("encode_params", torch.tensor([channels, 1, LATENT, hop]))
        self.register_buffer("decode_params", torch.tensor([LATENT, hop, channels, 1]))
        self.register_buffer("forward_params", torch.tensor([channels, 1, channels, 1]))
        if books:
            self.quantizer = nn.Module()
            self.quantizer.register_buffer("embed", torch.randn(books, 16, LATENT))

    def forward(self, bands: Tensor) -> Tensor:
        return self.encoder(bands)

    @torch.jit.export
    def decode(self, latents: Tensor) -> Tensor:
        wave, gate = self.decoder(latents).chunk(2, 1)
        return torch.tanh(wave * torch.sigmoid(gate))


def export(path: Path, **settings: Any) -> Stub:
    torch.manual_seed(0)
    stub = Stub(**settings).eval()
    torch.jit.script(stub).save(str(path))
    return stub


@pytest.mark.filterwarnings("ignore:.* does not state whether the model is causal")
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("normed", [False, True])
def test_an_export_gives_what_its_module_gives(normed: bool, channels: int, tmp_path: Path) -> None:
    stub = export(tmp_path / "piano.ts", normed=normed, channels=channels)
    codec: Any = load_codec(tmp_path / "piano.ts")
    assert (codec.sample_rate, codec.num_channels, codec.hop_length) == (44_100, channels, 64)
    bands, latents = torch.randn(2, BANDS * channels, 64), torch.randn(2, LATENT, 8)
    with torch.no_grad():
        encoded = codec.encoder(bands.transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(encoded, stub(bands), rtol=1e-4, atol=1e-4)
        decoded = codec.decoder(latents.transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(decoded, stub.decode(latents), rtol=1e-4, atol=1e-4)
        samples = 0.1 * torch.randn(1, channels, 640)
        mean = stub(codec.pqmf.analyse(samples).transpose(1, 2))[:, :LATENT]
        rotated = stub.latent_pca @ (mean - stub.latent_mean[:, None])
        torch.testing.assert_close(codec.latents(samples), rotated, rtol=1e-4, atol=1e-4)
    assert torch.equal(codec.fidelity, stub.fidelity)
    methods = read_export(tmp_path / "piano.ts").methods
    assert set(methods) == {"encode", "decode", "forward"}
    assert (methods["encode"].in_channels, methods["encode"].out_ratio) == (channels, 64)
    with pytest.raises(ValueError, match=r"has latents but no codebooks"):
        codec.encode(samples)


@pytest.mark.filterwarnings("ignore:.* does not state whether the model is causal")
def test_a_discrete_export_makes_tokens(tmp_path: Path) -> None:
    stub = export(tmp_path / "speech.ts", normed=False, books=3)
    codec: Any = load_codec(tmp_path / "speech.ts")
    assert (codec.num_codebooks, codec.codebook_size) == (3, 16)
    samples = 0.1 * torch.randn(1, 1, 640)
    with torch.no_grad():
        residual = stub(codec.pqmf.analyse(samples).transpose(1, 2))[0].T  # [T, D]
    tokens = codec.encode(samples)[0]
    for level, book in zip(tokens, stub.quantizer.embed, strict=True):
        assert torch.equal(level, torch.cdist(residual, book).argmin(1))
        residual = residual - book[level]


def test_whether_a_model_is_causal_is_stated_or_warned_of(tmp_path: Path) -> None:
    export(tmp_path / "x.ts", normed=False)
    with pytest.warns(UserWarning, match=r"x.ts does not state whether the model is causal; it is"):
        assert not load_foreign(tmp_path / "x.ts").config.causal
    assert load_foreign(tmp_path / "x.ts", causal=True).config.causal
    for delays, causal in (([0, 0], True), ([0, 5], False)):
        found = read_export(tmp_path / "x.ts")
        for number, delay in enumerate(delays):
            found.values[f"encoder.{number}.cumulative_delay"] = delay
        assert load_export(found).config.causal == causal


def test_a_checkpoint_of_the_trainer_is_read_with_its_gin_as_text(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stub = Stub(normed=True)
    torch.save({"state_dict": stub.state_dict()}, tmp_path / "best.ckpt")
    (tmp_path / "config.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "import os  # never imported here\n"
        "SAMPLING_RATE = 48000  # Hz\n"
        "DILATIONS = [\n    [1, 3, 9],\n    [1, 3],\n]\n"
        "cc.get_padding.mode = 'causal'\n"
        "rave.RAVE.sampling_rate = %SAMPLING_RATE\n"
        "rave.RAVE.encoder = @rave.Encoder\n"
    )
    codec: Any = load_codec(tmp_path)
    assert codec.sample_rate == 48_000
    assert codec.config.causal
    assert codec.config.dilations == ((1, 3, 9), (1, 3))
    (tmp_path / "best.ckpt").unlink()
    with pytest.raises(ValueError, match=r"has no checkpoint \(.ckpt\) beside its config.gin"):
        load_codec(tmp_path)


def test_gin_macros_are_resolved_and_code_stays_text() -> None:
    text = "A = 3\nmodel.size = %A\nmodel.list = (1,\n  2)\nb.call = @os.system\n"
    text += "c.x = __import__('os')\n"
    assert read_gin(text) == {
        "A": 3,
        "model.size": 3,
        "model.list": (1, 2),
        "b.call": "@os.system",
        "c.x": "__import__('os')",
    }


@pytest.mark.filterwarnings("ignore:.* does not state whether the model is causal")
def test_what_fits_no_layer_is_refused_by_its_name(tmp_path: Path) -> None:
    export(tmp_path / "x.ts", normed=False)
    path = tmp_path / "x.ts"
    changes: dict[str, tuple[str, Tensor | None, str]] = {
        "extra": ("decoder.99.weight", torch.zeros(3, 3, 3), r"decoder.99.weight of shape \[3, 3"),
        "missing": ("decoder.11.weight", None, r"the decoder ends before an output convolution"),
        "bias": ("encoder.0.bias", torch.zeros(8), r"encoder.0.bias is a bias or a norm's weight"),
        "first": ("encoder.0.weight", torch.zeros(8, 8, 5), r"encoder.0.weight .* is not a first"),
    }
    for name, tensor, sentence in changes.values():
        found = read_export(path)
        found.tensors.pop(name, None)
        if tensor is not None:
            found.tensors[name] = tensor
            if name.startswith("encoder.0.weight"):  # keeps its place in the order
                rest = {n: t for n, t in found.tensors.items() if n != name}
                found.tensors.clear()
                found.tensors.update({name: tensor} | rest)
        with pytest.raises(ValueError, match=sentence):
            load_export(found)
    found = read_export(path)
    found.tensors["encode_params"] = torch.tensor([1, 1, 6, 2048])
    with pytest.raises(ValueError, match=r"encodes 2048 samples per frame, but its layers make 64"):
        load_export(found)
    found = read_export(path)
    found.values.pop("sr")
    with pytest.raises(ValueError, match=r"x.ts does not state its sample rate"):
        load_export(found)


def test_a_model_of_version_1_is_recognised_and_refused(tmp_path: Path) -> None:
    found = read_export(_saved(tmp_path))
    for name in [n for n in found.tensors if "coder" in n]:
        del found.tensors[name]
    v1 = {
        "encoder.0.weight": torch.zeros(8, 8, 7),
        "encoder.1.weight": torch.zeros(16, 8, 9),
        "encoder.2.weight": torch.zeros(12, 16, 5),
        "decoder.0.weight": torch.zeros(16, 6, 7),
    }
    found.tensors.update(v1)
    with pytest.raises(ValueError, match=r"is a model of RAVE 1 \(its encoder has no residual un"):
        load_export(found)


def _saved(folder: Path) -> Path:
    export(folder / "saved.ts", normed=False)
    return folder / "saved.ts"


def rewrite(path: Path, out: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Copies an archive with changed files."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info)))
    return out


def test_the_program_of_an_archive_is_not_even_read(tmp_path: Path) -> None:
    saved, marker = _saved(tmp_path), tmp_path / "ran"
    code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n".encode()
    changed = rewrite(
        saved, tmp_path / "changed.ts", lambda name, data: code if "/code/" in name else data
    )
    with pytest.raises(RuntimeError):  # it is a program for torch, and no longer a valid one
        torch.jit.load(str(changed))
    found, wanted = read_torchscript(changed)[0], read_torchscript(saved)[0]
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not marker.exists()


class Runs:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def test_foreign_names_in_the_pickle_are_refused_and_nothing_runs(tmp_path: Path) -> None:
    import os
    import subprocess

    saved, marker = _saved(tmp_path), tmp_path / "ran"
    script = f"touch {marker}"
    attacks = {
        "system": pickle.dumps(Runs(os.system, script)),
        "eval": pickle.dumps(Runs(eval, f"open({str(marker)!r}, 'w')")),
        "popen": pickle.dumps({"encoder": Runs(subprocess.Popen, ["touch", str(marker)])}),
        "getattr": pickle.dumps(Runs(getattr, [], "append")),
        "import": b"cbuiltins\n__import__\n(S'os'\ntR.",
        "dotted": b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
        "extension": b"\x80\x02\x82\x01.",
        "function state": b"ctorch._utils\n_rebuild_tensor_v2\n(dS'__doc__'\nS'x'\nsb.",
        "class state": b"ccollections\nOrderedDict\n(dS'x'\nS'y'\nsb.",
    }
    for name, attack in attacks.items():
        changed = rewrite(
            saved,
            tmp_path / "attack.ts",
            lambda file, data, a=attack: a if file.endswith("/data.pkl") else data,  # type: ignore[misc]
        )
        with pytest.raises(ValueError, match=r"Refused to read .*attack.ts: it "):
            load_codec(changed)
        assert not marker.exists(), name
    # The attacks work where pickles are trusted.
    pickle.loads(attacks["system"])
    assert marker.exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda n, d: d[: len(d) // 2] if "/data/" in n else d, r"is damaged or not a TorchScri"),
        (lambda n, d: d[:40] if n.endswith("/data.pkl") else d, r"is damaged or not a TorchScri"),
        (lambda n, d: pickle.dumps(7) if n.endswith("/data.pkl") else d, r"it holds no module"),
    ],
)
def test_damaged_archives_get_one_sentence(
    change: Callable[[str, bytes], bytes], sentence: str, tmp_path: Path
) -> None:
    changed = rewrite(_saved(tmp_path), tmp_path / "damaged.ts", change)
    with pytest.raises(ValueError, match=sentence):
        read_torchscript(changed)
    (tmp_path / "text.ts").write_text("not an archive")
    with pytest.raises(ValueError, match=r"text.ts is damaged or not a TorchScript archive"):
        load_codec(tmp_path / "text.ts")
