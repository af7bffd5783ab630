"""Patterns: topologies made by a rule, at random or regular, and densities shared out over layers."""

from .allocation import allocate as allocate
from .rules import banded as banded
from .rules import erdos_renyi as erdos_renyi
from .rules import fixed_fan_in as fixed_fan_in
from .rules import small_world as small_world
from .rules import uniform as uniform
