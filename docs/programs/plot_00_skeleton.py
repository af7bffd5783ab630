"""
A first layer
=============

To see that the gallery runs.
"""

import torch

import sparsetrain as st

print(st.nn.SparseLinear(4, 2, density=0.5)(torch.ones(1, 4)).shape)
