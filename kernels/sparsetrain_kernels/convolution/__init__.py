"""Convolutions of images with a sparse weight, of one to three dimensions, with no copy of an input for each tap."""

from .backward import backward as backward
from .edges import edges as edges
from .edges import edges_by_input as edges_by_input
from .forward import forward as forward
from .grids import grid as grid
