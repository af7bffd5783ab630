"""The proximal step of an l1 penalty: it ends at exact zeros."""

import triton
import triton.language as tl


@triton.jit
def shrunk(new, lr, pull, l1_values, at, mask, denominator):
    """``sign(w) max(|w| - lr l1 / denominator, 0)``; ``pull`` is lr l1 where l1 is a number. NaN stays NaN."""
    if l1_values is not None:
        pull = lr * tl.load(l1_values + at, mask=mask, other=0)
    limit = tl.div_rn(tl.zeros_like(denominator) + pull, denominator)
    nearer = tl.where(new > 0, new - limit, new + limit)
    return tl.where(tl.abs(new) <= limit, 0.0, nearer)
