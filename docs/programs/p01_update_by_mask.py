r"""
1. Update only chosen edges, by mask
====================================

A layer uses all four weights in the forward pass, but trains only three of them. A dense program multiplies the
gradient by a mask of zeros and ones. Here the layer is frozen, and three trainable edges are added to it. Each is the
change of one weight:

.. math:: y = (W + S) \, x, \qquad S_{ij} = \text{values}[e] \text{ at edge } e = (i, j) .

``values`` starts at zero. Only ``values`` has a gradient and optimizer state.
"""

import torch
from torch import nn

import sparsetrain as st

LR = 0.1

# %%
# The layer
# ---------

W = torch.tensor([[0.5, -1.0], [1.5, 2.0]], dtype=torch.float64)
mask = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
x = torch.tensor([1.0, 2.0], dtype=torch.float64)

linear = nn.Linear(2, 2, bias=False, dtype=torch.float64)
with torch.no_grad():
    linear.weight.copy_(W)
layer = st.nn.SparseDeltaLinear(linear, st.Topology.from_mask(mask))
print(layer)
print("trains:", [name for name, parameter in layer.named_parameters() if parameter.requires_grad])

# %%
# One step
# --------
# ``y = W x``, ``loss = sum(y)``. The edge (0, 1) has mask 0: it contributes -2 to y, and is not trained.

optimizer = torch.optim.SGD([layer.values], lr=LR)
y = layer(x)
loss = y.sum()
loss.backward()
optimizer.step()
print(f"y = {y.tolist()}, loss = {loss.item()}")
print("gradient at the edges:", layer.values.grad.tolist())
print("change of the edges:  ", layer.values.tolist())
print("y after the step:     ", layer(x).tolist())

# %%
# ``merge`` adds the changes to the frozen weight in place, and returns the ``nn.Linear``.

merged = layer.merge().weight
print("W after the step:", merged.tolist())
print("the edge with mask 0 has kept its value:", merged[0, 1].item() == W[0, 1].item())

# %%
# The dense twin
# --------------
# The gradient of the whole matrix W is multiplied by the mask.

twin = W.clone().requires_grad_()
(twin @ x).sum().backward()
with torch.no_grad():
    twin -= LR * mask * twin.grad
print(f"largest difference from the dense twin: {(merged - twin).abs().max():.0e}")

# %%
# Why not multiply by a mask?
# ---------------------------
# In this program, a mask costs nothing. In a layer of a million weights, mask, gradient and optimizer state have the
# size of the layer, even if few weights are trained. Besides, weight decay and momentum move a
# weight even if its gradient is zero:

decayed = W.clone().requires_grad_()
(decayed @ x).sum().backward()
decayed.grad *= mask
torch.optim.SGD([decayed], lr=LR, weight_decay=0.5).step()
print(f"with weight decay, the edge with mask 0 goes from {W[0, 1]} to {decayed[0, 1]:.2f}")

# %%
# A frozen edge is not a parameter, so it does not move. (Weight decay on ``values`` pulls the trained edges towards
# their frozen weights, not towards zero.)

# %%
# ``MaskedLinear`` is different: there the edges with mask 0 are absent, so they do not contribute to y either. It is
# the dense counterpart of ``SparseLinear``, the topic of the next page.

absent = st.nn.MaskedLinear(2, 2, bias=False, mask=mask, dtype=torch.float64)
with torch.no_grad():
    absent.weight.copy_(W * mask)
print("y without the edge:", absent(x).tolist())

# sphinx_gallery_thumbnail_path = "_static/p01.png"
