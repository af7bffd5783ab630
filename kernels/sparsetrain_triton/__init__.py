"""Sparse training kernels for CUDA, in Triton, on CSR tensors. They write into tensors that the caller gives, wait for
nothing and check nothing: a wrong shape or dtype is undefined behaviour.

They give the same numbers in each run: no kernel adds by atomics. They also run on a CPU, slowly, in the interpreter of
Triton (TRITON_INTERPRET=1, set before triton is imported), which is how they are tested: untested on CUDA.
"""

from .dense_rows import expand as expand
from .dense_rows import gather as gather
from .sddmm import sddmm as sddmm
from .spmm import spmm as spmm
