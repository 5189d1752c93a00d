"""slant scores text with a fine-tuned language model in a single forward pass."""

__version__ = "0.1.0"
