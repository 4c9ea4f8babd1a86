"""From a request to sound: what is asked for, the runs that make it, and the samples."""

from lm_audio.pipeline.pipeline import AudioPipeline

__all__ = ["AudioPipeline"]
