r"""
11. Initializing parameters
===========================

This page initializes layers with small random numbers, with a constant, with different rules for different layers, with
a custom rule, and by setting values directly. ``st.init`` has the rules of ``torch.nn.init`` for sparse layers: it
draws one number for each existing edge. For rules that depend on fan-in and fan-out, the edges are counted:

.. math:: \text{fan}_{in} = \frac{\text{edges}}{\text{outputs}}, \qquad
          \text{fan}_{out} = \frac{\text{edges}}{\text{inputs}} .
"""

import math

import matplotlib.pyplot as plt
import torch
from torch import nn

import sparsetrain as st

INPUTS, HIDDEN, DENSITY = 400, 800, 0.1
BLUE = "#0072B2"  # Okabe and Ito's, for colour-blind readers


def is_sparse(layer):
    return isinstance(layer, st.nn.SparseLinear)


torch.manual_seed(0)
net = nn.Sequential(
    st.nn.SparseLinear(INPUTS, HIDDEN, density=DENSITY),
    nn.ReLU(),
    st.nn.SparseLinear(HIDDEN, 1, density=0.5),
)

# %%
# Small random numbers, and a constant
# ------------------------------------
# ``apply`` calls a function with every layer of a network.


def small(layer):
    if is_sparse(layer):
        st.init.normal_(layer, mean=0, std=0.01)
        nn.init.zeros_(layer.bias)


def ones(layer):
    if is_sparse(layer):
        st.init.constant_(layer, 1)
        nn.init.zeros_(layer.bias)


net.apply(small)
print(
    f"normal: mean {net[0].values.mean():+.5f}, deviation {net[0].values.std():.5f},"
    f" bias {net[0].bias[0]:.0f}"
)
net.apply(ones)
print(f"constant: {net[0].values[:3].tolist()}, bias {net[0].bias[0]:.0f}")

# %%
# Xavier for one layer, 42 for another
# ------------------------------------
# Xavier draws from U(-a, a) with a² = 6 / (fan in + fan out). The rule keeps the scale of outputs close to that of
# inputs, and likewise for gradients. A dense layer of this shape has ten times the fan-in and fan-out. With these, the
# weights would be too small for a tenth of the edges. The last column is the standard deviation of an output, for
# inputs of standard deviation 1.

st.init.xavier_uniform_(net[0], generator=torch.Generator().manual_seed(1))
st.init.constant_(net[2], 42)

t = net[0].topology
fans = {
    "fans in edges": (t.nnz / HIDDEN, t.nnz / INPUTS),
    "fans of a dense layer": (INPUTS, HIDDEN),
}
x = torch.randn(1000, INPUTS)
bound = math.sqrt(6 / sum(fans["fans in edges"]))
with torch.no_grad():
    spread = (net[0](x) - net[0].bias).std().item()
print("                       fan in  fan out  bound a  deviation of an output")
for name, (fan_in, fan_out) in fans.items():
    a = math.sqrt(6 / (fan_in + fan_out))
    print(f"{name:21}  {fan_in:6.0f}  {fan_out:7.0f}  {a:7.4f}  {spread * a / bound:22.3f}")
print(
    f"largest value drawn: {net[0].values.abs().max():.4f}; the other layer: {net[2].values[:3].tolist()}"
)

# %%
# The dense twin
# --------------
# torch draws random numbers from a generator in the same state, and they are written into a full matrix in float64. The
# weights are the same, and the outputs are the same up to the rounding of float32.

drawn = (
    torch.empty(t.nnz).uniform_(-bound, bound, generator=torch.Generator().manual_seed(1)).double()
)
W = torch.zeros(HIDDEN, INPUTS, dtype=torch.float64)
W[t.row.long(), t.col.long()] = drawn
apart_values = (net[0].values - drawn).abs().max().item()
apart_outputs = (net[0](x) - (x.double() @ W.t() + net[0].bias)).abs().max().item()
print(
    f"largest difference from the dense twin: of a weight {apart_values:.0e},"
    f" of an output {apart_outputs:.0e}"
)

# %%
# A custom rule
# -------------
# U(5, 10) with probability 1/4, 0 with 1/2, U(-10, -5) with 1/4: draw from U(-10, 10), and set values closer to zero
# than 5 to zero. ``custom_`` passes the rule a tensor with one number for each edge. The rule changes it in place or
# returns a tensor.


def far_from_zero(values):
    values.uniform_(-10, 10)
    values *= values.abs() >= 5


st.init.custom_(net[0], far_from_zero)
w = net[0].values.detach().clone()
shares = {"from 5 to 10": (w >= 5), "zero": (w == 0), "from -10 to -5": (w <= -5)}
for name, where in shares.items():
    print(f"{name:14}  {where.float().mean():.3f}")

# %%

figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.hist(w.numpy(), bins=40, range=(-10, 10), color=BLUE)
axes.set(xlabel="value", ylabel=f"edges, of {t.nnz:,}", title="Values by the custom rule")
axes.spines[["top", "right"]].set_visible(False)
axes.grid(alpha=0.25)
plt.show()

# %%
# Setting values directly
# -----------------------
# Use ``no_grad``, so that autograd does not record the change. Here 1 is added to all values, and one value is set to
# 42, by the position of its edge.

first = t.position(0, t.col[0])  # of output 0 and its first input
with torch.no_grad():
    before = net[0].values.clone()
    net[0].values += 1
    net[0].values[first] = 42
print(
    "all plus one:",
    torch.equal(net[0].values[1:], before[1:] + 1),
    "and one:",
    net[0].values[first].item(),
)

# %%
# Every rule also accepts a set of edges, for instance those of the first ten inputs:

st.init.normal_(net[0], std=0.01, edges=t.col < 10)
for name, where in {"first ten inputs": t.col < 10, "others": t.col >= 10}.items():
    print(
        f"{name}: {int(where.sum()):,} edges, standard deviation {net[0].values[where].std():.3f}"
    )
