"""Sound effects made from formulas, each with the attributes that its caption tells.

`signals` has the building blocks, `alarms`, `impacts`, `nature`, `machines` and `creatures` the
sounds, `rooms` the place around them, `wordings` the captions; `catalogue` puts it all together.
"""
