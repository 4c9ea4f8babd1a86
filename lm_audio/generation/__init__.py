"""Generation: requests, stages, the decode loop, guidance, sessions and inpainting."""
