"""Requests generated from the OpenAPI document, valid and invalid, get documented responses."""

import io
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from audio_tokenizers.audio_writer import write_audio

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]


def wav() -> bytes:
    file = io.BytesIO()
    write_audio(file, 0.1 * torch.ones(1, 8_000), 8_000, format="wav")
    return file.getvalue()


ROUTES = [
    ("POST", "/v1/audio/speech"), ("POST", "/v1/audio/generate"),
    ("POST", "/v1/audio/generations"),
    ("POST", "/v1/audio/continuations"), ("POST", "/v1/audio/inpaintings"),
    ("POST", "/v1/audio/conversions"),
]  # fmt: skip
EACH = 40  # valid requests per route, and as many invalid ones
SHORT = {"model": "tiny", "duration": 0.05, "conditions": {}, "sampling": {}, "negative": "a dog"}
KNOWN = {
    "/v1/audio/speech": {**SHORT, "input": "rain", "response_format": "wav"},
    "/v1/audio/generate": {
        "input": "rain", "model": "tiny", "audio_length": 0.05, "negative_prompt": "a dog",
        "guidance_scale": 2.0, "response_format": "wav",
    },
    "/v1/audio/generations": {
        **SHORT, "prompt": "rain", "story": None, "blend": None, "loop": False, "stream": False,
        "stream_format": None,
        "response_format": "flac",
    },
    "/v1/audio/continuations": {"file": wav(), "settings": '{"duration": 0.05}'},
    "/v1/audio/conversions": {"file": wav(), "settings": "{}"},
    "/v1/audio/inpaintings": {"file": wav(), "settings": '{"start": 0.1, "end": 0.2}'},
}  # fmt: skip
"""Constraints that the document cannot express, so that valid requests return audio."""
some = settings(
    max_examples=EACH,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


@pytest.fixture(scope="module")
def document(brief: Any) -> Any:
    return openapi.from_url(f"{brief.url}/openapi.json")


def test_it_lists_all_routes(document: Any) -> None:
    status = {"/health", "/ready", "/metrics", "/v1/audio/voices"}
    status |= {"/v1/models", "/v1/models/{name}"}
    status |= {"/v1/audio/variations"}  # test_diffusion.py: not for models of tokens
    status |= {"/v1/audio/melodies"}  # test_melody.py: only for models that take one
    assert set(document) == status | {path for _, path in ROUTES}


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_generated_requests_get_documented_responses(
    document: Any, method: str, path: str, mode: GenerationMode
) -> None:
    @some
    @given(case=document[path][method].as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        is_valid = mode == GenerationMode.POSITIVE
        if is_valid:
            case.body |= KNOWN[path]
            if (case.body.get("seed") or 0) >= 2**63:  # the limit, rounded as a float
                case.body["seed"] = 2**63 - 1
        answer = case.call_and_validate(checks=CHECKS)
        assert (answer.status_code == 200) == is_valid, answer.text
        if not is_valid:
            error = answer.json()["error"]
            assert "\n" not in error["message"]
            assert error["type"] == "invalid_request_error"

    ask()
