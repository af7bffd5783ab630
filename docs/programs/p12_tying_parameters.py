r"""
12. Tying parameters
====================

A layer that is used twice has one set of parameters: a change is visible in both places, and the gradient is the sum
over both uses. Two layers can also share the same ``values`` and use them differently. An example is a decoder that is
the transpose of its encoder, with the same edges:

.. math:: y = \phi(x W^T + b) \, W + c, \qquad
          \frac{\partial L}{\partial W} = \text{(as encoder)} + \text{(as decoder)}.
"""

import torch
from torch import nn

import sparsetrain as st

INPUTS, CODE, STEPS = 64, 16, 200  # of the autoencoder

# %%
# One layer in two places
# -----------------------

torch.manual_seed(0)
shared = st.nn.SparseLinear(8, 8, density=0.25, dtype=torch.float64)
net = nn.Sequential(
    st.nn.SparseLinear(4, 8, density=0.5, dtype=torch.float64), nn.Tanh(),
    shared, nn.Tanh(),
    shared, nn.Tanh(),
    st.nn.SparseLinear(8, 1, density=1.0, dtype=torch.float64),
)  # fmt: skip
print("the same object:", net[2] is net[4], "and the same values:", net[2].values is net[4].values)
with torch.no_grad():
    net[2].values[0] = 100
print("changed in one place, read in the other:", net[4].values[0].item())
shared.reset_parameters()
print("counted once:", len(list(net.parameters())), "parameters, those of three layers")

# %%
# The gradient is the sum of both uses
# ------------------------------------
# The dense twin has two full weight matrices, which are equal but separate, so that each use has its own gradient.

x = torch.randn(5, 4, dtype=torch.float64)
net(x).square().sum().backward()

first, last = (net[k].to_dense() for k in (0, 6))
uses = [shared.to_dense() for _ in range(2)]
nn.Sequential(first, nn.Tanh(), uses[0], nn.Tanh(), uses[1], nn.Tanh(), last)(
    x
).square().sum().backward()
at = shared.topology.row.long(), shared.topology.col.long()
by_use = [use.weight.grad[at] for use in uses]

print("edge    first use  second use      sum     shared")
for k in range(4):
    place = f"({at[0][k]}, {at[1][k]})"
    a, b = by_use[0][k], by_use[1][k]
    print(f"{place}  {a:9.5f}  {b:10.5f}  {a + b:7.5f}  {shared.values.grad[k]:9.5f}")
difference = (by_use[0] + by_use[1] - shared.values.grad).abs().max().item()
print(f"largest difference from the dense twin: {difference:.0e}")

# %%
# A decoder that is the transpose of its encoder
# ----------------------------------------------
# ``transposed()`` returns a layer with the same ``values`` and its own bias. Nothing is copied, and no transposed
# weight is created: the product uses the same edges in the other direction.

torch.manual_seed(1)
encoder = st.nn.SparseLinear(INPUTS, CODE, density=0.25, dtype=torch.float64)
decoder = encoder.transposed()
print(encoder, decoder, sep="\n")
print("one value array:", decoder.values is encoder.values)

# %%
# The data lie in a subspace with half as many dimensions as the code. The twin has one full matrix with a mask, and
# calls ``functional.linear`` with the matrix and with its transpose.

data = torch.randn(256, CODE // 2, dtype=torch.float64) @ torch.randn(
    CODE // 2, INPUTS, dtype=torch.float64
)
data /= (CODE // 2) ** 0.5
mask = encoder.topology.to_mask()
W = encoder.to_dense().weight.detach().clone().requires_grad_()
b, c = (layer.bias.detach().clone().requires_grad_() for layer in (encoder, decoder))


def of_the_pair(x):
    return decoder(encoder(x).tanh())


def of_the_twin(x):
    return nn.functional.linear(nn.functional.linear(x, W * mask, b).tanh(), (W * mask).t(), c)


parameters = [encoder.values, encoder.bias, decoder.bias]  # the shared array once
losses = {}
for name, forward, trained in (("tied", of_the_pair, parameters), ("twin", of_the_twin, [W, b, c])):
    optimizer = torch.optim.Adam(trained, lr=0.01)
    losses[name] = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = (forward(data) - data).square().mean()
        loss.backward()
        optimizer.step()
        losses[name].append(loss.item())

print(f"error at first {losses['tied'][0]:.3f}, after {STEPS} steps {losses['tied'][-1]:.3f}")
apart = max(abs(a - b) for a, b in zip(losses["tied"], losses["twin"], strict=True))
print(f"largest difference of a loss from the dense twin: {apart:.0e}")
print("still one array:", decoder.values is encoder.values)
print(
    f"numbers trained: {sum(p.numel() for p in parameters)},"
    f" in the twin {sum(p.numel() for p in (W, b, c))}"
)

# sphinx_gallery_thumbnail_path = "_static/p12.png"
