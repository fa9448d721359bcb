"""Sums over the classes of many examples, twice: compiled loops on the CPU, tensor operations elsewhere."""
