"""Files and other libraries' graphs: training, saved and resumed; edges that users bring."""

from .adoption import adopt as adopt
from .adoption import adopt_on_load as adopt_on_load
from .binsparse_matrix import from_binsparse as from_binsparse
from .binsparse_matrix import to_binsparse as to_binsparse
from .checkpoint import load as load
from .checkpoint import save as save
from .csv_table import read_csv as read_csv
from .edge_files import load_edges as load_edges
from .edge_files import save_edges as save_edges
from .edge_index import from_edge_index as from_edge_index
from .gene_sets import from_sets as from_sets
from .gene_sets import read_gmt as read_gmt
from .networkx_graph import from_networkx as from_networkx
from .reactome import read_reactome as read_reactome
from .sparse_tensor import from_torch_sparse as from_torch_sparse
from .sparse_tensor import to_torch_sparse as to_torch_sparse
