r"""
9. A lookup table of which only the used rows are updated
=========================================================

Theano's recipe is ``subset = table[ids]``, a cost that depends only on ``subset``, its gradient with respect to
``subset``, and ``inc_subtensor(subset, -lr * g)`` as the update of the table. The guide *Porting lookup tables from
Theano* has every detail. This page shows the recipe, the same computation with an optimizer, and the problems of a
dense update, in which unused rows have a gradient of zero:

* Plain gradient descent computes these zeros, without any effect.
* In RMSprop, the squared gradients of unused rows decay. Their next step is up to lr / sqrt(1 - alpha), however small
  the
  gradient is.
* In Hessian-free optimization, zero rows and columns make the curvature matrix singular.
"""

import matplotlib.pyplot as plt
import torch

import sparsetrain as st
from sparsetrain.subtensor import function, grad, inc_subtensor, set_subtensor, shared

IDLE_STEPS = 2400  # of a row, before its second use
LR, ALPHA = 0.1, 0.99
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, for colour-blind readers

# %%
# The recipe, with rows
# ---------------------
# The cost is half the sum of squares. So the gradient is the subset itself, and a step multiplies the used rows by 1 -
# lr.

matrix = torch.arange(8.0, dtype=torch.float64).reshape(4, 2)
table = shared(matrix)


@function
def train(ids):
    subset = table[ids]
    cost = 0.5 * (subset**2).sum()
    g = grad(cost, subset)
    return cost, [(table, inc_subtensor(subset, -LR * g))]


cost = train([1, 3])
by_inc = table.get_value()
print(f"cost {cost:.0f}, the table after one step:\n{by_inc}")

# %%
# ``set_subtensor(subset, subset - lr * g)`` is another form of the same update. For *columns*, only one line differs:
# ``subset = table[:, ids]``.

by_set, columns = shared(matrix), shared(matrix.t())
subset = by_set[[1, 3]]
g = grad(0.5 * (subset**2).sum(), subset)
st.subtensor.apply_updates([(by_set, set_subtensor(subset, subset - LR * g))])

subset = columns[:, [1, 3]]
g = grad(0.5 * (subset**2).sum(), subset)
st.subtensor.apply_updates([(columns, inc_subtensor(subset, -LR * g))])

twin = (
    matrix.clone().requires_grad_()
)  # the dense way: a gradient of the whole table, and a step of all of it
(0.5 * (twin[[1, 3]] ** 2).sum()).backward()
dense_gradient = twin.grad
twin = twin.detach() - LR * dense_gradient

print(
    "rows of the dense gradient that are zero:",
    (dense_gradient == 0).all(1).nonzero().flatten().tolist(),
)
for name, result in {
    "inc": by_inc,
    "set": by_set.get_value(),
    "columns": columns.get_value().t(),
}.items():
    print(f"{name:7}  largest difference from the dense twin: {(result - twin).abs().max():.0e}")

# %%
# The same with a layer and an optimizer
# --------------------------------------
# The gradient of a ``LookupTable`` contains only the used rows, and the optimizers of ``st.optim`` update only these
# rows.

layer = st.nn.LookupTable(4, 2, dtype=torch.float64)
layer.load_state_dict({"weight": matrix})
optimizer = st.optim.SGD(layer.parameters(), lr=LR)
(0.5 * layer(torch.tensor([1, 3])).square().sum()).backward()
print("rows in the gradient:", layer.weight.grad.coalesce().indices()[0].tolist())
optimizer.step()
print(f"layer    largest difference from the dense twin: {(layer.matrix - twin).abs().max():.0e}")

# %%
# RMSprop: the squared gradients of an unused row
# -----------------------------------------------
# RMSprop divides by the square root of v, where v <- alpha v + (1 - alpha) g². Row 0 is used once with a gradient of 1,
# then not for a number of steps, then with a gradient of 0.001. In a dense optimizer, v shrinks by the factor alpha at
# each idle step. Here it stays unchanged (``unused="frozen"``, the default). A step is bounded, and it reaches the
# bound when v has become small:
#
# .. math:: \eta \, \frac{|g|}{\sqrt{\alpha v + (1 - \alpha) g^2}} \le \frac{\eta}{\sqrt{1 - \alpha}} = 10 \, \eta .


def second_step(unused, idle):
    """How far row 0 moves at its second use, divided by lr."""
    table = st.nn.LookupTable(2, 1, dtype=torch.float64)
    optimizer = st.optim.RMSprop(table.parameters(), lr=LR, alpha=ALPHA, unused=unused)
    for row, slope in [(0, 1.0), *[(1, 1.0)] * idle, (0, 0.001)]:
        y = table(torch.tensor([row]))
        optimizer.zero_grad()
        (slope * y).sum().backward()
        optimizer.step()
    return (y - table.matrix[0]).item() / LR


