r"""
6. Weight decay
===============

A linear regression with more inputs than samples, 200 inputs and 20 training samples, overfits. Weight decay reduces
the overfitting. The penalty and the objective are

.. math:: \frac{\lambda}{2} \|w\|^2, \qquad
          J = \frac{1}{|B|} \sum_{i \in B} \frac{1}{2} (w^T x_i + b - y_i)^2 + \frac{\lambda}{2} \|w\|^2

and a step of gradient descent on a batch B is

.. math:: w \leftarrow (1 - \eta \lambda) \, w - \frac{\eta}{|B|} \sum_{i \in B} (w^T x_i + b - y_i) \, x_i, \qquad
          b \leftarrow b - \frac{\eta}{|B|} \sum_{i \in B} (w^T x_i + b - y_i).

Only the stored values decay, since there are no others. The program is written three times: by hand, with the penalty
in the loss, and with the optimizer's ``weight_decay``. All three give the same results.
"""

import matplotlib.pyplot as plt
import torch

import sparsetrain as st

EPOCHS = 100
INPUTS, TRAINING, TEST, BATCH = 200, 20, 100, 5
LR = 0.003
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, for colour-blind readers

# %%
# The data
# --------
# ``y = 0.05 + sum of 0.01 x + noise``, with noise of standard deviation 0.01.

torch.manual_seed(0)
x = torch.randn(TRAINING + TEST, INPUTS, dtype=torch.float64)
y = x @ torch.full((INPUTS,), 0.01, dtype=torch.float64) + 0.05
y += 0.01 * torch.randn(len(y), dtype=torch.float64)
x_test, y_test = x[TRAINING:], y[TRAINING:]
order = [
    torch.randperm(TRAINING).split(BATCH) for _ in range(EPOCHS)
]  # the same batches for everyone


def new_layer():
    """One output, an edge from every input; weights from N(0, 1), the bias zero."""
    layer = st.nn.SparseLinear(INPUTS, 1, density=1.0, dtype=torch.float64)
    st.init.normal_(layer, generator=torch.Generator().manual_seed(1))
    torch.nn.init.zeros_(layer.bias)
    return layer


def half_squares(prediction, target):
    return 0.5 * (prediction.squeeze(-1) - target).square().mean()


def run(layer, step):
    """Train; the losses on both parts before the first epoch and after every fifth."""
    losses = []
    for epoch in range(EPOCHS + 1):
        if epoch % 5 == 0:
            with torch.no_grad():
                parts = ((x[:TRAINING], y[:TRAINING]), (x_test, y_test))
                losses.append(
                    [half_squares(layer(inputs), targets).item() for inputs, targets in parts]
                )
        for batch in order[epoch] if epoch < EPOCHS else ():
            step(x[batch], y[batch])
    return torch.tensor(losses, dtype=torch.float64)


# %%
# By hand
# -------
# The two formulas, applied to ``values``. With one output and an edge from every input, the gradient of the values is
# ``error @ inputs``. ``st.ops.sddmm`` computes it for any topology.


def by_hand(layer, lam, data=1.0, bias_lam=0.0):
    @torch.no_grad()
    def step(inputs, targets):
        error = data * (layer(inputs).squeeze(-1) - targets)
        layer.values.mul_(1 - LR * lam).sub_(LR / len(inputs) * (error @ inputs))
        layer.bias.mul_(1 - LR * bias_lam).sub_(LR / len(inputs) * error.sum())

    return step


# %%
# The penalty in the loss
# -----------------------


def in_the_loss(layer, lam):
    optimizer = torch.optim.SGD(layer.parameters(), lr=LR)

    def step(inputs, targets):
        optimizer.zero_grad()
        (half_squares(layer(inputs), targets) + lam / 2 * layer.values.square().sum()).backward()
        optimizer.step()

    return step


# %%
# By the optimizer
# ----------------
# There are two parameter groups, so that the bias does not decay: a group without ``weight_decay`` has the optimizer's
# default, which is 0.


