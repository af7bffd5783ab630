"""Whole models in and out."""

from .hierarchy import from_hierarchy as from_hierarchy
from .models import densify as densify
from .models import sparsify as sparsify
from .zeros import drop_zeros as drop_zeros
