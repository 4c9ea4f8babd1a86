"""Sound effects made from formulas, with attributes that their captions describe.

`alarms`, `impacts`, `nature`, `machines` and `creatures` have the sounds, `rooms` the acoustics,
`wordings` the captions; `catalogue` combines them.
"""
