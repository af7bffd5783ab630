r"""
15. Curvature over used rows, and Hessian-free steps
====================================================

Second-order methods solve :math:`(G + \lambda I) d = -g` with a curvature matrix :math:`G` of the loss. A batch uses
only a few rows of a lookup table; the other rows have zero rows and columns in G. ``st.curvature`` has matrices over
the used rows only, and ``st.optim.HessianFree`` updates only these. This page shows for which methods the unused rows
are a problem, and trains a deep autoencoder of sparse layers.
"""

import time
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import sparsetrain as st

ROWS, BATCH = 12, 30
IMAGES, STEPS, EPOCHS = 500, 10, 200
BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#555555"  # Okabe and Ito's

# %%
# A model with a table
# --------------------
# A table has twelve words with three numbers each, and a fixed linear layer classifies them into four classes. The
# batch uses only the words with an even number. The twin is the same model in plain torch: its Gauss-Newton matrix over
# the whole table is :math:`J^T H J`, with the Jacobian J of the outputs and the second derivative H of softmax
# cross-entropy.

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
model = nn.Sequential(st.nn.LookupTable(ROWS, 3, dtype=torch.float64), nn.Linear(3, 4, bias=False))
model[1].requires_grad_(False)
ids = 2 * torch.randint(ROWS // 2, (BATCH,))
ids[: ROWS // 2] = 2 * torch.arange(ROWS // 2)
labels = torch.randint(4, (BATCH,))
loss = nn.CrossEntropyLoss()

operator = st.curvature.ggn(model, loss, (ids, labels))
restricted = operator.to_dense()
for entry in operator.entries:
    print(
        f"{entry.name}: {entry.shape}", "" if entry.rows is None else f"rows {entry.rows.tolist()}"
    )


def whole_matrix():
    table, weight = model[0].matrix.detach(), model[1].weight
    J = torch.autograd.functional.jacobian(lambda table: table[ids] @ weight.t(), table).reshape(
        BATCH, 4, -1
    )
    p = (table[ids] @ weight.t()).softmax(1)
    H = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) / BATCH
    return torch.einsum("nci,ncd,ndj->ij", J, H, J)


whole = whole_matrix()
used = (torch.arange(ROWS) % 2 == 0).repeat_interleave(3)
print(f"largest difference on used rows: {(whole[used][:, used] - restricted).abs().max():.0e}")
print(f"whole: {len(whole)} x {len(whole)}, restricted: {len(restricted)} x {len(restricted)}")

# %%
# The plot has the eigenvalues. Those of the whole matrix include three zeros for each unused row, up to rounding. Over
# the used rows, all are positive. So the restriction removes the zeros of unused rows. Other zeros may remain: if the
# linear layer is trained too, the table can be scaled up and the layer scaled down without an effect on the outputs. So
# damping is still necessary.

spectra = {
    "whole table": torch.linalg.eigvalsh(whole),
    "used rows": torch.linalg.eigvalsh(restricted),
}
figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for (name, values), color in zip(spectra.items(), (ORANGE, BLUE), strict=True):
    axes.plot(
        torch.arange(len(values)),
        values.clamp(min=1e-18),
        "o-",
        color=color,
        label=name,
        markersize=3,
    )
axes.set(yscale="log", xlabel="eigenvalue, in rising order", ylabel="value, at least 1e-18")
axes.legend(frameon=False)
axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# Which methods fail on unused rows
# ---------------------------------
# Two computations over the whole table work:
#
# * A damped step equals the step of the used rows, and is zero elsewhere.
# * Conjugate gradients that start at zero stay on the used rows, even without damping.
#
# Three fail:
#
# * A direct solver without damping: the matrix is singular.
# * A preconditioner :math:`d^{-3/4}` of the squared gradients d: it divides by zero.
# * A warm start: its entries for unused rows are never corrected, and each step applies them again.
#
# Besides, all vectors have the size of the table.

gradient = torch.zeros(len(whole))
gradient[used] = operator.gradient()
damping = 0.01
step = torch.linalg.solve(whole + damping * torch.eye(len(whole)), -gradient)
small = torch.linalg.solve(restricted + damping * torch.eye(len(restricted)), -gradient[used])
difference = (step[used] - small).abs().max()
print(
    f"damped: largest difference on used rows {difference:.0e}, elsewhere {step[~used].abs().max():.0e}"
)

# %%
# The following shows the warm start. Conjugate gradients over the whole table start at a direction with an entry in
# every row, as an earlier batch of other words would leave it. Without damping, the entries of unused rows do not
# change, since the system has no equation for them. ``HessianFree`` keeps one direction for each row, and reads and
# updates only the rows of the batch.


def conjugate_gradients(A, b, x, iterations=200):
    r = b - A @ x
    p = r.clone()
    for _ in range(iterations):
        if r.norm() < 1e-12:
            break
        alpha = (r @ r) / (p @ A @ p)
        x, before = x + alpha * p, r
        r = r - alpha * (A @ p)
        p = r + (r @ r) / (before @ before) * p
    return x


stale = 0.1 * torch.ones(len(whole))
found = conjugate_gradients(whole, -gradient, stale)
print(
    f"started at 0.1 in all rows: unused rows end at {found[~used].min():.2f} to {found[~used].max():.2f}"
)

before = model[0].matrix.detach().clone()
optimizer = st.optim.HessianFree(model.parameters(), damping=damping)
optimizer.step(lambda: model(ids), lambda z: loss(z, labels))
moved = (model[0].matrix != before).any(1)
print("rows that HessianFree moved:", moved.nonzero().flatten().tolist())
print(f"loss {optimizer.report.before:.4f} -> {optimizer.report.after:.4f}")

# %%
# A deep autoencoder
# ------------------
# A network 784-100-30-8-30-100-784 with only sparse layers is trained on some of the MNIST digits. A *pass* is a
# computation over as many samples as the set has: for Adam a gradient; for HessianFree a gradient, each product of
# conjugate gradients and of the preconditioner, and each trial of a step.
#
# All methods first learn the mean image, with a loss of about 207. HessianFree gets past it in a few steps. Adam at a
# usual learning rate stays there for long, and so does Adam with a rate of 0.02 and all images in a batch. Adam with a
# rate of 0.02 and batches of 50 gets past it sooner, and is ahead in passes and in time. Here, curvature saves the
# search for a good learning rate, but no time.

torch.set_default_dtype(torch.float32)
images = st.data.load("mnist").train_images.float()[:IMAGES]


def autoencoder():
    torch.manual_seed(1)
    sizes = [784, 100, 30, 8, 30, 100, 784]
    layers = []
    for place, (i, o) in enumerate(pairwise(sizes)):
        layers.append(st.nn.SparseLinear(i, o, density=max(0.1, 4 / min(i, o))))
        if place not in (2, 5):  # the code, and the logits of the pixels
            layers.append(nn.Tanh())
    return nn.Sequential(*layers)


def cost(z, x):
    return binary_cross_entropy_with_logits(z, x, reduction="sum") / len(x)


def by_hessian_free(steps):
    model, curve, passes, seconds = autoencoder(), [], 0.0, 0.0
    optimizer = st.optim.HessianFree(model.parameters(), iterations=30)
    calls = []

    def forward():
        calls.append(1)
        return model(images)

    for _ in range(steps):
        calls.clear()
        begun = time.perf_counter()
        optimizer.step(forward, lambda z: cost(z, images))
        seconds += time.perf_counter() - begun
        passes += len(calls) + optimizer.report.iterations + 1 + optimizer.defaults["probes"]
        curve.append((passes, seconds, optimizer.report.after))
    return curve


def by_adam(epochs, batch, lr):
    model, curve, seconds = autoencoder(), [], 0.0
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for epoch in range(epochs):
        begun = time.perf_counter()
        for x in torch.split(images[torch.randperm(len(images))], batch):
            optimizer.zero_grad()
            cost(model(x), x).backward()
            optimizer.step()
        seconds += time.perf_counter() - begun
        with torch.no_grad():
            curve.append((epoch + 1, seconds, cost(model(images), images).item()))
    return curve


runs = {
    "HessianFree": lambda: by_hessian_free(STEPS),
    "Adam 0.003, batch 50": lambda: by_adam(EPOCHS, 50, 0.003),
    "Adam 0.02, batch 50": lambda: by_adam(EPOCHS, 50, 0.02),
    "Adam 0.02, all": lambda: by_adam(EPOCHS, len(images), 0.02),
}
curves = {}
for name, run in runs.items():
    curve = curves[name] = run()
    print(f"{name:20} {len(curve):4} steps or epochs, loss {curve[-1][2]:.1f}", flush=True)

figure, panels = plt.subplots(1, 3, figsize=(9, 3.4), sharey=True, layout="constrained")
for place, (axes, label) in enumerate(
    zip(panels, ("steps, or epochs", "passes, all counted", "seconds"), strict=True)
):
    for (name, curve), color in zip(curves.items(), (BLUE, ORANGE, GREEN, GRAY), strict=True):
        x = (
            range(1, len(curve) + 1)
            if place == 0
            else [passes if place == 1 else seconds for passes, seconds, _ in curve]
        )
        axes.plot(x, [loss for _, _, loss in curve], color=color, label=name)
    axes.set(xlabel=label, ylabel="cross-entropy of an image" if place == 0 else "")
    axes.spines[["top", "right"]].set_visible(False)
panels[0].legend(frameon=False)
plt.show()
