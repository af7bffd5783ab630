r"""
4. An L1 penalty on chosen edges
================================

A loss L, and a penalty on the size of the weights of a set C of edges:

.. math:: J = L + \lambda \sum_{e \in C} |w_e|

Here all edges are trained, and the edges in C, which come from the last inputs, are penalized. There are three ways to
apply the penalty: as a term of the loss, as a subgradient added in the step, and as a proximal step of the optimizer.
The first two give the same results, and bring weights close to zero. The third makes them exactly zero, so that these
edges can be removed.
"""

import matplotlib.pyplot as plt
import torch

import sparsetrain as st

STEPS = 400
INPUTS, OUTPUTS, SAMPLES = 30, 4, 200
LR, LAMBDAS = 0.1, (0.1, 0.01)
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, for colour-blind readers

# %%
# The edges and the data
# ----------------------
# The layer has half of all possible edges. The targets depend on the first 20 inputs. C contains the edges of the last
# 15 inputs, 10 of which have no effect on the targets. (Pages 1 and 3 choose which edges are trained.) An edge set is a
# ``Topology`` that is part of the layer's, or a list of positions in ``values``, or a boolean mask, as here.

torch.manual_seed(0)
topology = st.patterns.uniform((OUTPUTS, INPUTS), 0.5)
chosen = topology.col >= INPUTS - 15
needed = topology.col < INPUTS - 10
x = torch.randn(SAMPLES, INPUTS, dtype=torch.float64)
y = st.ops.linear(x, topology, needed * torch.randn(topology.nnz, dtype=torch.float64))
y += 0.1 * torch.randn(y.shape, dtype=torch.float64)
start = torch.randn(topology.nnz, dtype=torch.float64)
print(
    f"{topology.nnz} edges, {int(chosen.sum())} of them in C,"
    f" of those {int((chosen & ~needed).sum())} not needed"
)


def new_layer():
    layer = st.nn.SparseLinear(INPUTS, OUTPUTS, bias=False, topology=topology, dtype=torch.float64)
    with torch.no_grad():
        layer.values.copy_(start)
    return layer


def data_loss(layer):
    return 0.5 * (layer(x) - y).square().sum(1).mean()


# %%
# Three forms
# -----------


def term_of_the_loss(layer, lam):
    optimizer = st.optim.SGD(layer.parameters(), lr=LR)

    def step():
        optimizer.zero_grad()
        (data_loss(layer) + lam * st.penalty.l1(layer, edges=chosen)).backward()
        optimizer.step()

    return step


def subgradient(layer, lam):
    optimizer = st.optim.SGD(layer.parameters(), lr=LR)

    def step():
        optimizer.zero_grad()
        data_loss(layer).backward()
        layer.values.grad[chosen] += lam * layer.values.detach()[chosen].sign()
        optimizer.step()

    return step


# %%
# After the gradient step of the loss, the proximal step moves every weight in C by lr * lambda towards zero, but not
# beyond zero: ``w <- sign(w) max(|w| - lr * lambda, 0)``. The optimizer's option ``l1`` is lambda: a number for all
# edges of a group, or a tensor with one number for each edge.


def proximal(layer, lam):
    optimizer = st.optim.SGD([{"params": [layer.values], "l1": lam * chosen.double()}], lr=LR)

    def step():
        optimizer.zero_grad()
        data_loss(layer).backward()
        optimizer.step()

    return step


# %%
# The dense twin
# --------------
# It has a full matrix with masks, and explicit formulas.

mask, penalized = topology.to_mask().double(), torch.zeros(OUTPUTS, INPUTS, dtype=torch.float64)
edges = topology.row.long(), topology.col.long()
penalized[edges] = chosen.double()


def twin(lam, is_proximal):
    W = torch.zeros(OUTPUTS, INPUTS, dtype=torch.float64)
    W[edges] = start
    for _ in range(STEPS):
        gradient = mask * ((x @ W.t() - y).t() @ x) / SAMPLES
        if is_proximal:
            W = W - LR * gradient
            W = W.sign() * (W.abs() - LR * lam * penalized).clamp(min=0)
        else:
            W = W - LR * (gradient + lam * penalized * W.sign())
    return W[edges]


