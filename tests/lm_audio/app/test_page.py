"""The files of the page and how they are served; what the page does is tested in a browser."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from lm_audio.app.page import PATH, STATIC, add_page
from tests.lm_audio.answering import answering

MOST_BYTES = 400_000
MOST_LINES = 400
VENDORED = {
    "hover.esm.js": ("9283029beeced107abb6a955c53e8ed7e2036c3de23020ccd90470303722b9dc"),
    "regions.esm.js": ("f3b9a81f56d0301affbeb5693dc9c43527efd6e97e534f17329192a7ce7fc4d4"),
    "wavesurfer.LICENSE": ("0fc992dc27cc34dde78bfeb024b4cadff6320f0dcbee2f1228efaeb533ca1364"),
    "wavesurfer.esm.js": ("079f3b142f37737f975b03ea8fd18652a316dc2120a2629aeca0844a0c08f2b1"),
}
"""Of npm's wavesurfer.js 8.0.1, unchanged."""


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    app = FastAPI()
    add_page(app)
    with answering(app) as address, httpx.Client(base_url=address) as found:
        yield found


def scripts() -> list[Path]:
    return [*STATIC.glob("*.js"), *STATIC.glob("vendor/*.js")]


def test_the_page_forbids_everything_from_elsewhere(client: httpx.Client) -> None:
    answers = [client.get("/") for _ in range(2)]
    policies = [answer.headers["content-security-policy"] for answer in answers]
    nonces = [re.findall(r"'nonce-([\w-]+)'", policy) for policy in policies]
    assert nonces[0] != nonces[1]
    for answer, policy, (nonce,) in zip(answers, policies, nonces, strict=True):
        assert f'content="{nonce}"' in answer.text
        rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
        assert rules["default-src"] == "'none'"
        assert rules["script-src"] == rules["connect-src"] == "'self'"
        assert "http" not in policy
        assert "unsafe" not in policy
        assert "{{" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_file_that_the_page_names_is_served(client: httpx.Client) -> None:
    text = client.get("/").text
    for path in scripts():
        names = re.findall(r"""from "\./([\w./-]+)";""", path.read_text(encoding="utf-8"))
        text += "".join(f'"{PATH}/{name}"' for name in names)
    named = set(re.findall(rf'"({PATH}/[^"]+)"', text))
    assert len(named) > 15
    for name in named:
        answer = client.get(name)
        assert answer.status_code == 200, name
        assert answer.headers["cache-control"] == "no-cache"
    served = {STATIC / name.removeprefix(f"{PATH}/") for name in named}
    assert {path for path in scripts() if path not in served} == set()  # none is left over
    assert client.get(f"{PATH}/../page.py").status_code == 404


def test_the_page_names_no_other_host() -> None:
    for path in [*STATIC.glob("*.*")]:
        hosts = set(re.findall(r"https?://[\w.-]+", path.read_text(encoding="utf-8")))
        assert hosts <= {"http://www.w3.org", "http://127.0.0.1", "http://localhost"}, path.name


def test_vendored_files_are_those_of_npm_with_their_licence() -> None:
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (STATIC / "vendor").iterdir()
    }
    assert found == VENDORED


def test_the_page_is_light_and_its_modules_are_short() -> None:
    files = [path for path in STATIC.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    for path in STATIC.glob("*.js"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES, path.name
