"""Training data: corpora, tokenization, shards, augmentation and batches."""
