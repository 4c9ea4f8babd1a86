import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import EncodecModel

from audio_tokenizers.acoustic.encodec import EncodecTokenizer, fold_weight_norm
from audio_tokenizers.acoustic.encodec_checkpoints import load_encodec

MakeEncodec = Callable[..., EncodecModel]
SaveEncodec = Callable[..., Path]


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
    make_encodec: MakeEncodec,
    save_encodec: SaveEncodec,
    tmp_path: Path,
    kind: str,
    layout: str,
    spelling: str,
) -> None:
    model = make_encodec(kind)
    path = save_encodec(model, tmp_path, layout=layout, spelling=spelling)
    tokenizer = load_encodec(path)
    assert tokenizer.sample_rate == model.config.sampling_rate
    assert tokenizer.num_codebooks == model.config.num_quantizers
    assert_equal_to_transformers(tokenizer, model)
    assert tokenizer.identity == EncodecTokenizer(model).identity


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "num_filters"), [("24k", 32), ("48k", 32), ("32k", 64)])
def test_models_of_full_size_give_the_tokens_and_samples_of_transformers(
    make_encodec: MakeEncodec,
    save_encodec: SaveEncodec,
    tmp_path: Path,
    kind: str,
    num_filters: int,
) -> None:
    model = make_encodec(kind, num_filters=num_filters, hidden_size=128)
    layout = "audiocraft" if kind == "32k" else "original"
    assert_equal_to_transformers(
        load_encodec(save_encodec(model, tmp_path, layout=layout, spelling="old")), model
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
    with pytest.raises(ValueError, match=r"model.safetensors is not a complete safetensors file"):
        load_encodec(tmp_path)


def test_audiocraft_checkpoints_keep_their_own_padding(
    make_encodec: MakeEncodec, save_encodec: SaveEncodec, tmp_path: Path
) -> None:
    samples = torch.randn(1, 1, 2_000)
    tokens = []
    for mode in ("constant", "reflect"):
        model = make_encodec("32k", pad_mode=mode)
        (tmp_path / mode).mkdir()
        tokenizer = load_encodec(
            save_encodec(model, tmp_path / mode, layout="audiocraft", spelling="old")
        )
        assert tokenizer.model.config.pad_mode == mode
        tokens.append(tokenizer.encode(samples))
    assert not torch.equal(*tokens)


def test_an_audiocraft_folder_and_its_training_checkpoint_are_read(
    make_encodec: MakeEncodec, save_encodec: SaveEncodec, tmp_path: Path
) -> None:
    model = make_encodec("32k")
    package = torch.load(save_encodec(model, tmp_path, layout="audiocraft", spelling="old"))
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
    make_encodec: MakeEncodec, save_encodec: SaveEncodec, tmp_path: Path, layout: str, given_by: str
) -> None:
    path = save_encodec(make_encodec("24k"), tmp_path, layout=layout, spelling="old")
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
        r": missing or unexpected weights: \S+\.block\.1\.conv\.bias, extra\.thing; weight shapes "
        rf"that do not match {given_by}: \S+bias_hh_l0 \(\[3\] instead of \[256\]\)\."
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
    with pytest.raises(ValueError, match=r"Refused to read .*weights.th: it is damaged, or holds"):
        load_encodec(file)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(("old", "new", "message"), [
    ("quantizer: rvq", "quantizer: no_quant", "encodec.quantizer=no_quant"),
    ("activation: ELU", "activation: Snake", "seanet.activation=Snake"),
    ("final_activation: null", "final_activation: Tanh", "seanet.decoder.final_activation=Tanh"),
    ("norm: weight_norm", "norm: spectral_norm", "seanet.norm=spectral_norm .* none or weight_no"),
    ("lstm: 2", "lstm: 0", "seanet.lstm=0 in the settings of .*; expected at least one"),
    ("bins: 2048", "bins: 400", "Unsupported rvq.bins=400 in the settings of .*a power of 2"),
    ("encoder: {}", "encoder: {norm: none}", "seanet.encoder.norm=none .*; expected no override"),
    ("trim_right_ratio: 1.0", "lstm: 1", "seanet.decoder.lstm=1 in .*; expected no override"),
    ("pad_mode: reflect", "pad_mode: [1]", "Unsupported seanet.pad_mode=.*expected constant"),
    ("  n_filters: 4\n", "", "Found no seanet.n_filters in the settings"),
])  # fmt: skip
def test_settings_that_are_not_those_of_encodec_are_refused(
    make_encodec: MakeEncodec,
    save_encodec: SaveEncodec,
    tmp_path: Path,
    old: str,
    new: str,
    message: str,
) -> None:
    file = save_encodec(make_encodec("32k"), tmp_path, layout="audiocraft", spelling="old")
    package = torch.load(file)
    assert old in package["xp.cfg"]
    package["xp.cfg"] = package["xp.cfg"].replace(old, new)
    torch.save(package, file)
    with pytest.raises(ValueError, match=message):
        load_encodec(file)


