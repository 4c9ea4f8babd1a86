"""What the repository promises about itself: its layout, its dependencies, its documents."""

import importlib
import re
import runpy
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
UNWANTED = {"encodec", "torchaudio", "torchvision", "torchcodec"}


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def installed_closure(names: list[str]) -> set[str]:
    """All packages that an installed package needs, and those that they need, without extras."""
    seen: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            texts = requires(name) or []
        except PackageNotFoundError:
            continue  # needed on another platform only
        wanted = [Requirement(text) for text in texts]
        queue += [w.name for w in wanted if w.marker is None or w.marker.evaluate({"extra": ""})]
    return seen


def test_the_core_needs_no_package_that_brings_cuda() -> None:
    names = [Requirement(text).name for text in project()["dependencies"]]  # type: ignore[attr-defined]
    assert "torch" in names
    assert not installed_closure(names) & UNWANTED


def test_the_core_environment_imports_what_those_packages_break() -> None:
    for name in ("T5EncoderModel", "Wav2Vec2FeatureExtractor", "HubertModel", "MimiModel"):
        assert getattr(importlib.import_module("transformers"), name)


def test_torch_is_capped_at_what_was_tested() -> None:
    torch = next(r for r in map(Requirement, project()["dependencies"]) if r.name == "torch")  # type: ignore[call-overload]
    assert any(specifier.operator == "<" for specifier in torch.specifier)


def test_the_extras_that_the_documents_name_exist() -> None:
    extras = project()["optional-dependencies"]
    assert {"cluster", "data", "dev", "docs", "eval", "fast", "parity", "serve", "train"} <= set(
        extras
    )  # type: ignore[call-overload]


