"""What all benchmarks share: processes, timing, rows, workloads, tables and plots."""
