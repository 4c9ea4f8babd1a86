import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import EncodecModel

from audio_tokenizers.acoustic.encodec import EncodecTokenizer, fold_weight_norm
from audio_tokenizers.acoustic.encodec_checkpoints import load_encodec

MakeEncodec = Callable[..., EncodecModel]
State = dict[str, torch.Tensor]

# As audiocraft writes it, references to other settings included.
AUDIOCRAFT_SETTINGS = """
compression_model: encodec
sample_rate: {sampling_rate}
channels: {audio_channels}
encodec:
  autoencoder: seanet
  quantizer: rvq
  sample_rate: ${{sample_rate}}
  channels: ${{channels}}
  causal: {use_causal_conv}
  renormalize: false
seanet:
  dimension: {hidden_size}
  channels: ${{channels}}
  causal: ${{encodec.causal}}
  n_filters: {num_filters}
  n_residual_layers: 1
  ratios: {upsampling_ratios}
  activation: ELU
  activation_params:
    alpha: 1.0
  norm: {norm_type}
  norm_params: {{}}
  kernel_size: 7
  residual_kernel_size: 3
  last_kernel_size: 7
  dilation_base: 2
  pad_mode: {pad_mode}
  true_skip: {true_skip}
  compress: 2
  lstm: 2
  disable_norm_outer_blocks: 0
  decoder:
    trim_right_ratio: 1.0
    final_activation: null
  encoder: {{}}
rvq:
  n_q: {num_quantizers}
  q_dropout: false
  bins: {codebook_size}
device: cpu
"""


def respell(state: State, spelling: str) -> State:
    """Writes the weight norm of a transformers state dict as old or new names, or folds it."""
    result = {}
    for name, value in state.items():
        stem = name.removesuffix(".parametrizations.weight.original0")
        if spelling == "new" or "parametrizations" not in name:
            result[name] = value
        elif spelling == "old":
            name = name.replace(".parametrizations.weight.original0", ".weight_g")
            result[name.replace(".parametrizations.weight.original1", ".weight_v")] = value
        elif stem != name:
            direction = state[f"{stem}.parametrizations.weight.original1"]
            result[f"{stem}.weight"] = torch._weight_norm(direction, value, 0)
    return result


def original_names(model: EncodecModel, state: State) -> State:
    """Renames a transformers state dict to what the `encodec` package calls its weights."""
    result = {}
    for name, value in state.items():
        if name.startswith("quantizer"):
            name = name.replace("quantizer.layers", "quantizer.vq.layers")
            result[name.replace(".codebook.", "._codebook.")] = value
            continue
        match = re.fullmatch(r"(.*)\.(conv|norm)\.(.+)", name)
        if match:
            layer, part, rest = match.groups()
            transposed = type(model.get_submodule(layer)).__name__ == "EncodecConvTranspose1d"
            kind = "convtr" if transposed else "conv"
            name = f"{layer}.{kind}.{kind if part == 'conv' else 'norm'}.{rest}"
        result[name.replace("coder.layers.", "coder.model.")] = value
    return result


def save(model: EncodecModel, path: Path, *, layout: str, spelling: str) -> Path:
    state = respell(model.state_dict(), spelling)
    if layout == "transformers":
        model.config.save_pretrained(path)
        torch.save(state, path / "pytorch_model.bin")
        return path
    state = original_names(model, state)
    file = path / "weights.bin"
    if layout == "original":
        torch.save(state, file)
        return file
    settings = model.config.to_dict() | {
        "true_skip": not model.config.use_conv_shortcut,
        "num_quantizers": model.config.num_quantizers,
        "upsampling_ratios": list(model.config.upsampling_ratios),
    }
    package = {"best_state": state, "xp.cfg": AUDIOCRAFT_SETTINGS.format(**settings)}
    torch.save(package | {"version": "1.0.0", "exported": True}, file)
    return file


def assert_equal_to_transformers(tokenizer: EncodecTokenizer, model: EncodecModel) -> None:
    """Compares tokens and samples at every bandwidth of a random waveform, bit by bit."""
    samples = torch.randn(1, model.config.audio_channels, 5_001) * 0.3
    for bandwidth in model.config.target_bandwidths:
        with torch.no_grad():
            encoded = model.encode(samples, bandwidth=bandwidth)
            codes, gains = encoded.audio_codes[0], encoded.audio_scales[0]
            decoded = model.decode(encoded.audio_codes, encoded.audio_scales).audio_values
        tokens = tokenizer.encode(samples, num_codebooks=codes.shape[1])
        assert torch.equal(tokens, codes)
        assert len(tokens.unique()) > 10
        assert torch.equal(tokenizer.decode(tokens, gains=gains), decoded)


