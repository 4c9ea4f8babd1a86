"""Playback during generation: one WAV stream of unknown length per clip.

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

MOST = 64  # streams kept, because browsers request each one several times, and late
PATIENCE = 60.0  # seconds without new samples until a response ends


class LiveSound:
    """The streams of recent clips, each under a random name."""

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
        """Serves each stream as live/NAME.wav."""

        @app.get("/live/{name}.wav", include_in_schema=False)
        def live(name: str) -> StreamingResponse:
            stream = self._streams.get(name)
            if stream is None:
                raise HTTPException(404, "This stream has expired.")
            return StreamingResponse(stream.read(), media_type="audio/wav")


class LiveStream:
    """The stream of one clip; every reader gets it from the beginning."""

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
        """Ends the stream."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def read(self) -> Iterator[bytes]:
        """Yields the whole stream, waiting for samples that are still to come."""
        count = 0
        while new := self._after(count):
            count += len(new)
            yield b"".join(new)

    def _after(self, count: int) -> list[bytes]:
        """The pieces after the first `count`; empty at the end of the stream."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._pieces) > count, PATIENCE)
            return self._pieces[count:]
