"""No body is read beyond a limit, whatever its header says of its length."""

from contextlib import suppress

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lm_audio.server.schemas import error_body


class BodyTooLargeError(Exception):
    """More came than may."""


class BodyLimit:
    """ASGI middleware that answers 413 to a body of too many bytes."""

    def __init__(self, app: ASGIApp, *, most_bytes: int) -> None:
        self._app, self._most_bytes = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most_bytes:
            await self._refuse(scope, receive, send)
            return
        read, answered = 0, False

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most_bytes:
                raise BodyTooLargeError
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            if read <= self._most_bytes:  # else the app tells of it in its own words
                answered = True
                await send(message)

        with suppress(BodyTooLargeError):
            await self._app(scope, counted, watched)
        if not answered:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"The body is too large; send {self._most_bytes:,} bytes at most."
        await JSONResponse(error_body(message, status=413), 413)(scope, receive, send)
