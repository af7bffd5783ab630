r"""
8. House prices
===============

This program predicts the prices of 2,930 houses in Ames from 73 features. Numeric features are standardized, and
categories are one-hot encoded. The error is that of the logarithm of the price,

.. math:: \sqrt{\frac{1}{n} \sum_i (\log \hat y_i - \log y_i)^2} ,

and five-fold cross-validation chooses the weight decay and the dropout of a network. In a batch, most columns of
one-hot inputs are zero. With ``sparse_grad``, the layer reads and the optimizer updates only the edges of columns that
the batch uses. The weights of a rare category and their optimizer state stay unchanged until the category occurs again.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, train_test_split
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

import sparsetrain as st

EPOCHS, FOLDS = 30, 5
DECAYS, DROPOUTS = (0.0, 1.0, 3.0, 10.0), (0.0, 0.2, 0.5)  # to choose from
PROVED_STEPS = 30  # beside the float64 twin
HIDDEN, DENSITY, BATCH, LR = 64, 0.25, 64, 0.003
BETAS, EPS = (0.9, 0.999), 1e-8
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito's, for colour-blind readers

# %%
# The data
# --------
# A fifth of the houses is kept as a test set. The encoding (means, standard deviations, categories) and the mean log
# price are computed only from the houses that a network trains on, separately in each fold. A category that does not
# occur among these houses is encoded as zeros.

houses = st.data.ames()
known, unseen = train_test_split(houses, test_size=0.2, random_state=0)


def encode(trained_on, *frames):
    """Inputs and log prices of frames, encoded as fitted to the training frame."""
    encoder = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        (
            OneHotEncoder(handle_unknown="ignore", sparse_output=False),
            make_column_selector(dtype_exclude="number"),
        ),
    )
    encoder.fit(trained_on.drop(columns="Sale_Price"))
    for frame in frames:
        inputs = encoder.transform(frame.drop(columns="Sale_Price"))
        yield (
            torch.tensor(inputs, dtype=torch.float32),
            torch.tensor(np.log(frame.Sale_Price.to_numpy())).float(),
        )


data, test = encode(known, known, unseen)
used = torch.tensor([(rows != 0).any(0).float().mean() for rows in data[0].split(BATCH)]).mean()
print(f"{len(known)} training houses, {len(unseen)} test houses, {data[0].shape[1]} inputs")
print(f"inputs that a batch of {BATCH} uses, on average: {used:.0%}")

# %%
# The network
# -----------
# It has one hidden layer, with a quarter of the edges from the inputs.


def network(inputs, dropout):
    first = st.nn.SparseLinear(inputs, HIDDEN, density=DENSITY, sparse_grad=True)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), nn.Linear(HIDDEN, 1))


def train(x, y, decay, dropout, epochs):
    """A network that predicts log prices, and its optimizer."""
    torch.manual_seed(0)
    net = network(x.shape[1], dropout)
    optimizer = st.optim.AdamW(net.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=decay)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            (net(x[batch]).squeeze(1) + y.mean() - y[batch]).square().mean().backward()
            optimizer.step()
    return net.eval(), optimizer


@torch.no_grad()
def error(net, x, y, mean):
    return (net(x).squeeze(1) + mean - y).square().mean().sqrt().item()


# %%
# The dense twin
# --------------
# It takes a few steps in float64, without dropout, with full matrices and an explicit AdamW. It keeps moments and a
# number of steps for every weight of the first layer, and updates only the weights of the used columns.

x, y = (part.double() for part in data)
torch.manual_seed(1)
net = network(x.shape[1], dropout=0.0).double()
optimizer = st.optim.AdamW(net.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=0.1)
weights = [net[0].to_dense().weight, net[0].bias, net[3].weight, net[3].bias]
weights = [weight.detach().clone().requires_grad_() for weight in weights]
mask = net[0].topology.to_mask()
moments = [
    [torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(w)] for w in weights
]  # m, v, steps
for rows in torch.arange(PROVED_STEPS * BATCH).remainder(len(x)).split(BATCH):
    optimizer.zero_grad()
    loss = (net(x[rows]).squeeze(1) + y.mean() - y[rows]).square().mean()
    loss.backward()
    optimizer.step()

    hidden = (x[rows] @ weights[0].t() + weights[1]).relu()
    of_twin = (
        ((hidden @ weights[2].t() + weights[3]).squeeze(1) + y.mean() - y[rows]).square().mean()
    )
    gradients = torch.autograd.grad(of_twin, weights)
    for k, (w, g, (m, v, steps)) in enumerate(zip(weights, gradients, moments, strict=True)):
        moved = mask & (x[rows] != 0).any(0) if k == 0 else torch.ones_like(w, dtype=torch.bool)
        steps += moved
        m[moved] = BETAS[0] * m[moved] + (1 - BETAS[0]) * g[moved]
        v[moved] = BETAS[1] * v[moved] + (1 - BETAS[1]) * g[moved] ** 2
        step = m / (1 - BETAS[0] ** steps) / ((v / (1 - BETAS[1] ** steps)).sqrt() + EPS)
        with torch.no_grad():
            w[moved] = (1 - LR * 0.1) * w[moved] - LR * step[moved]
apart = (net[0].to_dense().weight - weights[0]).abs().max().item()
print(f"loss after {PROVED_STEPS} steps {loss:.6f}, the twin's {of_twin:.6f}")
print(f"largest difference of a weight: {apart:.0e}")

# %%
# Cross-validation
# ----------------

folds = []
for learn, check in KFold(FOLDS, shuffle=True, random_state=0).split(known):
    folds.append(list(encode(known.iloc[learn], known.iloc[learn], known.iloc[check])))


def validated(decay, dropout):
    """Training and validation errors, averaged over the folds."""
    errors = []
    for (x, y), held_out in folds:
        net, _ = train(x, y, decay, dropout, EPOCHS)
        errors.append([error(net, x, y, y.mean()), error(net, *held_out, y.mean())])
    return np.mean(errors, axis=0)


results = {}
for decay in DECAYS:
    results |= {(decay, dropout): validated(decay, dropout) for dropout in DROPOUTS}
    print(f"decay {decay}: validated on {FOLDS} folds", flush=True)
frame = pd.DataFrame(results, index=["trained on", "held out"]).T.rename_axis(["decay", "dropout"])
print(frame.round(4).to_string())
decay, dropout = frame["held out"].idxmin()
print(f"chosen: decay {decay}, dropout {dropout}")

# %%
# Test
# ----
# A network with the chosen pair is trained on all training houses and evaluated on the test houses. It is compared with
# ridge regression on the same inputs, which chooses its own penalty, and with the mean.

net, optimizer = train(*data, decay, dropout, EPOCHS)
ridge = RidgeCV(alphas=np.logspace(-1, 3, 20)).fit(data[0].numpy(), data[1].numpy())
finals = {
    "network": error(net, *test, data[1].mean()),
    "ridge": float(np.sqrt(np.mean((ridge.predict(test[0].numpy()) - test[1].numpy()) ** 2))),
    "mean": (test[1] - data[1].mean()).square().mean().sqrt().item(),
}
for name, final in finals.items():
    print(f"{name:8} {final:.4f}")

# %%
# What "frozen" means
# -------------------
# The optimizer counts the steps of each edge. Numeric inputs are never zero, so their edges take part in every step.
# The edges of a category take part only in steps whose batch has this category. With zero gradients instead, the
# optimizer state of a rare category, and its weights, would decay in between.

steps = optimizer.state[net[0].values]["row_steps"]
total = EPOCHS * -(-len(known) // BATCH)
houses_with = (data[0] != 0).sum(0)[net[0].topology.col.long()]
print("houses with the input   edges   steps of an edge, of", total)
for low, high in ((1, 2), (3, 10), (11, 100), (101, 1000), (1001, len(known))):
    some = (houses_with >= low) & (houses_with <= high)
    print(f"{low:10} to {high:5}  {int(some.sum()):10}   {steps[some].float().mean():8.0f}")

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for kept, colour in zip(DROPOUTS, (BLUE, ORANGE, GREEN), strict=False):
    curve = frame.xs(kept, level="dropout")
    left.plot(range(len(DECAYS)), curve["held out"], "o-", color=colour, label=f"dropout {kept}")
    left.plot(range(len(DECAYS)), curve["trained on"], "o:", color=colour, alpha=0.6)
left.set_xticks(range(len(DECAYS)), [str(decay) for decay in DECAYS])
left.set(
    xlabel="weight decay",
    ylabel="error of the log price",
    title="Houses held out; dotted: trained on",
)
left.set_ylim(0, 0.2)
left.legend(frameon=False, loc="lower right")
right.plot(houses_with, steps, ".", color=BLUE, alpha=0.3)
right.set(
    xscale="log",
    xlabel="houses with an input",
    ylabel="steps of its edges",
    title="Frozen while unused",
)
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
plt.show()
