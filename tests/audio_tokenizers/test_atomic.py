"""Files appear whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from audio_tokenizers.atomic import replacing


def test_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "clip.wav"

    with replacing(path) as temporary:
        temporary.write_text("sound")
        assert not path.exists()

    assert path.read_text() == "sound"
    assert list(path.parent.iterdir()) == [path]


def test_temporary_file_is_beside_it_with_its_suffix(tmp_path: Path) -> None:
    with replacing(str(tmp_path / "clip.tar.gz")) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".gz"
        assert temporary.name.startswith(".")


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_error_leaves_nothing(tmp_path: Path, kind: type[BaseException]) -> None:
    def fail() -> None:
        with replacing(tmp_path / "clip.wav") as temporary:
            temporary.write_text("half")
            raise kind("stop")

    with pytest.raises(kind, match="stop"):
        fail()

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_its_writer_made_private_is_not(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.bin") as temporary:
        temporary.unlink()
        temporary.write_text("new")
        temporary.chmod(0o600)

    (tmp_path / "b.bin").write_text("as usual")
    modes = [(tmp_path / name).stat().st_mode for name in ("a.bin", "b.bin")]
    assert modes[0] == modes[1]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target.wav").write_text("old")
    (tmp_path / "link.wav").symlink_to(tmp_path / "target.wav")

    with replacing(tmp_path / "link.wav") as temporary:
        temporary.write_text("new")

    assert (tmp_path / "link.wav").is_symlink()
    assert (tmp_path / "target.wav").read_text() == "new"


@pytest.mark.parametrize("path", ["/dev/null", "."])
def test_what_is_not_a_file_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"is not a regular file"), replacing(path):
        pass


def test_error_leaves_the_old_file_intact(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_text("old")

    with replacing(path) as temporary:
        temporary.write_text("new")

    assert path.read_text() == "new"


def test_last_of_two_writers_wins(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"

    with replacing(path) as first:
        with replacing(path) as second:
            second.write_text("second")
        first.write_text("first")

    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "replaced") as temporary:
            temporary.write_text("x")
        (tmp_path / "plain").write_text("x")
        assert os.umask(umask) == umask  # and it is left as it was
    finally:
        os.umask(before)

    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("replaced", "plain")]
    assert modes[0] == modes[1] == 0o666 & ~umask