def second_step_of_the_twin(idle):
    """The same by torch's own RMSprop, over the whole table."""
    weight = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.RMSprop([weight], lr=LR, alpha=ALPHA)
    for row, slope in [(0, 1.0), *[(1, 1.0)] * idle, (0, 0.001)]:
        before = weight[row].item()
        optimizer.zero_grad()
        (slope * weight[row]).sum().backward()
        optimizer.step()
    return (before - weight[0].item()) / LR


idle = range(0, IDLE_STEPS + 1, IDLE_STEPS // 6)
steps = {unused: [second_step(unused, k) for k in idle] for unused in ("frozen", "dense")}
of_twin = [second_step_of_the_twin(k) for k in idle]
print("idle steps  frozen    dense    torch, dense")
for k, frozen, dense, torchs in zip(idle, steps["frozen"], steps["dense"], of_twin, strict=True):
    print(f"{k:10}  {frozen:.4f}  {dense:7.4f}  {torchs:7.4f}")
print(f"limit: 1 / sqrt(1 - alpha) = {(1 - ALPHA) ** -0.5:.0f}")

# %%

figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
axes.plot(idle, steps["frozen"], "o-", color=BLUE, label='unused="frozen"')
axes.plot(idle, steps["dense"], "s-", color=ORANGE, label='unused="dense"')
axes.axhline((1 - ALPHA) ** -0.5, color="#555555", linestyle="--", label="1 / sqrt(1 - alpha)")
axes.set(yscale="log", xlabel="idle steps before the row's second use", ylabel="its step / lr")
axes.set_title("Step for a gradient of 0.001, after a first gradient of 1")
axes.legend(frameon=False)
axes.spines[["top", "right"]].set_visible(False)
axes.grid(alpha=0.25)
plt.show()

# %%
# Curvature: singular over all rows, regular over the used ones
# -------------------------------------------------------------
# Hessian-free optimization solves G d = -g with the Gauss-Newton matrix :math:`G = J^T J`, where J is the Jacobian of
# the outputs. For a row that is not used, G has zero rows and columns. Here the outputs are products of the used rows
# with fixed features. The table has six rows of two numbers, and two of the rows are used. Over the whole table, G is
# 12 x 12 and has rank 4. Over the used rows, it is 4 x 4 and has rank 4, so the system has exactly one solution.

torch.manual_seed(0)
features, target = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
weight, ids = torch.randn(6, 2, dtype=torch.float64), torch.tensor([1, 4])


def gauss_newton(outputs, at):
    jacobian = torch.autograd.functional.jacobian(outputs, at).reshape(-1, at.numel())
    return jacobian.t() @ jacobian, jacobian.t() @ (outputs(at) - target).flatten()


spaces = {
    "all rows": gauss_newton(lambda table: table[ids] @ features, weight),
    "used rows": gauss_newton(lambda subset: subset @ features, weight[ids]),
}
for name, (G, g) in spaces.items():
    d, info = torch.linalg.solve_ex(G, -g)
    size = f"{len(G)} x {len(G)}, rank {torch.linalg.matrix_rank(G)}"
    print(
        f"{name:9}  {size:14}  G d = -g: "
        + ("no unique solution, G is singular" if info else "solved")
    )

# %%
# A cost that is quadratic in the subset reaches its minimum in one such step, here written with ``inc_subtensor``:

table = shared(weight)
subset = table[ids]
st.subtensor.apply_updates([(table, inc_subtensor(subset, d.reshape(2, 2)))])
left = (table[ids] @ features - target) @ features.t()
print(f"largest gradient of a used row after the step: {left.abs().max():.0e}")
print("other rows untouched:", torch.equal(table.get_value()[[0, 2, 3, 5]], weight[[0, 2, 3, 5]]))

# %%
# Curvature with a layer and an optimizer
# ---------------------------------------
# ``st.curvature.ggn`` is the Gauss-Newton matrix over the rows that a batch uses, as a linear operator.
# ``st.optim.HessianFree`` computes the step by conjugate gradients. It reads and updates only the used rows and their
# state. The damping is tiny here, since the cost is quadratic. Program 15 shows what damping is for.

curved = st.nn.LookupTable(6, 2, dtype=torch.float64)
curved.load_state_dict({"weight": weight})


def cost_of(rows, target):
    return 0.5 * (rows @ features - target).square().sum()


operator = st.curvature.ggn(curved, cost_of, (ids, target))
print("rows of the operator:", operator.entries[0].rows.tolist())
print(f"largest difference from J^T J: {(operator.to_dense() - G).abs().max():.0e}")

optimizer = st.optim.HessianFree(curved.parameters(), damping=1e-12, tolerance=0.0)
optimizer.step(lambda: curved(ids), lambda rows: cost_of(rows, target))
print(
    f"largest difference from the step above: {(curved.matrix - table.get_value()).abs().max():.0e}"
)
