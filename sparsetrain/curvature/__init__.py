"""Second derivatives over trainable entries: values of edges, parameters, and the rows of tables that a batch uses."""

from .entries import Entries as Entries
from .entries import Entry as Entry
from .functional import functional as functional
from .matrices import fisher as fisher
from .matrices import ggn as ggn
from .matrices import hessian as hessian
from .operator import CurvatureOperator as CurvatureOperator
