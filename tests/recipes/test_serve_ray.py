"""serve_ray: replicas on a local Ray give the same answers as the server and the pipeline."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

import lm_audio
from audio_tokenizers.wav_stream import pcm16

ROOT = Path(__file__).parents[2]
WAIT = 180.0
GENERATIONS = "/v1/audio/generations"


def test_impossible_replica_counts_are_refused(load_recipe: Callable[[str], ModuleType]) -> None:
    pytest.importorskip("ray.serve")
    recipe = load_recipe("serve_ray")
    with pytest.raises(ValueError, match="at most max_replicas, got 3 and 2"):
        recipe.main(recipe.Config(min_replicas=3, max_replicas=2))


@pytest.fixture
def address() -> Iterator[str]:
    """A server with two replicas and one API key."""
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("ray.serve")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "recipes/serve_ray.py", "--port", str(port)]
    command += ["--min-replicas", "2", "--num-cpus", "0.5"]
    service = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "LM_AUDIO_API_KEYS": "one"})
    try:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        yield url
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(WAIT)


@pytest.mark.slow
def test_replicas_answer_like_the_server(address: str) -> None:
    import httpx

    model = lm_audio.load(device="cpu")
    bodies = [
        {"prompt": "rain", "duration": 0.3, "seed": seed, "stream": True, "response_format": "pcm"}
        for seed in range(6)
    ]
    with httpx.Client(base_url=address, timeout=WAIT) as client:
        assert client.post(GENERATIONS, json=bodies[0]).status_code == 401
        client.headers["authorization"] = "Bearer one"
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda body: client.post(GENERATIONS, json=body), bodies))
        bad = client.post(GENERATIONS, json={"duration": -1})
    for body, answer in zip(bodies, answers, strict=True):
        alone = model.generate("rain", duration=0.3, seed=body["seed"])
        assert answer.content == pcm16(alone.samples)
    assert bad.status_code == 400
    assert bad.json()["error"]["type"] == "invalid_request_error"
