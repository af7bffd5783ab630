"""Steps over the rows of a table that a gradient names: a pass over those rows, whatever the size of the table.

A table is a flat array of rows of ``dim`` numbers. State arrays are flat as well; one of size 0 is not kept.
"""

from .adagrad import adagrad as adagrad
from .adam import adam as adam
from .adam_rounded import adam_rounded as adam_rounded
from .gather import gather as gather
from .group import Groups as Groups
from .group import group as group
from .idle import idle_adam as idle_adam
from .idle import idle_linear as idle_linear
from .rmsprop import rmsprop as rmsprop
from .sgd import sgd as sgd
from .total import total as total
