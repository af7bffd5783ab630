"""The gradient of a whole weight, absent positions too, as the two factors that a backward pass multiplies.

    dW = a b'    with a = dy (out, batch), b = x (in, batch); with ``transpose`` x and dy change places

and, of a convolution, a = dy and b = x as they are, with the geometry that joins them (``factors.py``).

A backward pass computes stored positions alone. Rules that grow edges where the gradient is large need the factors, and
listen for them here in the steps that they look at. It works in eager mode and in compiled graphs alike, which call
the same operators; hooks on modules would not, and would make graphs anew each time they come and go.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import Tensor

from ..backends.convolution.geometry import Geometry
from ..dtypes import widened
from ..structure.topology import Topology
from .factors import Convolved, Factors, Product

Listener = Callable[[Factors], None]

_listeners: "WeakKeyDictionary[Topology, list[Listener]]" = WeakKeyDictionary()


def listen(t: Topology, listener: Listener) -> None:
    """Call this with the Factors of each gradient over these edges, until ``stop_listening``."""
    _listeners.setdefault(t, []).append(listener)


def stop_listening(t: Topology, listener: Listener) -> None:
    """Undo ``listen``."""
    remaining = [each for each in _listeners.get(t, []) if each is not listener]
    if remaining:
        _listeners[t] = remaining
    else:
        _listeners.pop(t, None)


def listening(t: Topology) -> bool:
    """Whether anybody listens for gradients over these edges."""
    return t in _listeners


_unheard = 0


@contextmanager
def unheard() -> Iterator[None]:
    """Backward passes here are for something else than a gradient, such as a product with a Jacobian."""
    global _unheard
    _unheard += 1
    try:
        yield
    finally:
        _unheard -= 1


def heard() -> bool:
    """Whether what backward passes compute are gradients."""
    return not _unheard


def tell(t: Topology, a: Tensor, b: Tensor, geometry: Geometry | None = None) -> None:
    """A backward pass has computed the gradient a b', or that of a convolution, at these edges."""
    if not _listeners:
        return
    for listener in _listeners.get(t, ()):
        wide_a, wide_b = widened(a.detach()), widened(b.detach())
        listener(Product(wide_a, wide_b) if geometry is None else Convolved(wide_a, wide_b, geometry))
