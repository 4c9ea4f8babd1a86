"""Sound that is played while it is made: a WAV of unknown length for each clip in the making.

Shapes: C channels, N samples.
"""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from torch import Tensor

from audio_tokenizers.wav_stream import pcm16, wav_header

MOST = 64  # streams that are kept: browsers ask several times, and late
PATIENCE = 60.0  # seconds without a sound until a listener is sent away


class LiveSound:
    """The streams of all clips in the making, each under a name that nobody guesses."""

    def __init__(self, *, sample_rate: int, num_channels: int) -> None:
        self._header = wav_header(sample_rate, num_channels)
        self._streams: OrderedDict[str, LiveStream] = OrderedDict()

    def open(self) -> "LiveStream":
        name = secrets.token_urlsafe(12)
        self._streams[name] = LiveStream(name, self._header)
        while len(self._streams) > MOST:
            self._streams.popitem(last=False)
        return self._streams[name]

    def add_to(self, app: FastAPI) -> None:
        """Serves each as live/NAME.wav."""

        @app.get("/live/{name}.wav", include_in_schema=False)
        def live(name: str) -> StreamingResponse:
            stream = self._streams.get(name)
            if stream is None:
                raise HTTPException(404, "There is no such sound any more.")
            return StreamingResponse(stream.read(), media_type="audio/wav")


class LiveStream:
    """That of one clip, for any number of listeners, each from its beginning."""

    def __init__(self, name: str, header: bytes) -> None:
        self.path = f"live/{name}.wav"
        self._pieces = [header]
        self._closed = False
        self._changed = threading.Condition()

    def push(self, samples: Tensor) -> None:
        """New samples [C, N]."""
        with self._changed:
            self._pieces.append(pcm16(samples))
            self._changed.notify_all()

    def close(self) -> None:
        """There is no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def read(self) -> Iterator[bytes]:
        """All of it, waiting for what is not made yet."""
        heard = 0
        while new := self._after(heard):
            heard += len(new)
            yield b"".join(new)

    def _after(self, heard: int) -> list[bytes]:
        """The pieces after so many; none if there are no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._pieces) > heard, PATIENCE)
            return self._pieces[heard:]
