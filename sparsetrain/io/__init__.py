"""Files: training, saved and resumed."""

from .checkpoint import load as load
from .checkpoint import save as save
