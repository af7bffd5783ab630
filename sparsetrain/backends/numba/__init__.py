"""Kernels compiled by numba: CPUs."""
