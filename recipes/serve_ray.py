"""Serves a model with Ray Serve: as many replicas of `lm-audio serve` as there are requests for.

    python recipes/serve_ray.py                                        # on this machine, port 8000
    python recipes/serve_ray.py --model audiogen-medium --num-gpus 1 --max-replicas 8

Each replica is an engine with one running batch, as `lm-audio serve` has it, and answers the same
routes with the same sound: docs/serving.md. Ray Serve spreads requests, starts replicas while they
wait and ends those that nobody needs. On a cluster (`ray start`) they run on its machines, which
must all have the model. Keys stand in LM_AUDIO_API_KEYS, apart by commas. /metrics is that of one
replica; Ray has metrics of all. A replica of the model in the package takes 0.6 GB.
"""

import os
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_audio.catalogue import DEFAULT
from lm_audio.cli.recipe import run_recipe

if TYPE_CHECKING:
    from fastapi import FastAPI

KEYS = "LM_AUDIO_API_KEYS"


@dataclass(frozen=True, kw_only=True)
class Config:
    model: str | None = None
    """A folder, a name that `lm-audio models` lists, or a hub id; else the one in the package."""
    dtype: str = "float32"
    name: str | None = None
    """What clients call the model; its own name by default."""
    host: str = "127.0.0.1"
    port: int = 8000
    min_replicas: int = 1
    max_replicas: int = 4
    max_at_once: int = 8
    """Clips in the running batch of a replica; with more on average, another one starts."""
    max_waiting: int = 64
    """For each replica; more than these are told to ask later."""
    num_cpus: float = 1
    """Of each replica."""
    num_gpus: float = 0
    max_duration: float = 120.0
    """Seconds of new sound in a request."""
    timeout: float = 300.0
    """Seconds that a request may take."""


def main(config: Config) -> None:
    """Serves until it is interrupted."""
    try:
        from ray import serve
    except ImportError as error:
        raise ValueError(
            f"Ray Serve is not here ({error}); install it with: pip install 'lm-audio[cluster]'."
        ) from error
    if not 1 <= config.min_replicas <= config.max_replicas:
        raise ValueError(
            f"Got {config.min_replicas} to {config.max_replicas} replicas; give at least 1, and no "
            "more than the most."
        )
    ended = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: ended.set())
    serve.start(http_options={"host": config.host, "port": config.port})
    serve.run(application(config, keys=os.environ.get(KEYS, "")), name="lm-audio")
    name = config.name or config.model or DEFAULT
    print(f"{name} answers on http://{config.host}:{config.port}/v1; Ctrl-C ends it.", flush=True)
    ended.wait()
    serve.shutdown()  # type: ignore[no-untyped-call,unused-ignore]


def application(config: Config, *, keys: str) -> Any:
    """What Ray Serve deploys."""
    from ray import serve

    def build() -> "FastAPI":  # runs in each replica
        import torch

        from lm_audio.loading import load
        from lm_audio.server.engine import Engine
        from lm_audio.server.http import create_app
        from lm_audio.server.service import Limits

        if not config.num_gpus:
            torch.set_num_threads(max(1, int(config.num_cpus)))
        device = "cuda" if config.num_gpus else "cpu"
        engine = Engine(
            load(config.model, device=device, dtype=config.dtype),
            max_at_once=config.max_at_once,
            max_waiting=config.max_waiting,
        )
        return create_app(
            engine,
            name=config.name or config.model or DEFAULT,
            keys=[key.strip() for key in keys.split(",") if key.strip()],
            limits=Limits(duration=config.max_duration, seconds=config.timeout),
        )

    replica: Any = serve.deployment(serve.ingress(build)())
    return replica.options(
        name="engine",
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.max_at_once,
        },
        max_ongoing_requests=config.max_at_once + config.max_waiting,
        ray_actor_options={"num_cpus": config.num_cpus, "num_gpus": config.num_gpus},
    ).bind()


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
