"""Layers whose weights exist at the edges of a topology."""

from ..edges.module import EdgeModule as EdgeModule
from .hierarchy import Hierarchy as Hierarchy
from .lookup_table import LookupTable as LookupTable
from .masked import MaskedLinear as MaskedLinear
from .sparse_attention import SparseMultiheadAttention as SparseMultiheadAttention
from .sparse_convolution import SparseConv1d as SparseConv1d
from .sparse_convolution import SparseConv2d as SparseConv2d
from .sparse_convolution import SparseConv3d as SparseConv3d
from .sparse_delta import SparseDeltaLinear as SparseDeltaLinear
from .sparse_linear import SparseLinear as SparseLinear
from .sparse_linear import TransposedSparseLinear as TransposedSparseLinear
