"""Triton kernels: very sparse products and row steps on CUDA. Untested on CUDA; tested in Triton's interpreter."""
