"""Loading: every format by what it holds, from a folder, the package or the hub."""

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants, file_download

import lm_audio
from audio_tokenizers.acoustic.registry import load_codec
from audio_tokenizers.semantic.features import load_features
from lm_audio import pretrained
from lm_audio.loading import find_checkpoint, find_device, load
from lm_audio.pipeline import AudioPipeline

GREEDY = lm_audio.Sampling(temperature=0.0)


def tokens(model: AudioPipeline, **request: Any) -> torch.Tensor:
    return model.generate("a dog", **{"duration": 0.4, "seed": 7} | request).tokens


@pytest.fixture(scope="module")
def own_folder(musicgen_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "model"
    load(musicgen_folder, device="cpu").save(folder)
    return folder


def test_all_layouts_of_the_same_weights_make_the_same_tokens(
    musicgen_folder: Path, audiocraft_folder: Path, own_folder: Path
) -> None:
    folders = {"musicgen": musicgen_folder, "audiocraft": audiocraft_folder, "lm-audio": own_folder}
    found = {}
    for kind, folder in folders.items():
        assert find_checkpoint(folder).format == kind
        found[kind] = tokens(load(folder, device="cpu"))
    assert found["musicgen"].unique().numel() > 10
    assert torch.equal(found["audiocraft"], found["musicgen"])
    assert torch.equal(found["lm-audio"], found["musicgen"])


def test_a_stereo_model_makes_stereo(stereo_musicgen_folder: Path) -> None:
    clip = load(stereo_musicgen_folder).generate("a dog", duration=0.1, seed=1)
    assert clip.samples.shape == (2, 3_200)
    assert not torch.equal(*clip.samples)


def test_files_are_told_by_what_they_hold_not_by_their_names(
    make_musicgen: Callable[..., Any],
    save_audiocraft: Callable[..., Path],
    audiocraft_folder: Path,
    tmp_path: Path,
) -> None:
    save_audiocraft(make_musicgen(), tmp_path / "bark", names=("codec.bin", "semantic.pt"))
    assert torch.equal(tokens(load(tmp_path / "bark")), tokens(load(audiocraft_folder)))


def test_a_text_encoder_can_be_given_to_files_that_lack_it(
    audiocraft_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(audiocraft_folder, tmp_path / "model")
    (tmp_path / "model/t5").rename(tmp_path / "elsewhere")
    model = load(tmp_path / "model", text_encoder=tmp_path / "elsewhere")
    assert torch.equal(tokens(model), tokens(load(audiocraft_folder)))


def test_the_language_model_has_the_dtype_asked_for_and_the_codec_stays_exact(
    musicgen_folder: Path,
) -> None:
    model = load(musicgen_folder, dtype="bfloat16")
    layers = model.stages["acoustic"].model.modules()
    weights = [layer.weight for layer in layers if isinstance(layer, torch.nn.Linear)]
    assert {weight.dtype for weight in weights} == {torch.bfloat16}
    assert model.generate("a dog", duration=0.1, seed=1).samples.dtype == torch.float32


def test_long_clips_keep_two_fifths_of_a_window(musicgen_folder: Path) -> None:
    stage = load(musicgen_folder).stages["acoustic"]
    assert (stage.window_frames, stage.overlap_frames) == (1500, 600)


def test_the_licence_on_the_model_card_is_known(musicgen_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(musicgen_folder, tmp_path / "model")
    assert load(tmp_path / "model").card.licence is None
    (tmp_path / "model/README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# A model\n")
    assert load(tmp_path / "model").card.licence == "cc-by-nc-4.0"


def test_without_a_name_the_model_in_the_package_is_loaded(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "DEFAULT_FOLDER", own_folder)
    assert load().sample_rate == 32_000


def test_without_a_model_in_the_package_a_name_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "DEFAULT_FOLDER", tmp_path)
    assert {model.place for model in lm_audio.models()} == {"hub"}
    for source in (None, "default"):
        with pytest.raises(ValueError, match=r"has no bundled model.*lm_audio.models\(\)"):
            load(source)


def test_what_has_no_effect_is_refused(musicgen_folder: Path) -> None:
    with pytest.raises(ValueError, match="text_encoder has no effect"):
        load(musicgen_folder, text_encoder="t5-base")


@pytest.mark.parametrize("dtype", ["int4", "float64"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match=f"Unknown dtype '{dtype}'.*bfloat16, float16, int8"):
        load("musicgen-small", dtype=dtype)


def test_weights_are_packed_for_decoding_and_saved_as_they_were(
    own_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(own_folder, device="cpu")
    (stage,) = model.stages.values()
    assert stage.model.heads.packed
    model.save(tmp_path / "again")
    for path in own_folder.rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(own_folder)).read_bytes()
    monkeypatch.setattr("lm_audio.loading.pack", lambda *_: None)
    assert torch.equal(tokens(load(own_folder, device="cpu")), tokens(model))


def test_int8_is_near_and_repeats_itself_in_any_batch(own_folder: Path, tmp_path: Path) -> None:
    model = load(own_folder, device="cpu", dtype="int8")
    alone = tokens(model)
    batch = model.generate(["rain", "a dog", "wind"], duration=[0.2, 0.4, 0.3], seed=[1, 7, 3])
    assert torch.equal(batch[1].tokens, alone)
    with pytest.raises(ValueError, match="Load it as float32"):
        model.save(tmp_path / "rounded")
    assert not (tmp_path / "rounded").exists()


def test_int8_is_refused_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_audio.loading.find_device", lambda _: "cuda:0")
    with pytest.raises(ValueError, match="int8 runs on the CPU only, not on cuda:0"):
        load("musicgen-small", device="cuda:0", dtype="int8")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_devices_that_cannot_be_used_are_refused(device: str) -> None:
    with pytest.raises(
        ValueError, match=f"Device '{device}' is not available here. Available: cpu"
    ):
        find_device(device)


def test_the_device_is_found_when_not_given() -> None:
    assert find_device() == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_name_that_is_nearly_right_is_mended() -> None:
    with pytest.raises(ValueError, match="Did you mean musicgen-small"):
        load("musicgen-smal")
    with pytest.raises(ValueError, match=r"Known names: .*audiogen-medium, musicgen-small"):
        load("nothing")


@pytest.mark.parametrize("source", ["/no/folder", "./no", "../no", "~/no", "runs/no", "there/no"])
def test_a_path_is_never_a_name_on_the_hub(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("audio_tokenizers.hub.is_reachable", lambda: pytest.fail("asked the hub"))
    for read in (load, load_codec, load_features):
        with pytest.raises(ValueError, match=f"No such (file or )?folder: {source}"):
            read(source)


def test_an_unreachable_hub_is_given_up_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:  # accepts, never answers
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        start = time.monotonic()
        for read in (load, load_codec, load_features):
            with pytest.raises(ValueError, match="hub is not reachable"):
                read("owner/name")
        assert time.monotonic() - start < 8  # the hub is asked once for all
        assert not constants.HF_HUB_OFFLINE


def test_a_file_in_the_place_of_a_folder_is_refused(audiocraft_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"is a file; give the folder"):
        load(audiocraft_folder / "state_dict.bin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model_type": "enco', "is not valid JSON"),
        ('["musicgen"]', "has no model_type"),
        ('{"model_type": "encodec"}', "type encodec, which is not supported"),
        ('{"model_type": "musicgen_style"}', "type musicgen_style, which is not supported"),
    ],
)
def test_a_config_of_something_else_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    torch.save({"best_state": 1}, tmp_path / "state_dict.bin")
    with pytest.raises(ValueError, match=r"Found no model in .*expected the files of an"):
        load(tmp_path)


class Hub(BaseHTTPRequestHandler):
    """A hub with what lies in a folder: owner/name/file, or an error for all of an owner.

    It refuses even to list "gated", and the files of "locked".
    """

    folder: Path
    asked: list[str]

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts == [""]:  # a look at whether the hub answers
            self._send(b"")
            return
        if parts[0] == "api":
            self._list("/".join(parts[2:4]), tree="tree" in parts)
            return
        if parts[0] == "locked":
            self._refuse(401, "GatedRepo")
            return
        name = "/".join(parts[4:])
        self._send((self.folder / parts[0] / parts[1] / name).read_bytes(), name)

    do_HEAD = do_GET  # noqa: N815 - names that the server looks for

    def log_message(self, *_: object) -> None:
        pass

    def _list(self, repository: str, *, tree: bool) -> None:
        found = self.folder / repository
        if repository.startswith("gated/"):
            self._refuse(403, "GatedRepo")
        elif not found.is_dir():
            self._refuse(404, "RepoNotFound")
        else:
            names = [p.relative_to(found).as_posix() for p in found.rglob("*") if p.is_file()]
            entries = [
                {"type": "file", "path": n, "size": (found / n).stat().st_size, "oid": "0" * 40}
                for n in names
            ]
            about = {
                "id": repository, "sha": "a" * 40, "siblings": [{"rfilename": n} for n in names],
            }  # fmt: skip
            self._send(json.dumps(entries if tree else about).encode())

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: bytes, name: str | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        if name is not None:
            self.send_header("ETag", f'"{abs(hash(content)):x}"')
            self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
            if name is not None:
                self.asked.append(name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("Hub", (Hub,), {"folder": tmp_path / "hub", "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    for module in (constants, file_download):  # some versions keep a copy in the latter
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield handler
    server.shutdown()
    server.server_close()


def test_a_model_comes_from_the_hub_without_what_it_does_not_need(
    hub: type[Hub], musicgen_folder: Path
) -> None:
    published = hub.folder / "owner/name"
    shutil.copytree(musicgen_folder, published)
    for name in ("pytorch_model.bin", "state_dict.bin", "sample.wav"):
        (published / name).write_bytes(b"not needed")
    model = load("owner/name")
    assert torch.equal(tokens(model), tokens(load(musicgen_folder)))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(hub.asked)
    assert not {"pytorch_model.bin", "state_dict.bin", "sample.wav"} & set(hub.asked)


def test_weights_of_the_older_kind_come_where_there_are_no_others(
    hub: type[Hub], make_musicgen: Callable[..., Any], musicgen_folder: Path
) -> None:
    published = hub.folder / "owner/name"
    shutil.copytree(musicgen_folder, published)
    (published / "model.safetensors").unlink()
    torch.save(make_musicgen().state_dict(), published / "pytorch_model.bin")
    assert torch.equal(tokens(load("owner/name")), tokens(load(musicgen_folder)))


def test_files_are_chosen_by_the_settings_of_stable_audio_tools(hub: type[Hub]) -> None:
    published = hub.folder / "owner/name"
    published.mkdir(parents=True)
    (published / "model_config.json").write_text('{"model_type": "diffusion_cond"}')
    for name in ("model.safetensors", "model.ckpt", "base_model.safetensors", "state_dict.bin"):
        (published / name).write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"model_config\.json has no model"):
        load("owner/name")
    assert set(hub.asked) == {"model_config.json", "model.safetensors"}


def test_what_the_hub_cannot_give_is_told_in_one_sentence(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.folder.mkdir()
    with pytest.raises(ValueError, match="No model named 'owner/nothing'"):
        load("owner/nothing")
    with pytest.raises(ValueError, match=r"is gated. Accept its conditions at .*gated/model"):
        load("gated/model")
    listed = hub.folder / "locked/model"  # as for users who are not logged in
    listed.mkdir(parents=True)
    (listed / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is gated. Accept its conditions at .*locked/model.*log"):
        load("locked/model")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    with pytest.raises(ValueError, match=r"the hub is not reachable\. Check your connection"):
        load("musicgen-small")


def test_a_cache_that_cannot_be_written_is_told_apart_from_a_hub_that_does_not_answer(
    hub: type[Hub], musicgen_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(musicgen_folder, hub.folder / "owner/name")
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        load("owner/name")


def test_a_codec_on_the_hub_is_refused_before_its_weights_are_fetched(hub: type[Hub]) -> None:
    published = hub.folder / "owner/codec"
    published.mkdir(parents=True)
    (published / "config.json").write_text('{"model_type": "encodec"}')
    (published / "model.safetensors").write_bytes(b"large")
    with pytest.raises(ValueError, match="is a model of type encodec"):
        load("owner/codec")
    assert hub.asked == ["config.json"]


def test_transformers_names_do_the_same(model_folder: Path) -> None:
    model = lm_audio.AudioPipeline.from_pretrained(model_folder, device="cpu")
    expected = lm_audio.load(model_folder, device="cpu")
    clips = [one.generate("rain", duration=0.1, seed=1) for one in (model, expected)]
    assert torch.equal(clips[0].samples, clips[1].samples)
    with pytest.raises(ValueError, match="Unknown dtype 'int4'"):
        lm_audio.AudioPipeline.from_pretrained(model_folder, dtype="int4")
    assert lm_audio.AudioPipeline.push is lm_audio.AudioPipeline.push_to_hub


def test_a_pipeline_shows_its_stages_rate_and_device() -> None:
    assert repr(lm_audio.load(device="cpu")) == (
        "AudioPipeline(lm-audio default: semantic (5.85 M parameters), acoustic (10.6 M "
        "parameters); 24000 Hz mono; float32 on cpu)"
    )
