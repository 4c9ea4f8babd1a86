"""Sound effects made from formulas, each with the attributes that its caption tells.

`alarms`, `impacts`, `nature`, `machines` and `creatures` have the sounds, `rooms` the place around
them, `wordings` the captions; `catalogue` puts it all together.
"""
