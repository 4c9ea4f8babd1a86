"""The verbs that run a server: serve, over HTTP, app, a web UI, and mcp, for assistants."""

import errno
import os
import socket
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from lm_audio.catalogue import DEFAULT
from lm_audio.cli.arguments import Arg
from lm_audio.cli.generate import ModelOptions

PAGE_PORT = 7860
KEYS = "LM_AUDIO_API_KEYS"
"""The environment variable with the API keys, which keeps them off the command line."""


Seconds = Annotated[float, Arg("SECONDS")]
PORTS_TRIED = 100
MAX_SOCKET_MESSAGE = 2**17  # bytes


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve a model over an HTTP API for OpenAI and vLLM-Omni clients."""

    EXAMPLES: ClassVar = (
        "lm-audio serve --port 8000",
        "lm-audio serve --model facebook/musicgen-small --api-keys-file keys.txt",
        "lm-audio serve --web-ui --dtype int8",
    )

    model: ModelOptions = field(default_factory=ModelOptions)
    host: Annotated[str, Arg("ADDRESS")] = "127.0.0.1"
    """Address to listen on; 0.0.0.0 listens on all interfaces."""
    port: int = 8000
    """Port to listen on; 0 picks a free one."""
    served_model_name: Annotated[str | None, Arg("NAME")] = None
    """Model name that clients use (default: the value of --model)."""
    api_keys_file: Annotated[Path | None, Arg("FILE")] = None
    """File of accepted API keys, one per line, in addition to those in the LM_AUDIO_API_KEYS
    environment variable (comma-separated). If there are no keys, anyone who can reach the server
    can use it."""
    cors: Annotated[tuple[str, ...], Arg("ORIGIN")] = ()
    """Allowed CORS origin, such as https://example.org, or * for any. Can be repeated."""
    strict: bool = False
    """Reject requests with fields that have no effect, instead of listing the fields in the
    response header X-Ignored-Fields."""
    max_batch_size: int = 8
    """Maximum number of clips generated at once. Does not affect the results."""
    max_queue: int = 64
    """Maximum number of queued requests; beyond that, the server returns 429."""
    max_duration: Seconds = 120.0
    """Maximum duration of new audio per request, in seconds."""
    max_stream: Seconds = 3600.0
    """Maximum duration of a live stream, in seconds."""
    max_upload: Annotated[float, Arg("MB")] = 32.0
    """Maximum size of a request body, in megabytes."""
    timeout: Seconds = 300.0
    """Maximum time per request, in seconds; after that, the server returns 504."""
    web_ui: bool = False
    """Also serve the web UI at /. It asks for an API key if the server requires one."""

    def run(self) -> None:
        with extra("serve", "lm-audio serve"):
            from lm_audio.server.http import create_app
        from lm_audio.app.page import add_page
        from lm_audio.server.engine import Engine
        from lm_audio.server.guard import Limits

        keys = self._keys()
        self._check()
        listener = bind(self.host, self.port)
        pipeline = self.model.load()
        engine = Engine(pipeline, max_batch_size=self.max_batch_size, max_queue=self.max_queue)
        engine.warm_up()
        name = self.served_model_name or self.model.model or DEFAULT
        limits = Limits(
            max_duration=self.max_duration,
            max_stream=self.max_stream,
            max_upload=int(self.max_upload * 1e6),
            timeout=self.timeout,
        )
        app = create_app(
            engine,
            name=name,
            keys=keys,
            limits=limits,
            cors=self.cors,
            strict=self.strict,
            index=not self.web_ui,
        )
        if self.web_ui:
            add_page(app)
        access = "API key required" if keys else "no API key required"
        address = f"{_address(self.host, listener)}/v1"
        run(app, listener, lambda: print(f"Serving {name!r} at {address} ({access})", flush=True))

    def _check(self) -> None:
        for name in ("max_batch_size", "max_duration", "max_stream", "max_upload", "timeout"):
            value = getattr(self, name)
            if not value > 0:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} must be above 0, got {value:g}.")

    def _keys(self) -> list[str]:
        lines = os.environ.get(KEYS, "").split(",")
        if self.api_keys_file is not None:
            if not self.api_keys_file.is_file():
                raise ValueError(f"There is no file {self.api_keys_file} with API keys.")
            lines += self.api_keys_file.read_text(encoding="utf-8").split("\n")
        keys = [line.strip() for line in lines if line.strip()]
        if self.api_keys_file is not None and not keys:
            raise ValueError(f"{self.api_keys_file} contains no API keys. Put one on each line.")
        return keys


