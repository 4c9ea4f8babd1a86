"""The runs that a stage with a token language model is working on."""

from lm_audio.generation.decoding import DecodingBatch
from lm_audio.generation.lm_stage import Stage
from lm_audio.generation.sequence import Sequence
from lm_audio.generation.track import Run, leading_known
from lm_audio.generation.window import Window


class TokenBatch:
    """Opens the windows of runs, decodes them together, and hands what is decided to the runs."""

    def __init__(self, stage: Stage, *, rows_per_pass: int | None = None) -> None:
        self._stage = stage
        self._batch = DecodingBatch(stage.model, rows_per_pass=rows_per_pass)
        self._waiting: list[Window] = []  # for what their first step needs of the source
        self._open: list[tuple[Window, Sequence]] = []

    def add(self, run: Run) -> None:
        if not run.done:
            self._waiting.append(self._stage.window(run))

    def remove(self, run: Run) -> None:
        self._waiting = [window for window in self._waiting if window.run is not run]
        for window, sequence in list(self._open):
            if window.run is run:
                self._close(window, sequence)

    def waiting(self) -> bool:
        self._open_ready()
        return bool(self._waiting) or len(self._ready()) < len(self._open)

    def step(self) -> bool:
        self._open_ready()
        ready = self._ready()
        self._batch.step([sequence for _, sequence in ready])
        for window, sequence in ready:
            self._collect(window, sequence)
        return bool(ready)

    def _open_ready(self) -> None:
        ready = [window for window in self._waiting if window.ready(window.first_step)]
        opened = [(window, window.sequence()) for window in ready]
        if opened:
            self._batch.join(*(sequence for _, sequence in opened))
            self._open += opened
            self._waiting = [window for window in self._waiting if window not in ready]

    def _ready(self) -> list[tuple[Window, Sequence]]:
        return [
            (window, sequence)
            for window, sequence in self._open
            if window.ready(self._batch.position(sequence))
        ]

    def _collect(self, window: Window, sequence: Sequence) -> None:
        run, layout = window.run, window.layout
        tokens = layout.revert(self._batch.tokens(sequence)[None])[0]
        before, finished = run.num_done, self._batch.done(sequence)
        steps = self._batch.position(sequence)
        done = leading_known(tokens) if finished else layout.complete_frames(steps)
        run.learn(tokens.to(run.tokens.device), start=window.start, num_done=window.start + done)
        end = self._stage.end_token
        if end is not None and (ends := (run.tokens[0, before : run.num_done] == end)).any():
            run.end(before + int(ends.int().argmax()))
        if finished or run.done:
            self._close(window, sequence)
            self.add(run)

    def _close(self, window: Window, sequence: Sequence) -> None:
        self._batch.leave(sequence)
        self._open.remove((window, sequence))
