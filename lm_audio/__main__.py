"""python -m lm_audio"""

from lm_audio.cli import main

main()
