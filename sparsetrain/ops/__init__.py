"""Operations on (topology, values), differentiable."""

from ..backends.choice import backend_for as backend_for
from ..backends.choice import use_backend as use_backend
from ..backends.layout import feature_major as feature_major
from .verbs import linear as linear
from .verbs import sddmm as sddmm
from .verbs import spmm as spmm
