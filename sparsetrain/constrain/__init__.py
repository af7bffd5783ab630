r"""Constraints on single edges, as parametrizations (torch.nn.utils.parametrize) of a layer's ``values``.

The layer's Parameter becomes ``layer.parametrizations.values.original``, the raw numbers that an optimizer steps, and
``layer.values`` is computed from them in every forward pass. Effective values stay what they were when a constraint is
made, so initialize before; ``layer.values = new`` sets them later, and
``parametrize.remove_parametrizations(layer, "values")`` gives them back as a plain Parameter. For each edge:

======================  =============================================  ==============================================
constraint              value w of the raw number r                    why
======================  =============================================  ==============================================
a sign                  :math:`w = \pm |r|`, slope :math:`\pm 1` at 0  registering is exact, zeros can leave zero, and
                                                                       lr, weight decay and a proximal ``l1`` mean
                                                                       what they mean without it; softplus and exp
                                                                       would slow small weights by their size, and
                                                                       decay them towards something that is not 0
bounded                 :math:`w = low + (high - low)\,                unit slope in the middle, where r = 0, so that
                        \sigma(4 r / (high - low))`                    weight decay pulls there
frozen                  w is a buffer                                  no optimizer can move it
shared                  r of its type                                  the gradient is the sum over the type's edges
======================  =============================================  ==============================================

They combine in any order on one layer, and also on one edge: shared first, then sign or bounds, of which the tighter
ones hold, then frozen. What contradicts is refused before anything is changed.

Under a sign, a value that the loss pushes across 0 is reflected: it stays within one step of 0.

Make optimizers afterwards: state that one has collected is of other numbers, and of another size after ``shared``. A
weight decay and an optimizer's ``l1`` act on the raw numbers; ``penalty`` acts on the effective ones.
"""

from .sharing import shared as shared
from .single import bounded as bounded
from .single import frozen as frozen
from .single import negative as negative
from .single import positive as positive
from .single import signed as signed
from .words import by_word as by_word
