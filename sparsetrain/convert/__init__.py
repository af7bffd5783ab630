"""Conversion of whole models: to sparse, back to dense, for fine-tuning a few weights, and for export."""

from .dense_copy import dense_copy as dense_copy
from .densify import densify as densify
from .fine_tuning import merge_edges as merge_edges
from .fine_tuning import train_edges as train_edges
from .hierarchy import from_hierarchy as from_hierarchy
from .onnx_file import to_onnx as to_onnx
from .sparsify import sparsify as sparsify
from .summaries import Summary as Summary
from .summaries import SummaryRow as SummaryRow
from .tables import to_lookup_tables as to_lookup_tables
from .zeros import drop_zeros as drop_zeros
