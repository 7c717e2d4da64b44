"""What the black-box tests, the soak and the benchmarks share."""