@pytest.mark.parametrize(("kind", "layout", "spelling"), [
    *[("24k", layout, spelling)
      for layout in ("transformers", "original", "audiocraft")
      for spelling in ("old", "new", "folded")],
    ("48k", "transformers", "old"),
    ("48k", "original", "old"),
    ("32k", "transformers", "old"),
    ("32k", "audiocraft", "old"),
    ("16k", "audiocraft", "folded"),
])  # fmt: skip
def test_every_layout_gives_the_tokens_and_samples_of_transformers(
    make_encodec: MakeEncodec, tmp_path: Path, kind: str, layout: str, spelling: str
) -> None:
    model = make_encodec(kind)
    path = save(model, tmp_path, layout=layout, spelling=spelling)
    tokenizer = load_encodec(path)
    assert tokenizer.sample_rate == model.config.sampling_rate
    assert tokenizer.num_codebooks == model.config.num_quantizers
    assert_equal_to_transformers(tokenizer, model)
    assert tokenizer.identity == EncodecTokenizer(model).identity


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "num_filters"), [("24k", 32), ("48k", 32), ("32k", 64)])
def test_models_of_full_size_give_the_tokens_and_samples_of_transformers(
    make_encodec: MakeEncodec, tmp_path: Path, kind: str, num_filters: int
) -> None:
    model = make_encodec(kind, num_filters=num_filters, hidden_size=128)
    layout = "audiocraft" if kind == "32k" else "original"
    assert_equal_to_transformers(
        load_encodec(save(model, tmp_path, layout=layout, spelling="old")), model
    )


def test_a_folder_saved_by_transformers_is_read(make_encodec: MakeEncodec, tmp_path: Path) -> None:
    model = make_encodec("24k")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    assert_equal_to_transformers(load_encodec(tmp_path), model)


def test_a_folder_in_half_precision_is_read_in_full_precision(
    make_encodec: MakeEncodec, tmp_path: Path
) -> None:
    model = make_encodec("32k")
    fold_weight_norm(model)  # the magnitudes of halves would be other halves
    model.half().save_pretrained(tmp_path)
    assert_equal_to_transformers(load_encodec(tmp_path), model.float())


def test_a_torn_safetensors_file_is_refused(make_encodec: MakeEncodec, tmp_path: Path) -> None:
    make_encodec("24k").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"in .*model.safetensors are no whole safetensors file"):
        load_encodec(tmp_path)


def test_audiocraft_checkpoints_keep_their_own_padding(
    make_encodec: MakeEncodec, tmp_path: Path
) -> None:
    samples = torch.randn(1, 1, 2_000)
    tokens = []
    for mode in ("constant", "reflect"):
        model = make_encodec("32k", pad_mode=mode)
        (tmp_path / mode).mkdir()
        tokenizer = load_encodec(save(model, tmp_path / mode, layout="audiocraft", spelling="old"))
        assert tokenizer.model.config.pad_mode == mode
        tokens.append(tokenizer.encode(samples))
    assert not torch.equal(*tokens)


def test_an_audiocraft_folder_and_its_training_checkpoint_are_read(
    make_encodec: MakeEncodec, tmp_path: Path
) -> None:
    model = make_encodec("32k")
    package = torch.load(save(model, tmp_path, layout="audiocraft", spelling="old"))
    package["best_state"] = {"model": package["best_state"]}
    torch.save(package, tmp_path / "compression_state_dict.bin")
    assert_equal_to_transformers(load_encodec(tmp_path), model)