@dataclass(frozen=True, kw_only=True)
class App:
    """Start a web UI for generating, continuing and inpainting audio."""

    EXAMPLES: ClassVar = ("lm-audio app", "lm-audio app --port 7900 --no-open-browser")

    model: ModelOptions = field(default_factory=ModelOptions)
    host: Annotated[str, Arg("ADDRESS")] = "127.0.0.1"
    """Address to listen on; 0.0.0.0 listens on all interfaces, so anyone on the network can use
    the web UI."""
    port: int = PAGE_PORT
    """Port to listen on; if the default is taken, the next free one is used."""
    no_open_browser: bool = False
    """Do not open the web UI in a browser."""

    def run(self) -> None:
        with extra("serve", "The web UI"):
            from lm_audio.server.http import create_app
        from lm_audio.app.page import add_page
        from lm_audio.server.engine import Engine

        listener = bind(self.host, self.port, or_next=self.port == PAGE_PORT)
        engine = Engine(self.model.load())
        engine.warm_up()
        app = create_app(engine, name=self.model.model or DEFAULT, index=False)
        add_page(app)
        address = _address(self.host, listener)

        def announce() -> None:
            print(f"Web UI at {address} (press Ctrl-C to stop)", flush=True)
            if not self.no_open_browser:
                webbrowser.open(address)

        run(app, listener, announce)


@dataclass(frozen=True, kw_only=True)
class Mcp:
    """Run an MCP server over stdio to give AI assistants audio tools."""

    EXAMPLES: ClassVar = ("lm-audio mcp --output-dir sounds/",)

    model: ModelOptions = field(default_factory=ModelOptions)
    output_dir: Annotated[Path, Arg("FOLDER")] = Path("~/lm-audio")
    """Folder for clips if the client does not specify a path."""

    def run(self) -> None:
        with extra("mcp", "lm-audio mcp"):
            from lm_audio.mcp_server import create_server
        create_server(self.model.load, output_dir=self.output_dir.expanduser()).run("stdio")


def bind(host: str, port: int, *, or_next: bool = False) -> socket.socket:
    """Reserves an address before a model is loaded, so that a taken port is known at once.

    Args:
        or_next: use the next free port if this one is taken.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be from 0 (any free port) to 65535; got {port}.")
    try:
        return _bound(host, port)
    except socket.gaierror:
        problem = f"Unknown host {host!r}. Use an address of this machine, such as 127.0.0.1."
    except PermissionError:
        problem = f"Port {port} needs administrator rights; try --port 8080."
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            problem = f"{host} is not an address of this machine; try --host 127.0.0.1."
        else:
            other = _next_free(host, port)
            if other is not None and or_next:
                return other
            hint = "another --port" if other is None else f"--port {other.getsockname()[1]}"
            problem = f"Port {port} is already in use; try {hint}."
    raise ValueError(problem)


def _next_free(host: str, port: int) -> socket.socket | None:
    for other in range(port + 1, min(port + PORTS_TRIED, 65536)):
        with suppress(OSError):
            return _bound(host, other)
    return None


def _bound(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # localhost may stand for ::1 first; clients try 127.0.0.1 as well, but not all try ::1.
    family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    if os.name == "posix":  # a port whose last connections are closing is free
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _address(host: str, listener: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


def run(app: Any, listener: socket.socket, announce: Callable[[], None]) -> None:
    """Serves until interrupted; announces itself once it listens."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            announce()

    config = uvicorn.Config(app, log_level="warning", ws_max_size=MAX_SOCKET_MESSAGE)
    with suppress(KeyboardInterrupt):
        Server(config).run(sockets=[listener])


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Adds the install command to the error if an optional dependency is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{what} needs {error.name}. Run: pip install 'lm-audio[{name}]'"
        ) from error
