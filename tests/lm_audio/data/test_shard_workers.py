"""Shards are the same to the byte however many workers make them, and on Ray."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from audio_tokenizers.audio_files import audio_info
from audio_tokenizers.audio_writer import write_audio
from lm_audio.data.manifest import make_cut, write_cuts
from lm_audio.data.shard_jobs import Job, plan_jobs
from lm_audio.data.shard_workers import make_shards, make_shards_on_ray
from lm_audio.data.tokenizing import TokenizingConfig


@pytest.fixture
def config(codec_folder: Path) -> TokenizingConfig:
    return TokenizingConfig(codec=str(codec_folder), num_mixed=1, examples_per_shard=2)


@pytest.fixture
def jobs(tmp_path: Path, config: TokenizingConfig) -> list[Job]:
    cuts = []
    for number in range(6):
        path = tmp_path / "corpus" / f"{number}.wav"
        noise = np.random.default_rng(number).normal(0, 0.1, (1, 3_000 + 500 * number))
        write_audio(path, torch.from_numpy(noise).float(), 8_000)
        cuts.append(make_cut(f"{number}", path, info=audio_info(path), conditions={"text": "hiss"}))
    (tmp_path / "corpus" / "3.wav").write_bytes(b"")
    write_cuts(tmp_path / "corpus", cuts)
    return plan_jobs(tmp_path / "corpus", config)


def bytes_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_two_processes_make_the_same_shards_as_one(
    tmp_path: Path, jobs: list[Job], config: TokenizingConfig
) -> None:
    torch.set_num_threads(2)
    one, two = (
        list(make_shards(jobs, tmp_path / f"{n}", config=config, num_workers=n)) for n in (1, 2)
    )
    assert torch.get_num_threads() == 2
    assert {id(job): report for job, report in one} == {id(job): report for job, report in two}
    assert len(one) == len(jobs) == 4
    assert bytes_of(tmp_path / "1") == bytes_of(tmp_path / "2")
    assert len(bytes_of(tmp_path / "1")) == 8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_ray_makes_the_same_shards(
    tmp_path: Path, jobs: list[Job], config: TokenizingConfig
) -> None:
    import ray

    list(make_shards(jobs, tmp_path / "one", config=config, num_workers=1))
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        made = list(make_shards_on_ray(jobs, tmp_path / "ray", config=config))
    finally:
        ray.shutdown()
    assert {id(job) for job, _ in made} == {id(job) for job in jobs}
    assert sum(len(report.skipped) for _, report in made) == 1
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "one")


def test_ray_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: TokenizingConfig
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs Ray. Install it with: pip install 'lm-audio\[cl"):
        list(make_shards_on_ray([], tmp_path, config=config))