def test_make_run_installs_what_generating_needs_and_make_test_the_rest(tmp_path: Path) -> None:
    def commands(target: str) -> str:
        command = ["make", "--dry-run", target, f"VENV={tmp_path}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "'.[fast]'" in commands("run")
    assert "'.[dev]'" not in commands("run")
    assert "'.[dev]'" in commands("test")
    assert "'.[fast]'" not in commands("test")


def test_make_names_the_python_that_it_needs(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["make", "run", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "lm-audio needs Python 3.11 or newer; choose one with: make PYTHON=" in done.stderr


def test_the_tokenizers_folder_does_not_shadow_the_library_of_that_name() -> None:
    folder = ROOT / "tokenizers"
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["audio_tokenizers"]
    assert not list(folder.glob("*.py"))
    code = "import tokenizers, audio_tokenizers; print(tokenizers.Tokenizer, tokenizers.__file__)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "site-packages" in shown.stdout, shown.stderr


@pytest.mark.slow
def test_the_wheel_holds_both_packages_and_the_weights(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("lm_audio-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "lm_audio/py.typed",
        "audio_tokenizers/protocol.py",
        "audio_tokenizers/py.typed",
        "lm_audio/app/static/index.html",
        "lm_audio/app/static/vendor/wavesurfer.LICENSE",
        "lm_audio/recipes/train_codec.py",
        "lm_audio/recipes/stage_builders/plan.py",
        "lm_audio/recipes/default_model/train.sh",
        "lm_audio/recipes/default_model/corpora/effects/alarms.py",
    } <= names
    assert not [name for name in names if "__pycache__" in name]
    pretrained = (ROOT / "lm_audio/pretrained").rglob("*.*")
    embedded = {p.relative_to(ROOT).as_posix() for p in pretrained if p.suffix != ".pyc"}
    assert "lm_audio/pretrained/codec/model.safetensors" in embedded
    assert embedded <= names
    assert not [name for name in names if name.startswith(("tokenizers/", "tests/"))]


def test_the_package_carries_no_weights_but_those_of_the_default_in_64_megabytes() -> None:
    kinds = {".safetensors", ".bin", ".pt", ".pth", ".th", ".onnx", ".tflite", ".npz", ".npy"}
    files = [f for top in ("lm_audio", "tokenizers") for f in (ROOT / top).rglob("*.*")]
    weights = [file for file in files if file.suffix in kinds]
    assert weights
    assert {file for file in weights if ROOT / "lm_audio/pretrained" not in file.parents} == set()
    assert sum(f.stat().st_size for f in files if "pretrained" in f.parts) <= 64 * 10**6


def test_importing_the_packages_is_quiet_and_changes_no_global_state() -> None:
    code = (
        "import os, random, threading, torch, logging\n"
        "before = (dict(os.environ), torch.initial_seed(), torch.get_num_threads(),\n"
        "          threading.active_count(), logging.getLogger().handlers[:])\n"
        "import lm_audio, lm_audio.cli.verbs, audio_tokenizers.coding\n"
        "import audio_tokenizers.acoustic.frame_codec, audio_tokenizers.acoustic.registry\n"
        "after = (dict(os.environ), torch.initial_seed(), torch.get_num_threads(),\n"
        "         threading.active_count(), logging.getLogger().handlers[:])\n"
        "assert before == after, (before, after)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")


def test_the_public_names_are_pinned() -> None:
    import lm_audio

    names = ["AudioPipeline", "Clip", "Denoising", "Sampling", "Unmasking"]
    names += ["__version__", "load", "models"]
    assert lm_audio.__all__ == names
    assert [name for name in names if not hasattr(lm_audio, name)] == []


def test_importing_the_package_takes_no_torch() -> None:
    code = (
        "import sys, lm_audio\n"
        "lm_audio.models()\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'load' in dir(lm_audio)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("lm_audio/**/*.md")]
    assert len(documents) > 5
    for document in documents:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_index_names_every_document() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    names = [p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")]
    assert [name for name in names if f"]({name})" not in index] == ["README.md"]


def test_the_picture_of_the_architecture_is_that_of_the_code() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "draw_architecture.py"))["picture"]()
    committed = (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8")
    assert committed == drawn, "run python docs/draw_architecture.py"
    ElementTree.fromstring(committed)


def test_the_readme_is_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_stated_python_version_is_the_same() -> None:
    versions = re.findall(r"Python :: (3\.\d+)", " ".join(project()["classifiers"]))  # type: ignore[arg-type]
    assert project()["requires-python"] == f">={versions[0]}"
    assert f"Python {versions[0]} to {versions[-1]}" in (ROOT / "README.md").read_text()
    for name in ("README.md", "docs/install.md", "CONTRIBUTING.md"):
        assert f"Python {versions[0]} or newer" in (ROOT / name).read_text(), name
    minor = versions[0].partition(".")[2]
    assert f"sys.version_info < (3, {minor})" in (ROOT / "Makefile").read_text()


def test_the_changelog_starts_with_what_is_unreleased_and_then_this_version() -> None:
    from lm_audio import __version__

    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", __version__]


FORBIDDEN = ("exam", "gates?", "anew", "whoever", "so many", "is told", "are told")
GENERATED = {"docs/cli.md"}  # from the help texts, which have tests of their own


def test_documents_avoid_unclear_words() -> None:
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/results/*.md")]
    texts += [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "lm_audio/pretrained/README.md"]
    texts += (ROOT / ".ci").iterdir()
    pattern = re.compile(rf"\b({'|'.join(FORBIDDEN)})\b", re.IGNORECASE)
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in texts
        if path.relative_to(ROOT).as_posix() not in GENERATED
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    }
    assert not found
    assert pattern.search("It is no exam.")


def test_files_and_functions_that_are_too_long_fail_the_lint(tmp_path: Path) -> None:
    def check(root: Path) -> tuple[int, list[str]]:
        command = [sys.executable, ROOT / ".ci" / "check_size.py", root]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines()

    assert check(ROOT) == (0, [])
    body = "    pass\n" * 60
    for folder, name in (("lm_audio", "f"), ("recipes", "main"), ("recipes", "f")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.py").write_text(f"def {name}():\n{body}")
    (tmp_path / "lm_audio" / "long.py").write_text("\n" * 501)
    assert check(tmp_path) == (
        1,
        [
            "lm_audio/f.py:1: f has 61 lines, the limit is 60",
            "lm_audio/long.py: 501 lines, the limit is 500",
            "recipes/f.py:1: f has 61 lines, the limit is 60",
        ],
    )
