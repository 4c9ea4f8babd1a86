"""AudioGen and MusicGen (arXiv 2209.15352, 2306.05284), in both published layouts."""
