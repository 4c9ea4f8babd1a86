import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans

from audio_tokenizers.semantic.kmeans_pickle import read_kmeans_pickle


def fitted(*, kind: type = MiniBatchKMeans, dtype: str = "f4", **settings: Any) -> Any:
    rows = np.random.default_rng(0).normal(size=(200, 5)).astype(dtype)
    return kind(n_clusters=7, n_init=1, **settings).fit(rows)


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3)])
@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_centroids_are_those_that_were_pickled(
    tmp_path: Path, compress: Any, kind: type, dtype: str
) -> None:
    model = fitted(kind=kind, dtype=dtype, random_state=np.random.RandomState(0))
    joblib.dump(model, tmp_path / "km.bin", compress=compress)
    found = read_kmeans_pickle(tmp_path / "km.bin")
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), model.cluster_centers_.astype("f4"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_and_array_layout_is_read(tmp_path: Path, protocol: int) -> None:
    model = fitted(random_state=0)
    for change in (np.asfortranarray, lambda x: x.astype(">f4"), lambda x: x[::2]):
        model.cluster_centers_ = change(model.cluster_centers_)
        joblib.dump(model, tmp_path / "km.bin", protocol=protocol)
        found = read_kmeans_pickle(tmp_path / "km.bin")
        assert np.array_equal(found.numpy(), model.cluster_centers_)


def test_arrays_without_alignment_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As joblib before 1.2 wrote them, which is what fairseq's files are."""
    from joblib.numpy_pickle import NumpyArrayWrapper

    plain = NumpyArrayWrapper.__init__

    def without(self: Any, *args: Any, **settings: Any) -> None:
        plain(self, *args, **settings)
        del self.numpy_array_alignment_bytes

    monkeypatch.setattr(NumpyArrayWrapper, "__init__", without)
    model = fitted(random_state=np.random.RandomState(0))
    joblib.dump(model, tmp_path / "km.bin")
    assert b"alignment_bytes" not in (tmp_path / "km.bin").read_bytes()
    found = read_kmeans_pickle(tmp_path / "km.bin")
    assert np.array_equal(found.numpy(), model.cluster_centers_)


class Call:
    """Pickled as a call of any function; unpickled, the call is made."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def test_code_in_a_pickle_is_refused_and_never_runs(tmp_path: Path) -> None:
    command = f"touch {tmp_path / 'ran'}"
    model = fitted()
    attacks = [
        Call(os.system, command),
        Call(eval, f"__import__('os').system({command!r})"),
        Call(exec, f"import os; os.system({command!r})"),
        {"cluster_centers_": Call(os.system, command)},
    ]
    for attack in attacks:
        model.verbose = attack
        for obj in (attack, model):
            joblib.dump(obj, tmp_path / "km.bin")
            with pytest.raises(ValueError, match="which could run code; expected only a k-means"):
                read_kmeans_pickle(tmp_path / "km.bin")
    assert not (tmp_path / "ran").exists()
    joblib.load(tmp_path / "km.bin")  # the attack is real
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "stream",
    [
        b"\x80\x02cnumpy\ndtype\nN}X\x08\x00\x00\x00__init__K\x01s\x86b.",  # BUILD on a class
        b"\x80\x02}}b.",  # BUILD on a dict
        b"\x80\x02csklearn.cluster._kmeans\nKMeans\n)\x81K\x01\x85b.",  # a state that is no dict
        b"\x80\x02\x82\x01.",  # an extension
        b"\x80\x04\x8c\x05numpy\x8c\x0bdtype.mro_\x93.",  # a dotted name
        b"ios\nsystem\n.",  # INST
        b"Pxyz\n.",  # a persistent id
        b"\x80\x02X\x01\x00\x00\x00a)R.",  # a call of a string
        b"\x80\x02cnumpy\ndtype\n)R}K\x01e.",  # list items into an object
    ],
)
def test_crafted_streams_are_refused(tmp_path: Path, stream: bytes) -> None:
    (tmp_path / "km.bin").write_bytes(stream)
    with pytest.raises(ValueError, match=r"km\.bin"):
        read_kmeans_pickle(tmp_path / "km.bin")
    test_every_pickle_protocol_and_array_layout_is_read(tmp_path, 4)


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    model = fitted()
    model.cluster_centers_ = np.array(
        [[Call(os.system, f"touch {tmp_path / 'ran'}")]], dtype=object
    )
    joblib.dump(model, tmp_path / "km.bin")
    with pytest.raises(ValueError, match="an array of type O8, not of numbers"):
        read_kmeans_pickle(tmp_path / "km.bin")
    assert not (tmp_path / "ran").exists()


def test_other_objects_and_unfitted_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "km.bin"
    with pytest.raises(ValueError, match="does not exist; check the path"):
        read_kmeans_pickle(path)
    joblib.dump({"cluster_centers_": np.zeros((2, 2))}, path)
    with pytest.raises(ValueError, match="has no k-means"):
        read_kmeans_pickle(path)
    joblib.dump(KMeans(), path)
    with pytest.raises(ValueError, match="without centroids; expected a fitted one"):
        read_kmeans_pickle(path)
    model = fitted()
    model.cluster_centers_[0, 0] = np.nan
    joblib.dump(model, path)
    with pytest.raises(ValueError, match="NaN or infinite centroids"):
        read_kmeans_pickle(path)
    path.write_bytes(pickle.dumps(fitted()))  # arrays by numpy's own pickling, not by joblib's
    with pytest.raises(ValueError, match=r"uses numpy\._core\.multiarray\._reconstruct"):
        read_kmeans_pickle(path)


@pytest.mark.parametrize("compress", [0, 3])
def test_truncated_and_foreign_files_are_refused(tmp_path: Path, compress: int) -> None:
    path = tmp_path / "km.bin"
    joblib.dump(fitted(), path, compress=compress)
    data = path.read_bytes()
    for end in (0, 1, 2, len(data) // 3, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"truncated|damaged"):
            read_kmeans_pickle(path)
    for foreign in (b"RIFF\x24\x00\x00\x00WAVEfmt ", b"xyz", zlib.compress(b"text")):
        path.write_bytes(foreign)
        with pytest.raises(ValueError, match="damaged"):
            read_kmeans_pickle(path)


def test_a_spoilt_byte_anywhere_gives_centroids_or_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "km.bin"
    joblib.dump(fitted(random_state=np.random.RandomState(0)), path)
    data, random = bytearray(path.read_bytes()), np.random.default_rng(0)
    refused = 0
    for place in random.integers(0, len(data), 200):
        spoilt = bytearray(data)
        spoilt[place] = random.integers(256)
        path.write_bytes(spoilt)
        try:
            read_kmeans_pickle(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017  either way is right
            refused += 1
    assert refused > 25
