"""AudioLM: semantic, coarse and fine tokens (arXiv 2209.03143)."""
