"""The last few and the best are kept, whole or not there, and strangers are refused by name."""

import resource
from pathlib import Path

import pytest
import torch

from audio_tokenizers.atomic import replacing
from lm_audio.training.checkpoints import (
    Checkpoints,
    check_finite,
    check_identity,
    check_same_settings,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    losses = {100: None, 200: 2.5, 300: None, 400: 1.25, 500: 1.5, 600: None, 700: 2.0}
    for step, loss in losses.items():
        checkpoints.save({"step": step}, step=step, loss=loss)
    assert names(tmp_path) == [
        "step-00000400_1.2500.pt", "step-00000600.pt", "step-00000700_2.0000.pt",
    ]  # fmt: skip
    best, latest = checkpoints.best(), checkpoints.latest()
    assert best is not None
    assert latest is not None
    assert (best.step, best.loss, latest.step) == (400, 1.25, 700)
    assert checkpoints.read(latest) == {"step": 700}
    checkpoints.save({}, step=800, loss=1.0)
    assert [each.step for each in checkpoints.found()] == [700, 800]


def test_of_equally_good_ones_the_latest_is_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    for step in (1, 2, 3):
        checkpoints.save({}, step=step, loss=1.0)
    checkpoints.save({}, step=4, loss=1.5)
    assert [each.step for each in checkpoints.found()] == [3, 4]


def test_what_is_no_worse_than_all_before_is_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.is_best(9.0)
    checkpoints.save({}, step=1, loss=2.0)
    checkpoints.save({}, step=2, loss=3.0)
    losses = (1.5, 2.0, 2.00004, 2.5, float("nan"))
    assert [checkpoints.is_best(loss) for loss in losses] == [True, True, True, False, False]
    assert not Checkpoints(tmp_path / "new").is_best(float("inf"))


def test_losses_below_zero_are_read_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({}, step=1, loss=-0.5)
    assert [each.loss for each in checkpoints.found()] == [-0.5]


def test_a_new_run_has_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "not yet")
    assert checkpoints.latest() is None
    assert checkpoints.best() is None
    assert checkpoints.found() == []


def test_a_half_written_file_is_never_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"step": 1}, step=1)
    save = torch.save

    def stop_half_way(state: object, path: Path) -> None:
        save(state, path)
        path.write_bytes(path.read_bytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop_half_way)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save({"step": 2}, step=2)
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 1
    # Killed, it could not even clean up behind itself.
    (tmp_path / ".step-00000003.pt.tmp").write_bytes(b"half")
    (tmp_path / "step-00000004.pt.partial").write_bytes(b"half")
    assert [each.step for each in checkpoints.found()] == [1]


def test_a_state_that_cannot_be_judged_is_not_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save({}, step=1)
    with pytest.raises(FloatingPointError, match=rf"held-out loss is nan after 2 .*{path.name}"):
        checkpoints.save({}, step=2, loss=float("nan"))
    assert names(tmp_path) == [path.name]


def test_a_run_gone_astray_names_the_last_good_state(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    check_finite(1.0, 2.0, step=0, checkpoints=checkpoints)
    with pytest.raises(FloatingPointError, match=r"nan .* at step 5 \(no earlier checkpoint\)"):
        check_finite(float("nan"), 1.0, step=5, checkpoints=checkpoints)
    path = checkpoints.save({}, step=3)
    with pytest.raises(
        FloatingPointError, match=rf"norm inf at step 5 .*last good checkpoint: .*{path.name}"
    ):
        check_finite(1.0, float("inf"), step=5, checkpoints=checkpoints)


def test_changed_settings_are_refused_by_name(tmp_path: Path) -> None:
    saved = {"steps": 10, "learning_rate": 0.1}
    check_same_settings(saved, dict(saved), path=tmp_path)
    with pytest.raises(ValueError, match=r"learning_rate=0\.1, got 0\.2\. Resume with the"):
        check_same_settings(saved, {**saved, "learning_rate": 0.2}, path=tmp_path)
    with pytest.raises(ValueError, match=r"from another recipe or version, .* 'new'"):
        check_same_settings(saved, {**saved, "new": 3}, path=tmp_path)
    with pytest.raises(ValueError, match=r"from another recipe or version, .* 'steps'"):
        check_same_settings(saved, {"learning_rate": 0.1}, path=tmp_path)


def test_another_tokenizer_is_refused() -> None:
    check_identity("a", "a", option="--codec")
    with pytest.raises(ValueError, match="The data's tokens were made by b, but --codec is a"):
        check_identity("a", "b", option="--codec")


def test_at_least_one_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_last must be at least 1, got 0"):
        Checkpoints(tmp_path, keep_last=0)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"call": print}, step=1)
    latest = checkpoints.latest()
    assert latest is not None
    with pytest.raises(ValueError, match=r"or not a checkpoint. Delete it to resume from the"):
        checkpoints.read(latest)


def test_a_damaged_file_is_to_be_deleted_and_the_one_before_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    first = checkpoints.save({"weight": torch.zeros(1000)}, step=1)
    second = checkpoints.save({"weight": torch.zeros(1000)}, step=2, loss=1.5)
    second.write_bytes(second.read_bytes()[:2000])
    latest = checkpoints.latest()
    assert latest is not None
    with pytest.raises(ValueError, match=rf"{second.name} is damaged.* resume from .*{first.name}"):
        checkpoints.read(latest)
    second.unlink()
    latest = checkpoints.latest()
    assert latest is not None
    assert checkpoints.read(latest)["weight"].shape == (1000,)


def test_what_a_killed_run_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with replacing(tmp_path / "step-00000001_1.5000.pt") as temporary:
        left = temporary.rename(tmp_path / "left")
        temporary.touch()
    (tmp_path / "step-00000001_1.5000.pt").unlink()
    left.rename(temporary)
    path = checkpoints.save({}, step=2)
    assert names(tmp_path) == [path.name]


def test_a_full_disk_leaves_the_last_good_state_and_names_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save({}, step=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=rf"Could not write .*the disk may be full .*{path.name}"):
            checkpoints.save({"weight": torch.zeros(100_000)}, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == [path.name]
