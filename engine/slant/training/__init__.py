"""From a base checkpoint and labelled tables to a merged classifier: LoRA and a head of the answers only."""
