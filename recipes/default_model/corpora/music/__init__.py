"""Music made by rules: scores with exact captions, and two ways to render them.

`instruments` lists the instruments, `harmony`, `accompaniment` and `scores` compose, `wordings` has
the captions, `fluidsynth` renders with a soundfont and `simple` with nothing but numpy.
"""