def test_a_config_that_transformers_rejects_is_refused_in_one_sentence(
    make_encodec: MakeEncodec, tmp_path: Path
) -> None:
    make_encodec("24k").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"weight_norm"', '"spectral_norm"'))
    with pytest.raises(ValueError, match=r"The settings of .*config.json.*norm_type must be one"):
        load_encodec(tmp_path)


@pytest.mark.parametrize(
    ("sample_rate", "ratios", "num_codebooks", "bits"),
    [
        (44_100, [8, 5, 4, 4], 4, 10),
        (44_100, [8, 4, 4, 4], 4, 10),
        (22_050, [8, 5, 4, 2], 4, 10),
        (24_000, [8, 5, 4, 2], 31, 7),
    ],
)
def test_audiocraft_codecs_of_any_frame_rate_keep_all_codebooks(
    make_encodec: MakeEncodec,
    save_encodec: SaveEncodec,
    tmp_path: Path,
    sample_rate: int,
    ratios: list[int],
    num_codebooks: int,
    bits: int,
) -> None:
    frame_rate = -(-sample_rate // math.prod(ratios))
    model = make_encodec(
        "24k",
        sampling_rate=sample_rate,
        upsampling_ratios=ratios,
        codebook_size=2**bits,
        target_bandwidths=[(num_codebooks + 0.5) * frame_rate * bits / 1000],
    )
    assert model.config.num_quantizers == num_codebooks
    file = save_encodec(model, tmp_path, layout="audiocraft", spelling="old")
    tokenizer = load_encodec(file)
    assert tokenizer.num_codebooks == num_codebooks
    assert_equal_to_transformers(tokenizer, model)


@pytest.mark.parametrize("text", ["seanet: [1, 2", "a: b: c", 3, None])
def test_settings_that_are_no_yaml_are_refused(
    make_encodec: MakeEncodec, save_encodec: SaveEncodec, tmp_path: Path, text: object
) -> None:
    file = save_encodec(make_encodec("32k"), tmp_path, layout="audiocraft", spelling="old")
    torch.save(torch.load(file) | {"xp.cfg": text}, file)
    with pytest.raises(ValueError, match=r"The xp.cfg in .*weights.bin is not YAML; download"):
        load_encodec(file)


def test_other_files_and_folders_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing.th does not exist; check the path"):
        load_encodec(tmp_path / "nothing.th")
    with pytest.raises(ValueError, match=r"expected config.json or compression_state_dict.bin"):
        load_encodec(tmp_path)

    (tmp_path / "torn.th").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match=r"Could not read .*torn.th: not a complete PyTorch"):
        load_encodec(tmp_path / "torn.th")
    torch.save({"linear.weight": torch.zeros(1)}, tmp_path / "other.th")
    with pytest.raises(ValueError, match=r"not an EnCodec checkpoint .* like linear.weight"):
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
