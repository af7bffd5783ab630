"""The diagonal by which conjugate gradients are preconditioned."""

import torch
from torch import Tensor

from ...curvature.entries import Entries
from ...curvature.passes import GaussNewtonPass
from ...ops.gradient_factors import unheard

EXPONENT = 0.75


@unheard()
def diagonal(run: GaussNewtonPass, entries: Entries, damping: Tensor, probes: int, seed: int) -> Tensor:
    r""":math:`(d + \lambda)^{0.75}`, where d estimates the mean square of the gradients of single samples.

    Their squares are never made one by one: with a random sign :math:`s_n` for each sample, the square of
    :math:`\sum_n s_n g_n` has the expectation :math:`\sum_n g_n^2`. A probe costs one backward pass.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(damping)
    samples = max((z.shape[0] for z in run.outputs if z.ndim), default=1)
    for _ in range(probes):
        signs = (torch.randint(2, (samples,), generator=generator) * 2 - 1).to(damping)
        cotangents = [
            g if g is None or not g.ndim else g * signs[: g.shape[0]].view(-1, *[1] * (g.ndim - 1)).to(g)
            for g in run.of_outputs
        ]
        total += run.inputs.gather(entries, run.pulled(cotangents)).square_()
    return (total.mul_(samples / probes) + damping).pow_(EXPONENT)
