"""Music made by rules: scores with captions that are exact, and two ways to make them sound.

`instruments` says what plays, `harmony`, `accompaniment` and `scores` compose, `wordings` has the
captions, `fluidsynth` renders with a soundfont and `simple` with nothing but numpy.
"""
