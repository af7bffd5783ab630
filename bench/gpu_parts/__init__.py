"""The parts of bench/gpu.py: each is a generator of results, which are kept as they come."""
