"""
10. Accessing parameters
========================

A sparse layer is a ``torch.nn.Module``. It has a one-dimensional parameter ``values`` where a dense layer has
``weight``. All usual ways to access parameters work: ``state_dict``, ``named_parameters``, and indexing into nested
blocks. This page shows them on a network 4-8-1 with half of the edges.
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
# ``state_dict`` contains the values, the bias and the edges, so that values are never loaded into a layer with other
# edges. The edges are stored as ``_extra_state``, torch's key for state that is neither a parameter nor a buffer: the
# CSR structure and its digest.

for name, tensor in net[2].state_dict().items():
    print(f"{name:12} {tuple(tensor.shape)!s:8} {tensor.dtype}")

# %%
# One parameter
# -------------
# A parameter has data and a gradient, which is None before the first backward pass.

print(type(net[2].bias).__name__, net[2].bias.data)
print(type(net[2].values).__name__, net[2].values.data)
print("grad is None before backward:", net[2].values.grad is None)
net(x).sum().backward()
print("and after:", net[2].values.grad)

# %%
# Values are in the order of the edges, row by row. The topology has the row and column of each value, and
# ``topology.position`` returns the position of an edge in ``values``.

topology = net[2].topology
for row, column, value in zip(topology.row, topology.col, net[2].values, strict=True):
    print(f"output {row}, input {column}: {value:+.4f}")
first = net[2].values[topology.position(0, topology.col[0])]
print(f"the edge from input {topology.col[0]}, by its position: {first:+.4f}")

# %%
# All at once, and by name
# ------------------------
# ``state_dict`` and ``get_parameter`` access a parameter by its dotted name.

print(*[(name, tuple(parameter.shape)) for name, parameter in net.named_parameters()], sep="\n")
print("2.bias:", net.state_dict()["2.bias"], "and", net.get_parameter("2.bias").data)

# %%
# Nested blocks
# -------------
# A function creates a block of two layers four times, inside another network.


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
# ``st.convert.densify`` replaces every sparse layer by ``nn.Linear``, with zeros where there is no edge. The same
# expressions access the twin's parameters, with ``weight`` in place of ``values``. In float64 both networks give the
# same outputs.

nested.double()
twin = st.convert.densify(copy.deepcopy(nested))
names = [name.replace("values", "weight") for name, _ in nested.named_parameters()]
print("the same names:", names == [name for name, _ in twin.named_parameters()])
print("the same bias:", torch.equal(nested[0][1][0].bias, twin[0][1][0].bias))
y = nested(x.double())
difference = (y - twin(x.double())).abs().max().item()
print(f"largest difference of the outputs: {difference:.0e}")

# sphinx_gallery_thumbnail_path = "_static/p10.png"
