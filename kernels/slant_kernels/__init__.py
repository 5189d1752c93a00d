"""One file per op: the reference, the kernel, the wrapper. Nothing is imported here, so nothing is initialised."""
