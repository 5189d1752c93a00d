"""``slant bench``: how fast a model is on the machine at hand, beside a limit measured in the same run."""
