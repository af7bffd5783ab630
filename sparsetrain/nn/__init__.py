"""Layers whose weights exist at the edges of a topology."""

from .data_parallel import extend as _extend
from .edges import EdgeModule as EdgeModule
from .hierarchy import Hierarchy as Hierarchy
from .lookup_table import LookupTable as LookupTable
from .masked import MaskedLinear as MaskedLinear
from .sparse_delta import SparseDeltaLinear as SparseDeltaLinear
from .sparse_linear import SparseLinear as SparseLinear
from .sparse_linear import TransposedSparseLinear as TransposedSparseLinear

_extend()
