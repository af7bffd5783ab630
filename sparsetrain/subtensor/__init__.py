"""Theano's lookup tables on torch tensors: an indexed subset remembers its table, and the table is replaced by updates.

    subset = table[ids]
    g = grad(cost, subset)
    apply_updates([(table, inc_subtensor(subset, -lr * g))])

docs/porting-from-theano.md goes through it line by line.
"""

from .gradient import grad as grad
from .increments import inc_subtensor as inc_subtensor
from .increments import set_subtensor as set_subtensor
from .shared import Shared as Shared
from .shared import shared as shared
from .subset import Subset as Subset
from .updates import apply_updates as apply_updates
from .updates import function as function