def test_an_audiocraft_pointer_leads_to_the_model_it_names(
    make_encodec: MakeEncodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a folder with the name of a hub id comes before the hub
    model = make_encodec("32k")
    model.save_pretrained(tmp_path / "facebook" / "encodec_32khz")
    torch.save({"pretrained": "facebook/encodec_32khz"}, tmp_path / "pointer.bin")
    assert_equal_to_transformers(load_encodec("pointer.bin"), model)


@pytest.mark.parametrize("pointer", ["../encodec", "/etc/encodec", "dac_44khz", 3])
def test_a_pointer_to_anything_else_is_refused(tmp_path: Path, pointer: object) -> None:
    torch.save({"pretrained": pointer}, tmp_path / "pointer.bin")
    with pytest.raises(ValueError, match=r"which points to .*; expected a hub id of EnCodec"):
        load_encodec(tmp_path / "pointer.bin")


@pytest.mark.parametrize(("layout", "given_by"), [
    ("transformers", "config.json"), ("original", "the original model"),
    ("audiocraft", "its xp.cfg"),
])  # fmt: skip
def test_missing_unexpected_and_misshapen_weights_are_named(
    make_encodec: MakeEncodec, tmp_path: Path, layout: str, given_by: str
) -> None:
    path = save(make_encodec("24k"), tmp_path, layout=layout, spelling="old")
    file = path / "pytorch_model.bin" if layout == "transformers" else path
    package = torch.load(file)
    state = package["best_state"] if layout == "audiocraft" else package
    name = next(name for name in state if name.endswith("3.block.1.conv.bias")
                or name.endswith("4.block.1.conv.conv.bias"))  # fmt: skip
    state["extra.thing"] = state.pop(name)
    state["encoder.layers.13.lstm.bias_hh_l0"] = torch.zeros(3)
    state.pop("encoder.model.13.lstm.bias_hh_l0", None)
    torch.save(package, file)
    message = (
        r": missing or unexpected weights: \S+\.block\.1\.conv\.bias, extra\.thing; weights of a "
        rf"shape that {given_by} does not give: \S+bias_hh_l0 \(\[3\] instead of \[256\]\)\."
    )
    with pytest.raises(ValueError, match=message):
        load_encodec(path)


class Payload:
    """Unpickling this would run code."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return print, ("code ran",)


def test_a_pickle_with_code_is_refused_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weights.th"
    torch.save({"encoder.model.0.conv.conv.bias": Payload()}, file)
    with pytest.raises(ValueError, match=r"Refused to read .*weights.th: it holds more than"):
        load_encodec(file)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(("old", "new", "message"), [
    ("quantizer: rvq", "quantizer: no_quant", "encodec.quantizer=no_quant"),
    ("activation: ELU", "activation: Snake", "seanet.activation=Snake"),
    ("final_activation: null", "final_activation: Tanh", "seanet.decoder.final_activation=Tanh"),
    ("  n_filters: 4\n", "", "Found no seanet.n_filters in the settings"),
])  # fmt: skip
def test_settings_that_are_not_those_of_encodec_are_refused(
    make_encodec: MakeEncodec, tmp_path: Path, old: str, new: str, message: str
) -> None:
    file = save(make_encodec("32k"), tmp_path, layout="audiocraft", spelling="old")
    package = torch.load(file)
    assert old in package["xp.cfg"]
    package["xp.cfg"] = package["xp.cfg"].replace(old, new)
    torch.save(package, file)
    with pytest.raises(ValueError, match=message):
        load_encodec(file)


@pytest.mark.parametrize("text", ["seanet: [1, 2", "a: b: c", 3, None])
def test_settings_that_are_no_yaml_are_refused(
    make_encodec: MakeEncodec, tmp_path: Path, text: object
) -> None:
    file = save(make_encodec("32k"), tmp_path, layout="audiocraft", spelling="old")
    torch.save(torch.load(file) | {"xp.cfg": text}, file)
    with pytest.raises(ValueError, match=r"The xp.cfg in .*weights.bin is no YAML; fetch"):
        load_encodec(file)


def test_other_files_and_folders_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Found no file or folder .*nothing.th; check the path"):
        load_encodec(tmp_path / "nothing.th")
    with pytest.raises(ValueError, match=r"without config.json or compression_state_dict.bin"):
        load_encodec(tmp_path)

    (tmp_path / "torn.th").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match=r"Could not read .*torn.th: it is no complete PyTorch"):
        load_encodec(tmp_path / "torn.th")
    torch.save({"linear.weight": torch.zeros(1)}, tmp_path / "other.th")
    with pytest.raises(ValueError, match=r"with keys such as linear.weight; expected"):
        load_encodec(tmp_path / "other.th")
    torch.save([torch.zeros(1)], tmp_path / "list.th")
    with pytest.raises(ValueError, match=r"Got a list in .*; expected a dict"):
        load_encodec(tmp_path / "list.th")

    (tmp_path / "config.json").write_text('{"model_type": "dac"}')
    with pytest.raises(ValueError, match="a model of type dac; expected type encodec"):
        load_encodec(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "encodec"}')
    with pytest.raises(ValueError, match=r"Found no weights in .*; expected model.safetensors"):
        load_encodec(tmp_path)
