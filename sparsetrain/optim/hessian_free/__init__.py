"""Hessian-free optimization: a step is the minimum of a local quadratic, found by conjugate gradients."""

from .optimizer import HessianFree as HessianFree
from .optimizer import Report as Report
