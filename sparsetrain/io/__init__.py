"""Files: training, saved and resumed."""

from .checkpoint import load as load
from .checkpoint import save as save
from .edge_files import load_edges as load_edges
from .edge_files import save_edges as save_edges
