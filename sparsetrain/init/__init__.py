r"""Initial weights, in place: the values of a sparse layer, the live entries of a masked one, the weight of nn.Linear.

One number is drawn for each edge, in the order of the edges, so a sparse layer and its masked twin start alike from
generators in the same state. With ``edges=`` only those of a set are drawn, in its order, and the rest stays: one rule
for each part of a graph. The fans that some rules are about are the real ones, counted in edges:

.. math:: \text{fan}_{in} = \frac{nnz}{out}, \qquad \text{fan}_{out} = \frac{nnz}{in}

on average over the outputs and over the inputs of the layer, with ``fans="mean"``; or of each edge by itself, the edges
of its own row and of its own column, with ``fans="edge"``. The two agree where all neurons have about as many edges, as
in random topologies. In graphs with hubs they do not: under the mean, an output with 100 times the mean fan-in starts
with 10 times the standard deviation of the others and saturates what follows, and one with a single edge is hardly
heard. With ``fans="edge"`` every output has the same variance at the start (``kaiming`` by fan-in), and a hub's edges
are small.

Values that are computed, as constrained ones are, are refused: initialize first, then constrain.
"""

from .plain import constant_ as constant_
from .plain import custom_ as custom_
from .plain import normal_ as normal_
from .plain import ones_ as ones_
from .plain import trunc_normal_ as trunc_normal_
from .plain import uniform_ as uniform_
from .plain import zeros_ as zeros_
from .reset import reset_ as reset_
from .reset import reset_bias_ as reset_bias_
from .scaled import kaiming_normal_ as kaiming_normal_
from .scaled import kaiming_uniform_ as kaiming_uniform_
from .scaled import xavier_normal_ as xavier_normal_
from .scaled import xavier_uniform_ as xavier_uniform_
