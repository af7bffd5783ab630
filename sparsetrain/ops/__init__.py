"""Operations on (topology, values): the only floor that knows a device."""

from .backends import backend_for as backend_for
from .backends import use_backend as use_backend
from .layout import feature_major as feature_major
from .verbs import linear as linear
from .verbs import sddmm as sddmm
from .verbs import spmm as spmm
