"""Whole models in and out."""

from .models import densify as densify
from .models import sparsify as sparsify