# %%
# Results
# -------

paths, layers = {}, {}
print(
    "lambda  form              loss    sum |w| in C  below 0.01  exactly 0  difference from the twin"
)
for lam in LAMBDAS:
    for form in (term_of_the_loss, subgradient, proximal):
        layer = layers[form, lam] = new_layer()
        step, path = form(layer, lam), []
        for _ in range(STEPS):
            path.append(layer.values.detach()[chosen & ~needed])
            step()
        paths[form, lam] = torch.stack(path)
        w = layer.values.detach()[chosen]
        counts = f"{int((w.abs() < 0.01).sum()):10}  {int((w == 0).sum()):9}"
        apart = (layer.values - twin(lam, form is proximal)).abs().max()
        name = form.__name__.replace("_", " ")
        size = st.penalty.l1(layer, edges=chosen).item()
        print(
            f"{lam:<6}  {name:16}  {data_loss(layer).item():.4f}  {size:12.4f}  {counts}  {apart:.0e}"
        )

# %%

figure, both = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
for axes, form, colour in zip(both, (term_of_the_loss, proximal), (ORANGE, BLUE), strict=True):
    path = paths[form, 0.1].abs()
    axes.semilogy(path.where(path > 0, torch.nan), color=colour, linewidth=1)
    axes.axhline(LR * 0.1, color="#555555", linestyle="--", label="lr * lambda")
    axes.set(title=form.__name__.replace("_", " "), xlabel="step", xlim=(0, 80), ylim=(1e-5, 10))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
both[0].set_ylabel("|w| of edges without effect")
both[0].legend(frameon=False)
figure.suptitle("lambda = 0.1: a subgradient step passes zero, a proximal step stops at zero")
plt.show()

# %%
# Removing the zeros
# ------------------
# ``drop_zeros`` removes these edges from the layer in place. The parameter is the same object with fewer values, the
# optimizer state becomes smaller too, and training can continue.

layer = layers[proximal, 0.1]
optimizer = st.optim.SGD(layer.parameters(), lr=LR)
before = layer(x)
print("edges dropped:", st.convert.drop_zeros(layer, optimizer)[""], "of", topology.nnz)
print(f"outputs changed by {(layer(x) - before).abs().max():.0e}; now {layer}")
for _ in range(100):
    optimizer.zero_grad()
    data_loss(layer).backward()
    optimizer.step()
print(f"after 100 more steps without a penalty the loss is {data_loss(layer).item():.4f}")

# %%
# Two mistakes to avoid
# ---------------------
# **Lambda twice.** One of the programs that this page is based on has the penalty in the loss, and adds the subgradient
# in the step as well. This doubles lambda:

both_forms, doubled = new_layer(), new_layer()
optimizer = st.optim.SGD(both_forms.parameters(), lr=LR)
once = term_of_the_loss(doubled, 2 * 0.1)
for _ in range(50):
    optimizer.zero_grad()
    (data_loss(both_forms) + 0.1 * st.penalty.l1(both_forms, edges=chosen)).backward()
    both_forms.values.grad[chosen] += 0.1 * both_forms.values.detach()[chosen].sign()
    optimizer.step()
    once()
twice = (both_forms.values - doubled.values).abs().max().item()
print(f"lambda 0.1 in both places, beside lambda 0.2 in one: largest difference {twice:.0e}")

# %%
# **A mask with other numbers than zeros and ones.** These programs store the mask as a sparse tensor of random numbers,
# and multiply the gradient by it. So each number in the mask acts as a separate learning rate for its edge. A mask must
# contain only zeros and ones. An edge set has no such numbers.

layer = new_layer()
data_loss(layer).backward()
numbers = torch.rand(topology.nnz, dtype=torch.float64)  # where a mask must have ones
meant, done = LR * layer.values.grad, LR * numbers * layer.values.grad
ratio = done / meant
print(
    f"steps by such a mask, as multiples of what is meant: {ratio.min():.2f} to {ratio.max():.2f}"
)
