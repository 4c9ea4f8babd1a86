"""Neural codecs: waveform to parallel streams of tokens, and back."""
