"""A stage of latents and a renderer that takes them, alone and led by a stage of tokens.

The stage makes latents of nothing but random numbers, or of the tokens of its source; the renderer
is the frame codec's decoder without its codebooks. Nothing in the library knows either of them.
"""

from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from audio_tokenizers.acoustic.frame_codec import FrameCodec
from audio_tokenizers.acoustic.frame_codec.streams import FrameDecoderStream, FrameEncoderStream
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.track import Source, StageBatch, Track
from lm_audio.model import Model
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Sampling, uniforms
from lm_audio.signals import Signal

RATE, HOP = 24_000, 480
FRAMES_PER_STEP = 7
CPU = torch.device("cpu")
PLAIN = Sampling(guidance_scale=1.0)


class LatentStream(FrameDecoderStream):
    def __init__(self, codec: FrameCodec) -> None:
        super().__init__(
            codec.bands,
            codec.decoder,
            codec.dequantize,
            num_codebooks=1,
            codebook_size=codec.codebook_size,
            phase_iterations=codec.config.phase_iterations,
        )

    def push(self, values: Tensor) -> Tensor:
        if values.shape[1] == 0:
            return torch.zeros(1, 0)
        stack, latents = self.decoder.stack, values.T[None]
        self.progress.advance(torch.zeros(1, 1, values.shape[1], dtype=torch.int64))
        with torch.no_grad():
            self.state = self.state or stack.start(latents)
            h, self.state = stack(latents, self.state)
            return self._samples(self._hops(h))[0]

    def finish(self) -> Tensor:
        return super().finish()[0]


class LatentEncoder:
    def __init__(self, codec: FrameCodec) -> None:
        self.codec = codec

    def encode(self, samples: Tensor) -> Tensor:
        codec = self.codec
        stream = FrameEncoderStream(
            codec.bands,
            codec.encoder,
            lambda latents: latents.transpose(1, 2),
            hop_length=HOP,
            num_codebooks=codec.codebooks()[0].shape[1],
        )
        with torch.no_grad():
            return torch.cat([stream.push(samples[None]), stream.finish()], dim=2)[0]

    def prompt_frames(self, num_samples: int) -> int:
        return num_samples // HOP


