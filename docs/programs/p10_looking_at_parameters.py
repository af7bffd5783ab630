"""
10. Looking at parameters
=========================

A layer over edges is a ``torch.nn.Module`` with a one-dimensional parameter ``values`` where a dense layer has
``weight``, and everything that reads modules reads it: ``state_dict``, ``named_parameters``, indexing into nested
blocks. Here is a network 4-8-1 with half of the edges, looked at in every way.
"""

import copy

import torch
from torch import nn

import sparsetrain as st

torch.manual_seed(0)
net = nn.Sequential(
    st.nn.SparseLinear(4, 8, density=0.5), nn.ReLU(), st.nn.SparseLinear(8, 1, density=0.5)
)
x = torch.rand(2, 4)
print(net)

# %%
# One layer
# ---------
# ``state_dict`` has the values and the bias, and the edges as well, so that values are never loaded onto other edges:
# ``_extra_state``, torch's key for what is neither a parameter nor a buffer, holds the CSR structure and its digest.

for name, tensor in net[2].state_dict().items():
    print(f"{name:12} {tuple(tensor.shape)!s:8} {tensor.dtype}")

# %%
# One parameter
# -------------
# It is an object with data and a gradient, which is None until a backward pass.

print(type(net[2].bias).__name__, net[2].bias.data)
print(type(net[2].values).__name__, net[2].values.data)
print("grad is None before backward:", net[2].values.grad is None)
net(x).sum().backward()
print("and after:", net[2].values.grad)

# %%
# Values are in the order of the edges, row by row. The topology says where each one is, and the other way round.

topology = net[2].topology
for row, column, value in zip(topology.row, topology.col, net[2].values, strict=True):
    print(f"output {row}, input {column}: {value:+.4f}")
first = net[2].values[topology.position(0, topology.col[0])]
print(f"the edge from input {topology.col[0]} by its place: {first:+.4f}")

# %%
# All at once, and by name
# ------------------------
# A dotted name leads to a parameter, from ``state_dict`` or through ``get_parameter``.

print(*[(name, tuple(parameter.shape)) for name, parameter in net.named_parameters()], sep="\n")
print("2.bias:", net.state_dict()["2.bias"], "and", net.get_parameter("2.bias").data)

# %%
# Nested blocks
# -------------
# A block of two layers, made four times by a factory, inside another network.


def block():
    return nn.Sequential(
        st.nn.SparseLinear(4, 8, density=0.5),
        nn.ReLU(),
        st.nn.SparseLinear(8, 4, density=0.5),
        nn.ReLU(),
    )


def four_blocks():
    blocks = nn.Sequential()
    for k in range(4):
        blocks.add_module(f"block {k}", block())
    return blocks


nested = nn.Sequential(four_blocks(), st.nn.SparseLinear(4, 1, density=0.5))
print(nested)
print("net[0][1][0].bias, the first layer of the second block:", nested[0][1][0].bias.data)
print(
    len(list(nested.parameters())),
    "parameters,",
    sum(p.numel() for p in nested.parameters()),
    "numbers in them",
)

# %%
# The dense twin
# --------------
# ``st.convert.densify`` puts ``nn.Linear`` in place of every sparse layer, with zeros where there is no edge. Reading
# the twin takes the same expressions, with ``weight`` for ``values``, and in float64 both give the same numbers.

nested.double()
twin = st.convert.densify(copy.deepcopy(nested))
names = [name.replace("values", "weight") for name, _ in nested.named_parameters()]
print("the same names:", names == [name for name, _ in twin.named_parameters()])
print("the same bias:", torch.equal(nested[0][1][0].bias, twin[0][1][0].bias))
y = nested(x.double())
difference = (y - twin(x.double())).abs().max().item()
print(f"largest difference of the outputs: {difference:.0e}")

# sphinx_gallery_thumbnail_path = "_static/p10.png"
