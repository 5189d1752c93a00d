"""The CPU suite, ``make bench``: ops, the whole model, batching, tokenization, cold start; and how cost grows."""
