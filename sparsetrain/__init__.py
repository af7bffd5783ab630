"""Sparse-tensor training for PyTorch: only the edges that exist are stored, computed and trained."""

from . import constrain as constrain
from . import convert as convert
from . import curvature as curvature
from . import data as data
from . import distributed as distributed
from . import evolve as evolve
from . import init as init
from . import io as io
from . import nn as nn
from . import ops as ops
from . import optim as optim
from . import patterns as patterns
from . import penalty as penalty
from . import subtensor as subtensor
from .convert.summaries import summary as summary
from .structure.edit import Edit as Edit
from .structure.topology import Topology as Topology

__version__ = "0.2.0"  # setup.cfg reads it
