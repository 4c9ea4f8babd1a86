"""A model that takes a melody: clients cannot name a file of the server."""

import json
import shutil
from pathlib import Path

import lm_audio
from lm_audio.server.engine import Engine
from tests.lm_audio.families.audiocraft.test_melody import RATE, SECONDS, WINDOW, make_model
from tests.lm_audio.server.conftest import running


def test_a_path_of_the_server_is_refused(tiny_t5: Path, tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    for file in tiny_t5.glob("tokenizer*.json"):
        shutil.copy(file, tmp_path)
    settings = {"sampling_rate": RATE, "n_fft": WINDOW, "chunk_length": SECONDS}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with running(Engine(lm_audio.load(tmp_path, device="cpu"))) as served:
        body = {"input": "rain", "duration": 0.2, "conditions": {"melody": "/etc/hostname"}}
        answer = served.client.post("/v1/audio/speech", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "This server does not accept melodies."
        assert served.client.post("/v1/audio/speech", json=body | {"conditions": {}}).is_success
