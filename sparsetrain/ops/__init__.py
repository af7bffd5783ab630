"""Operations on (topology, values), differentiable."""

from ..backends.blocks.scratch import block_bytes as block_bytes
from ..backends.blocks.scratch import set_block_bytes as set_block_bytes
from ..backends.choice import backend_for as backend_for
from ..backends.choice import choice as choice
from ..backends.choice import use_backend as use_backend
from ..backends.layout import feature_major as feature_major
from .abs_topk import abs_topk as abs_topk
from .verbs import linear as linear
from .verbs import sddmm as sddmm
from .verbs import spmm as spmm
