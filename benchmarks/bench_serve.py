"""The server under load: throughput and latency, compared with serving one clip at a time.

    python benchmarks/bench_serve.py                          # the bundled model, minutes
    python benchmarks/bench_serve.py --model FOLDER --clients 1 4 --rounds 1 --duration 0.2
    python benchmarks/bench_serve.py --soak 10                # minutes of good and bad requests

Each client requests one clip after the other and reads it while it is made. The baseline is a
server with `--max-batch-size 1`. Both run as `lm-audio serve` and take turns within each round. A
soak sends random requests to one server: most are valid and must return the same audio as the
pipeline, others disconnect early, or are invalid and must be refused with a message.
"""

import asyncio
import os
import platform
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import tyro

import lm_audio
from audio_tokenizers.atomic import replacing
from audio_tokenizers.wav_stream import pcm16

GENERATIONS = "/v1/audio/generations"
PROMPTS = ("a dog barking", "rain on a roof", "waves on a beach", "a slow piano")
START_SECONDS = 120.0
LONGEST_WAIT = 600.0
SERVICES = {"one batch": (), "one at a time": ("--max-batch-size", "1")}
MEMORY_EVERY = 5.0  # seconds
PARTS = 10  # of a soak; memory is reported at the start of each
GOOD_CLIPS = 12  # distinct valid requests in a soak
BAD_BODIES: tuple[Any, ...] = (
    {"duration": -1}, {"duration": 1e9}, {"prompt": 5}, {"n": 99}, {"seed": -1}, [], "rain",
    {"response_format": "m4a"}, {"sampling": {"none": {}}},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    model: str | None = None
    """Model for `lm-audio serve`; the bundled one by default."""
    clients: tuple[int, ...] = (1, 4, 16)
    duration: float = 5.0
    """Duration of each clip in seconds."""
    requests: int = 2
    """Requests per client and round."""
    rounds: int = 2
    soak: float = 0.0
    """Minutes of soak test; 0 measures load instead."""
    prompts: tuple[str, ...] = PROMPTS
    output: Path | None = None
    """File for the table, in addition to stdout."""
    seed: int = 0


@dataclass
class Times:
    """What clients measured for one server."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    sound: float = 0.0
    took: float = 0.0


@dataclass(frozen=True)
class Service:
    address: str
    process: subprocess.Popen[bytes]


def main(config: Config) -> None:
    lines = soak(config) if config.soak else load_table(config)
    print("\n".join(lines))
    if config.output is not None:
        with replacing(config.output) as path:
            path.write_text("\n".join([*preamble(), "", *lines]) + "\n")


def load_table(config: Config) -> list[str]:
    found: dict[tuple[int, str], Times] = {}
    with running(config, *SERVICES.values()) as started:
        services = dict(zip(SERVICES, (each.address for each in started), strict=True))
        for address in services.values():  # to warm up
            asyncio.run(load(address, config, clients=1, requests=1, seed=0))
        for number in range(config.rounds):
            for clients in config.clients:
                for name, address in services.items():
                    times = found.setdefault((clients, name), Times())
                    seen = asyncio.run(
                        load(address, config, clients=clients, seed=1000 * number + 1)
                    )
                    times.first += seen.first
                    times.whole += seen.whole
                    times.sound += seen.sound
                    times.took += seen.took
                    print(row(clients, name, times), file=sys.stderr)
    lines = [
        "| clients | service | sound, s per s | first sound, p50 | p95 | whole clip, p50 | p95 | "
        "x one at a time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (clients, name), times in found.items():
        base = found[clients, "one at a time"]
        ratio = times.sound / times.took / (base.sound / base.took)
        lines.append(f"{row(clients, name, times)} {ratio:.2f} |")
    return lines


def row(clients: int, name: str, times: Times) -> str:
    cells = [f"{clients}", name, f"{times.sound / times.took:.2f}"]
    for seconds in (times.first, times.whole):
        cells += [f"{statistics.median(seconds):.2f} s", f"{percentile(seconds, 0.95):.2f} s"]
    return f"| {' | '.join(cells)} |"


def percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


async def load(
    address: str, config: Config, *, clients: int, seed: int, requests: int | None = None
) -> Times:
    """Runs concurrent clients, each with one request after the other."""
    times = Times()
    count = config.requests if requests is None else requests

    async def client(number: int) -> None:
        async with httpx.AsyncClient(base_url=address, timeout=LONGEST_WAIT) as http:
            for each in range(count):
                asked = time.perf_counter()
                body = body_of(config, seed + number * count + each)
                async with http.stream("POST", GENERATIONS, json=body) as answer:
                    answer.raise_for_status()
                    pieces = answer.aiter_raw()
                    await anext(pieces)
                    times.first.append(time.perf_counter() - asked)
                    async for _ in pieces:
                        pass
                times.whole.append(time.perf_counter() - asked)
                times.sound += config.duration

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    times.took = time.perf_counter() - began
    return times


def body_of(config: Config, seed: int) -> dict[str, Any]:
    return {
        "prompt": config.prompts[seed % len(config.prompts)],
        "duration": config.duration,
        "seed": seed,
        "stream": True,
        "response_format": "pcm",
    }


def soak(config: Config) -> list[str]:
    """Minutes of requests; checks every answer and the server's memory."""
    model = lm_audio.load(config.model, device="cpu")
    expected = {}
    for seed in range(GOOD_CLIPS):
        clip = model.generate(body_of(config, seed)["prompt"], duration=config.duration, seed=seed)
        expected[seed] = pcm16(clip.samples)
    del model
    with running(config, ()) as (service,):
        counts, memory = asyncio.run(requests_of_all_kinds(service, config, expected))
    warm = memory[len(memory) // 5 :]
    third = max(1, len(warm) // 3)
    before, after = statistics.median(warm[:third]), statistics.median(warm[-third:])
    seen = [memory[i * len(memory) // PARTS] for i in range(PARTS)] + memory[-1:]
    return [
        f"Soak of {config.soak:g} minutes: "
        + ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items())),
        "",
        f"Memory of the service after warm-up: {before:.0f} MB in the first third, "
        f"{after:.0f} MB in the last ({100 * (after / before - 1):+.1f} %).",
        f"From the first tenth to the end: {', '.join(f'{each:.0f}' for each in seen)} MB.",
    ]


async def requests_of_all_kinds(
    service: Service, config: Config, expected: dict[int, bytes]
) -> tuple[dict[str, int], list[float]]:
    """The number of requests by outcome, and the server's memory in MB over time."""
    rng = random.Random(config.seed)
    counts = dict.fromkeys(("right", "disconnected", "refused", "queue full", "wrong"), 0)
    memory: list[float] = []
    end = time.monotonic() + 60 * config.soak

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(resident_megabytes(service.process.pid))
            await asyncio.sleep(MEMORY_EVERY)

    async def client() -> None:
        async with httpx.AsyncClient(base_url=service.address, timeout=LONGEST_WAIT) as http:
            while time.monotonic() < end:
                counts[await one(http, config, rng, expected)] += 1

    await asyncio.gather(watch(), *(client() for _ in range(max(config.clients))))
    return counts, memory


async def one(
    http: httpx.AsyncClient, config: Config, rng: random.Random, expected: dict[int, bytes]
) -> str:
    """Sends one request of a soak and returns its outcome."""
    kind = rng.choices(("good", "leaves", "bad"), (6, 2, 2))[0]
    if kind == "bad":
        answer = await http.post(GENERATIONS, json=rng.choice(BAD_BODIES))
        is_refused = answer.status_code == 400 and bool(answer.json()["error"]["message"])
        return "refused" if is_refused else "wrong"
    seed = rng.randrange(GOOD_CLIPS)
    patience = rng.randrange(4) if kind == "leaves" else None  # pieces
    pieces = []
    async with http.stream("POST", GENERATIONS, json=body_of(config, seed)) as answer:
        if answer.status_code == 429:
            await asyncio.sleep(float(answer.headers["retry-after"]))
            return "queue full"
        async for piece in answer.aiter_raw():
            pieces.append(piece)
            if patience is not None and len(pieces) > patience:
                return "disconnected"
    is_right = answer.status_code == 200 and b"".join(pieces) == expected[seed]
    return "right" if is_right else "wrong"


@contextmanager
def running(config: Config, *settings: tuple[str, ...]) -> Iterator[list[Service]]:
    """Servers with these options, each in its own process."""
    services: list[Service] = []
    try:
        for given in settings:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            command = [sys.executable, "-m", "lm_audio", "serve", "--device", "cpu"]
            command += [] if config.model is None else ["--model", config.model]
            process = subprocess.Popen([*command, "--port", str(port), *given], stdout=sys.stderr)
            services.append(Service(f"http://127.0.0.1:{port}", process))
        for service in services:
            wait_for(service.address)
        yield services
    finally:
        for service in services:
            service.process.send_signal(signal.SIGTERM)
        for service in services:
            service.process.wait(LONGEST_WAIT)


def wait_for(address: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            if httpx.get(f"{address}/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TimeoutError(f"The server at {address} did not start within {START_SECONDS:.0f} s.")


def resident_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1e3


def preamble() -> list[str]:
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return [
        "# The service under load",
        "",
        f"- command: `python {' '.join(sys.argv)}`",
        f"- commit {commit or 'unknown'}, Python {platform.python_version()}, {machine()}",
    ]


def machine() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{os.cpu_count()} cores, {names[0] if names else platform.processor()}"


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
