"""A server with a judge: each clip has a score, and the best is that of `best_of`."""

from dataclasses import replace

import pytest
from torch import Tensor

from lm_audio.generation.request import make_requests
from lm_audio.generation.takes import best_of
from lm_audio.pipeline import AudioPipeline
from lm_audio.server.engine import Engine
from tests.lm_audio.server.conftest import Served, running
from tests.lm_audio.server.test_events import EVENTS, GENERATIONS, events_of

STORY = [(0.0, "a dog"), (0.1, "rain")]


class EnergyJudge:
    """The energy, in favour of rain."""

    def score(self, samples: Tensor, sample_rate: int, text: str) -> float:
        return float(samples.square().sum()) / sample_rate * (2 if text == "rain" else 1)


@pytest.fixture(scope="module")
def judging(model: AudioPipeline) -> AudioPipeline:
    return AudioPipeline(replace(model.model, judge=EnergyJudge()))


def test_scores_rank_takes_as_best_of_does(judging: AudioPipeline, shared: Served) -> None:
    with running(Engine(judging)) as served:
        for given in ({"prompt": "rain"}, {"story": STORY}):
            body = {**given, "duration": 0.3, "seed": 3, "n": 3}
            data = served.client.post(GENERATIONS, json=body).json()["data"]
            prompt = next(iter(given.values()))
            seeds = range(3, 6)
            clips = [judging.generate(prompt, duration=0.3, seed=seed) for seed in seeds]
            requests = make_requests(prompt, duration=0.3, seed=3, sample_rate=judging.sample_rate)
            (best,) = best_of(clips, requests, EnergyJudge())
            assert max(data, key=lambda clip: clip["score"])["seed"] == best.seed
            events = events_of(served.client.post(GENERATIONS, json={**body, **EVENTS}))
            done = {event["seed"]: event for event in events if event["type"] == "audio.done"}
            assert {clip["seed"]: clip["score"] for clip in data} == {
                seed: event["score"] for seed, event in done.items()
            }
        plain = {"duration": 0.2, "seed": 3}
        (clip,) = served.client.post(GENERATIONS, json=plain).json()["data"]
        assert clip["score"] is None  # no prompt to fit
        assert "best of" in served.client.get("/v1/models").json()["data"][0]["abilities"]
    (clip,) = shared.client.post(GENERATIONS, json=plain | {"prompt": "rain"}).json()["data"]
    assert clip["score"] is None  # no judge
    assert "best of" not in shared.client.get("/v1/models").json()["data"][0]["abilities"]
