"""What ``gpu_suite.py`` runs: each kernel beside its peers, the whole model, and both without a GPU."""
