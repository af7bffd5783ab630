r"""
5. Norms of the stored values
=============================

How large are the values of a layer, or of a set of its edges?

.. math:: \|w\|_p = \Big( \sum_e |w_e|^p \Big)^{1/p} \ (p \ge 1), \qquad \|w\|_\infty = \max_e |w_e|, \qquad
          \|w\|_0 = \text{number of } w_e \ne 0

Weights that do not exist are zeros in the dense matrix, and contribute nothing to any of these. So the norms of the
stored values equal those of the full matrix, but their cost depends only on the number of edges. (The last one is a
count and not a norm: it does not double when w is doubled.)
"""

import math

import matplotlib.pyplot as plt
import torch

import sparsetrain as st

INPUTS, OUTPUTS = 50, 40
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, for colour-blind readers

# %%
# A vector to check by hand
# -------------------------

w = torch.tensor([3.0, -4.0, 0.0], dtype=torch.float64)
print("of (3, -4, 0):")
for p in (1, 2, 3, math.inf):
    print(f"  p = {p:<3}  {st.penalty.lp(w, p).item():.4f}")
print(f"  count of non-zeros: {st.penalty.l0(w).item()}")
print(f"  half the squared norm, what weight decay penalizes: {st.penalty.l2(w).item()}")

# %%
# For p < 1 the triangle inequality does not hold, so this is not a norm, and ``lp`` raises an error.

try:
    st.penalty.lp(w, 0.5)
except ValueError as error:
    print(error)

# %%
# A layer, and a set of its edges
# -------------------------------
# The set has the edges of the first ten inputs, and is given as a ``Topology``. A tenth of the values are zero, which
# affects the count.

torch.manual_seed(0)
layer = st.nn.SparseLinear(INPUTS, OUTPUTS, density=0.2, dtype=torch.float64)
with torch.no_grad():
    layer.values[::10] = 0
t = layer.topology
early = t.col < 10
first_ten = st.Topology.from_coo(t.row[early], t.col[early], t.shape)

# %%
# The dense twin
# --------------
# It computes torch's norms of the full matrix, and of its first ten columns.

W = layer.to_dense().weight.detach()
ps = (1, 1.5, 2, 3, 10, math.inf)
apart = 0.0
print("p    the layer  dense twin  first ten inputs  dense twin")
for p in ps:
    ours = st.penalty.lp(layer, p).item(), st.penalty.lp(layer, p, edges=first_ten).item()
    twins = torch.linalg.vector_norm(W, p).item(), torch.linalg.vector_norm(W[:, :10], p).item()
    apart = max(apart, abs(ours[0] - twins[0]), abs(ours[1] - twins[1]))
    print(f"{p:<3}  {ours[0]:9.5f}  {twins[0]:10.5f}  {ours[1]:16.5f}  {twins[1]:10.5f}")
counts = st.penalty.l0(layer).item(), st.penalty.l0(layer, edges=first_ten).item()
print(f"L0   {counts[0]:9}  {W.count_nonzero():10}  {counts[1]:16}  {W[:, :10].count_nonzero():10}")
print(f"largest difference from the dense twin: {apart:.0e}; edges stored: {t.nnz}")

# %%
# As terms of a loss
# ------------------
# Each norm can be differentiated, and its gradient is finite everywhere: for p = 1 it is 0 at zeros. For p = infinity,
# only the largest weight has a nonzero gradient. The count has no gradient, since small steps do not change it. To
# obtain zeros, use the proximal step of page 4.

for p in (1, 2, math.inf):
    layer.zero_grad()
    st.penalty.lp(layer, p, edges=first_ten).backward()
    g = layer.values.grad
    print(
        f"p = {p:<3}  {int((g != 0).sum()):3} edges have a gradient, the largest of {g.abs().max():.3f}"
    )

# %%
# From p = 1 to infinity, the norm decreases from the sum of all magnitudes to the largest magnitude.

exponents = torch.linspace(1, 12, 100).tolist()
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
sets = {"all edges": (None, BLUE), "first ten inputs": (first_ten, ORANGE)}
for name, (edges, colour) in sets.items():
    axes.semilogy(
        exponents,
        [st.penalty.lp(layer, p, edges=edges).item() for p in exponents],
        color=colour,
        label=name,
    )
    axes.axhline(
        st.penalty.lp(layer, math.inf, edges=edges).item(),
        color=colour,
        linewidth=0.8,
        linestyle=":",
    )
axes.set(xlabel="p", ylabel="norm", title="p-norms of the stored values; dotted: p = infinity")
axes.legend(frameon=False)
axes.spines[["top", "right"]].set_visible(False)
axes.grid(alpha=0.25)
plt.show()
