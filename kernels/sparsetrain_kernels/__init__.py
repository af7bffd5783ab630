"""Sparse training kernels on CSR arrays, for numpy users and for sparsetrain. They write into arrays that the caller
gives, and check nothing: a wrong shape or dtype is undefined behaviour."""

from .backward import backward as backward
from .carry import carry as carry
from .dense_blocks import bitmap as bitmap
from .dense_blocks import expand as expand
from .dense_blocks import gather as gather
from .distinct import distinct as distinct
from .former import former as former
from .larger import compact as compact
from .larger import take as take
from .links import links as links
from .links import paths as paths
from .magnitudes import limits as limits
from .magnitudes import reaching as reaching
from .merge import merge as merge
from .plan import Plan as Plan
from .plan import plan as plan
from .sddmm import sddmm as sddmm
from .smallest import smallest as smallest
from .spmm import spmm as spmm
from .transpose import transpose as transpose
from .used import used as used
from .vacant import vacant as vacant
