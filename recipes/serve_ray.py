"""Serves a model with Ray Serve, which scales the number of replicas with the load.

    python recipes/serve_ray.py                                        # on this machine, port 8000
    python recipes/serve_ray.py --model audiogen-medium --num-gpus 1 --max-replicas 8

Each replica runs one batch, like `lm-audio serve`, and offers the same routes with the same results
(docs/serving.md). Ray Serve distributes requests, starts replicas when they queue and stops idle
ones. On a cluster (`ray start`) replicas run on all machines, each of which needs the model. API
keys come from LM_AUDIO_API_KEYS (comma-separated). /metrics covers a single replica; Ray has
metrics for all. A replica of the bundled model takes 0.6 GB.
"""

import os
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_audio.catalogue import DEFAULT
from lm_audio.cli.deprecated import SERVE
from lm_audio.cli.recipe import run_recipe

if TYPE_CHECKING:
    from fastapi import FastAPI

KEYS = "LM_AUDIO_API_KEYS"


@dataclass(frozen=True, kw_only=True)
class Config:
    model: str | None = None
    """A folder, a name from `lm-audio models`, or a hub id; the bundled model by default."""
    dtype: str = "float32"
    """Precision of the language models."""
    served_model_name: str | None = None
    """The model name that clients use; defaults to --model."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 listens on all networks."""
    port: int = 8000
    """Port to listen on."""
    min_replicas: int = 1
    """Replicas that always run."""
    max_replicas: int = 4
    """Maximum number of replicas."""
    max_batch_size: int = 8
    """Clips in the running batch of a replica; more open requests on average start another one."""
    max_queue: int = 64
    """Maximum queued requests per replica; beyond this the server returns 429."""
    num_cpus: float = 1
    """CPU cores per replica."""
    num_gpus: float = 0
    """GPUs per replica; 0 runs on the CPU."""
    max_duration: float = 120.0
    """Maximum duration of new sound per request, in seconds."""
    timeout: float = 300.0
    """Maximum time per request, in seconds."""


def main(config: Config) -> None:
    """Serves until interrupted."""
    try:
        from ray import serve
    except ImportError as error:
        raise ValueError(
            f"Ray Serve is not installed ({error}). Run: pip install 'lm-audio[cluster]'"
        ) from error
    if not 1 <= config.min_replicas <= config.max_replicas:
        raise ValueError(
            "min_replicas must be at least 1 and at most max_replicas, got "
            f"{config.min_replicas} and {config.max_replicas}."
        )
    ended = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: ended.set())
    serve.start(http_options={"host": config.host, "port": config.port})
    serve.run(application(config, keys=os.environ.get(KEYS, "")), name="lm-audio")
    name = config.served_model_name or config.model or DEFAULT
    address = f"http://{config.host}:{config.port}/v1"
    print(f"Serving {name!r} at {address} (press Ctrl-C to stop)", flush=True)
    ended.wait()
    serve.shutdown()  # type: ignore[no-untyped-call,unused-ignore]


def application(config: Config, *, keys: str) -> Any:
    """The application that Ray Serve deploys."""
    from ray import serve

    def build() -> "FastAPI":  # runs in each replica
        import torch

        from lm_audio.loading import load
        from lm_audio.server.engine import Engine
        from lm_audio.server.guard import Limits
        from lm_audio.server.http import create_app

        if not config.num_gpus:
            torch.set_num_threads(max(1, int(config.num_cpus)))
        device = "cuda" if config.num_gpus else "cpu"
        engine = Engine(
            load(config.model, device=device, dtype=config.dtype),
            max_batch_size=config.max_batch_size,
            max_queue=config.max_queue,
        )
        return create_app(
            engine,
            name=config.served_model_name or config.model or DEFAULT,
            keys=[key.strip() for key in keys.split(",") if key.strip()],
            limits=Limits(max_duration=config.max_duration, timeout=config.timeout),
        )

    replica: Any = serve.deployment(serve.ingress(build)())
    return replica.options(
        name="engine",
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.max_batch_size,
        },
        max_ongoing_requests=config.max_batch_size + config.max_queue,
        ray_actor_options={"num_cpus": config.num_cpus, "num_gpus": config.num_gpus},
    ).bind()


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__, renamed=SERVE)