@dataclass(frozen=True)
class LatentRenderer:
    codec: FrameCodec
    has_encoder: bool = True
    identity: str = "latents"
    sample_rate: int = RATE
    num_channels: int = 1
    hop_length: int = HOP

    @property
    def signal(self) -> Signal:
        width = self.codec.codebooks()[0].shape[1]
        return Signal(kind="latents", content="latents", rate=Fraction(50), width=width)

    @property
    def encoder(self) -> LatentEncoder | None:
        return LatentEncoder(self.codec) if self.has_encoder else None

    def num_frames(self, num_samples: int) -> int:
        return -(-num_samples // HOP)

    def stream(self) -> LatentStream:
        return LatentStream(self.codec)

    def render(self, values: Tensor, *, num_samples: int | None = None) -> Tensor:
        stream = self.stream()
        return torch.cat([stream.push(values), stream.finish()], dim=1)[:, :num_samples]


@dataclass(frozen=True, eq=False)
class LatentStage:
    """Some frames a step: random ones, or the row of a table for the source's token."""

    makes: Signal
    source: Source | None = None
    name: str = "latents"
    window_frames: int = 100
    conditions: tuple[str, ...] = ()
    sampling: Sampling = PLAIN
    deduplicated: bool = False
    may_end: bool = False
    two_sided: bool = True
    first_codebook: int = 0
    device: torch.device = CPU

    def check(self, track: Track) -> None:
        assert self.makes.dtype == track.values.dtype

    def new_batch(self, *, rows_per_pass: int | None = None) -> StageBatch:  # noqa: ARG002
        return LatentBatch(self)

    def values(self, track: Track, start: int, stop: int) -> Tensor:
        name, width = self.name, self.makes.width
        if track.source is None:
            return uniforms(track.seed, name, start, stop - start, width) - 0.5
        if track.source.num_frames == 1:  # a vector
            return track.source.values.expand(-1, stop - start)
        tokens = track.source.values[0, torch.arange(start, stop) // 2]
        return uniforms(1, "table", 0, 64, width)[:, tokens] - 0.5


class LatentBatch:
    def __init__(self, stage: LatentStage) -> None:
        self._stage = stage
        self._tracks: list[Track] = []

    def add(self, track: Track) -> None:
        if not track.done:
            self._tracks.append(track)

    def remove(self, track: Track) -> None:
        self._tracks = [one for one in self._tracks if one is not track]

    def _ready(self, track: Track) -> int:
        stop = min(track.num_done + FRAMES_PER_STEP, track.num_frames)
        source = track.source
        return stop if source is None or source.done else min(stop, source.num_done * 2)

    def waiting(self) -> bool:
        return any(self._ready(track) == track.num_done for track in self._tracks)

    def step(self) -> bool:
        moved = False
        for track in self._tracks:
            start, stop = track.num_done, self._ready(track)
            if stop > start:
                made = self._stage.values(track, start, stop)
                known = track.known[start:stop]
                kept = torch.where(known, track.values[:, start:stop], made)
                track.learn(kept, start=start, num_done=stop)
                moved = True
        self._tracks = [track for track in self._tracks if not track.done]
        return moved


@pytest.fixture(
    scope="module", params=["latents alone", "tokens, then latents", "a vector, then latents"]
)
def model(request: pytest.FixtureRequest, codec: FrameCodec, duet_mono: AudioPipeline) -> Model:
    renderer = LatentRenderer(codec)
    if request.param == "latents alone":
        return Model([LatentStage(renderer.signal)], renderer)
    if request.param == "a vector, then latents":
        width = renderer.signal.width
        vector = Signal(kind="vector", content="style", rate=Fraction(0), width=width)
        led = LatentStage(renderer.signal, Source(stage="style", condition="style"))
        return Model([LatentStage(vector, name="style"), led], renderer)
    semantic = duet_mono.stages["semantic"]
    assert isinstance(semantic, LMStage)
    second = LatentStage(renderer.signal, Source(stage="semantic", condition="semantic"))
    tokenizer = duet_mono.semantic_tokenizer
    return Model([semantic, second], renderer, semantic_tokenizer=tokenizer)


def tone(seconds: float) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return 0.3 * torch.sin(2 * torch.pi * 440 * time)[None]


def test_latents_become_sound_alone_and_in_any_batch(model: Model) -> None:
    pipeline = AudioPipeline(model)
    clip = pipeline.generate(duration=1.01, seed=3)
    assert clip.samples.shape == (1, 24_240)
    assert clip.tokens is None
    assert clip.stage_values["latents"].shape == (model.renderer.signal.width, 51)
    assert clip.stage_values["latents"].isfinite().all()
    batch = pipeline.generate([None, None, None], duration=[0.4, 1.01, 2.0], seed=[1, 3, 3])
    assert torch.equal(batch[1].samples, clip.samples)
    assert not torch.equal(batch[0].samples, clip.samples[:, :9600])


def test_streamed_latents_are_the_whole_clip_in_pieces(model: Model) -> None:
    pipeline = AudioPipeline(model)
    pieces = list(pipeline.stream(duration=2.01, seed=3))
    assert len(pieces) > 3
    whole = pipeline.generate(duration=2.01, seed=3).samples
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=0, rtol=0)


def test_a_prompt_becomes_latents_and_is_continued(model: Model) -> None:
    pipeline, prompt = AudioPipeline(model), tone(1.0)
    clip = pipeline.continue_from((prompt, RATE), duration=0.5, seed=3)
    assert torch.equal(clip.samples[:, :RATE], prompt)
    assert clip.samples.shape == (1, 36_000)
    assert model.renderer.encoder is not None
    encoded = model.renderer.encoder.encode(prompt)
    assert torch.equal(clip.stage_values["latents"][:, :50], encoded[:, :50])


def test_a_span_of_latents_is_filled_with_both_sides_kept(model: Model) -> None:
    pipeline, whole = AudioPipeline(model), tone(1.5)
    clip = pipeline.inpaint((whole, RATE), start=0.5, end=0.9, seed=3)
    assert torch.equal(clip.samples[:, :12_000], whole[:, :12_000])
    assert torch.equal(clip.samples[:, 21_600:], whole[:, 21_600:])
    assert not torch.equal(clip.samples[:, 12_000:21_600], whole[:, 12_000:21_600])
    assert model.renderer.encoder is not None
    encoded = model.renderer.encoder.encode(whole)
    made = clip.stage_values["latents"]
    assert torch.equal(made[:, :25], encoded[:, :25])
    seen = made.shape[1] - 5  # where what the stages see ends, the encoder lacks what follows
    assert seen > 50
    assert torch.equal(made[:, 45:seen], encoded[:, 45:seen])
    assert not torch.isclose(made[:, 25:45], encoded[:, 25:45]).any(dim=0).all()


def test_given_latents_are_rendered_and_wrong_ones_refused(model: Model) -> None:
    pipeline = AudioPipeline(model)
    made = pipeline.generate(duration=1.0, seed=3)
    given = made.stage_values["latents"]
    again = pipeline.generate(duration=1.0, seed=9, tokens={"latents": given})
    assert torch.equal(again.samples, made.samples)
    for wrong, message in (
        (given.long(), "The latents stage needs latents .* got .* torch.int64"),
        (given[:, :-1], "for this duration"),
        (given * torch.nan, "contain NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline.generate(duration=1.0, tokens={"latents": wrong})


def test_a_renderer_that_goes_one_way_takes_no_audio(codec: FrameCodec) -> None:
    renderer = LatentRenderer(codec, has_encoder=False)
    pipeline = AudioPipeline(Model([LatentStage(renderer.signal)], renderer))
    assert pipeline.generate(duration=0.1, seed=1).samples.any()
    with pytest.raises(ValueError, match="no encoder for latents, so it does not accept audio"):
        pipeline.continue_from((tone(0.5), RATE), duration=0.1)


def test_tokens_do_not_fit_a_renderer_of_latents(
    codec: FrameCodec, duet_mono: AudioPipeline
) -> None:
    with pytest.raises(ValueError, match="the input of the renderer, latents of width"):
        Model(
            [*duet_mono.stages.values()],
            LatentRenderer(codec, has_encoder=False),
            output_stages=["semantic", "acoustic"],
        )


def test_a_signal_with_parts_that_contradict_each_other_is_refused() -> None:
    with pytest.raises(ValueError, match="Tokens need num_tokens"):
        Signal(kind="tokens", content="acoustic", rate=Fraction(50), width=4)
    with pytest.raises(ValueError, match=r"Vectors have rate 0 .* got latents with rate 0"):
        Signal(kind="latents", content="latents", rate=Fraction(0), width=4)
