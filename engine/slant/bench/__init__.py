"""``slant bench``: how fast a model is on this machine, compared with a roofline measured in the same run."""