def by_the_optimizer(layer, lam):
    groups = [{"params": [layer.values], "weight_decay": lam}, {"params": [layer.bias]}]
    optimizer = st.optim.SGD(groups, lr=LR)

    def step(inputs, targets):
        optimizer.zero_grad()
        half_squares(layer(inputs), targets).backward()
        optimizer.step()

    return step


# %%
# All three, and the dense twin
# -----------------------------
# The twin is ``torch.nn.Linear`` in float64 with torch's SGD.


def twin(lam):
    linear = torch.nn.Linear(INPUTS, 1, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(new_layer().to_dense().weight)
        linear.bias.zero_()
    groups = [{"params": [linear.weight], "weight_decay": lam}, {"params": [linear.bias]}]
    optimizer = torch.optim.SGD(groups, lr=LR)
    for epoch in order:
        for batch in epoch:
            optimizer.zero_grad()
            half_squares(linear(x[batch]), y[batch]).backward()
            optimizer.step()
    return linear


curves, norms = {}, {}
print("lambda  way               ||w||   train loss  test loss  difference from the twin")
for lam in (0, 3):
    dense = twin(lam)
    for way in (by_hand, in_the_loss, by_the_optimizer):
        layer = new_layer()
        curves[lam] = run(layer, way(layer, lam))
        norms[lam] = layer.values.norm().item()
        name = way.__name__.replace("_", " ")
        apart = max(
            (layer.values - dense.weight[0]).abs().max().item(),
            (layer.bias - dense.bias).abs().item(),
        )
        train, test = curves[lam][-1].tolist()
        print(f"{lam:6}  {name:16}  {norms[lam]:6.3f}  {train:10.2e}  {test:9.3g}  {apart:.0e}")
print(f"the true w has the norm {0.01 * INPUTS**0.5:.3f}")

# %%

figure, both = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
for axes, (lam, curve) in zip(both, curves.items(), strict=True):
    for part, (name, colour) in enumerate({"train": BLUE, "test": ORANGE}.items()):
        axes.semilogy(range(0, EPOCHS + 1, 5), curve[:, part], ".-", color=colour, label=name)
    axes.set(title=f"lambda = {lam}, ||w|| = {norms[lam]:.2f} at the end", xlabel="epoch")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
both[0].set_ylabel("half the mean squared error")
both[0].legend(frameon=False)
plt.show()

# %%
# Three ambiguities
# -----------------
# The program that this page is based on is ambiguous in three points. Each choice changes the results, which are shown
# below for lambda = 3:
#
# * **lambda or lambda / |B|.** Its text divides lambda by the batch size; its code does not. The penalty is added to
#   the *mean* over the batch, so its gradient must not be divided, and the code is right. Divided, a batch of 5 would
#   decay the weights a fifth as much.
# * **The two factors 1/2.** Its short version omits a factor 1/2. Without the 1/2 of the squared error (as in
#   ``torch.nn.MSELoss``), the gradient of the data doubles, which is the same as twice the lr and half the lambda.
#   Without the 1/2 of the penalty, lambda doubles. torch's ``weight_decay`` is lambda with the 1/2.
# * **The bias.** Its short version passes all parameters to the optimizer with one ``weight_decay``. So the bias
#   decays, although its comment says otherwise. Two parameter groups exempt the bias.
#
# This page keeps both factors 1/2, does not divide lambda, and exempts the bias.

readings = {
    "this page": {"lam": 3},
    "lambda / |B|": {"lam": 3 / BATCH},
    "squared error without 1/2": {"lam": 3, "data": 2.0},
    "penalty without 1/2": {"lam": 6},
    "the bias decays too": {"lam": 3, "bias_lam": 3},
}
print("reading                    ||w||       b  test loss")
results = {}
for name, options in readings.items():
    layer = new_layer()
    test = run(layer, by_hand(layer, **options))[-1, 1].item()
    results[name] = layer.values.norm().item(), layer.bias.item(), test
    print("{:25}  {:5.3f}  {:6.3f}  {:9.3g}".format(name, *results[name]))
