"""Steps over the rows of a table that a gradient names: one pass over those rows, in float32.

The ids of a gradient are sorted, and the program that finds the first of equal ids owns their row: it sums their
gradients and makes the step. Nothing asks how many rows there are, nothing is added by atomics.
"""

from .adagrad import adagrad as adagrad
from .adam import adam as adam
from .idle import idle_adam as idle_adam
from .idle import idle_linear as idle_linear
from .rmsprop import rmsprop as rmsprop
from .segments import Segments as Segments
from .segments import segments as segments
from .sgd import sgd as sgd
