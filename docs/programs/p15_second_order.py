r"""
15. Curvature over used rows, and Hessian-free steps
====================================================

Second-order methods solve :math:`(G + \lambda) d = -g` with the curvature :math:`G` of the loss. Of a table whose rows are
looked up, a batch uses a few: the others have zero rows and columns in G. ``st.curvature`` has matrices over the used
rows alone, and ``st.optim.HessianFree`` steps these. This page looks at what the unused rows break, what they do not,
and at a deep autoencoder of sparse layers.
"""

import time

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import sparsetrain as st

ROWS, BATCH, STEPS, EPOCHS = 12, 30, 12, 60
BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#555555"  # Okabe and Ito's

# %%
# A model with a table
# --------------------
# Words of three numbers each, and a linear layer that sorts them into four classes. The batch uses the even words. The
# twin is the same model by plain torch: its Gauss-Newton matrix over the whole table is J' H J, with the Jacobian J of
# the outputs and the second derivative H of softmax cross-entropy.

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
model = nn.Sequential(st.nn.LookupTable(ROWS, 3, dtype=torch.float64), nn.Linear(3, 4, bias=False))
ids = 2 * torch.randint(ROWS // 2, (BATCH,))
ids[: ROWS // 2] = 2 * torch.arange(ROWS // 2)
labels = torch.randint(4, (BATCH,))
loss = nn.CrossEntropyLoss()

operator = st.curvature.ggn(model, loss, (ids, labels))
restricted = operator.to_dense()
for entry in operator.entries:
    print(f"{entry.name}: {entry.shape}", "" if entry.rows is None else f"rows {entry.rows.tolist()}")


def outputs(table, weight):
    return table[ids] @ weight.t()


def whole_matrix():
    parameters = tuple(p.detach() for p in model.parameters())
    parts = torch.autograd.functional.jacobian(outputs, parameters)
    J = torch.cat([part.reshape(BATCH, 4, -1) for part in parts], 2)
    p = outputs(*parameters).softmax(1)
    H = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) / BATCH
    return torch.einsum("nci,ncd,ndj->ij", J, H, J)


whole = whole_matrix()
used = torch.ones(whole.shape[0], dtype=torch.bool)
used[: 3 * ROWS] = (torch.arange(ROWS) % 2 == 0).repeat_interleave(3)
print(f"largest difference on used rows: {(whole[used][:, used] - restricted).abs().max():.0e}")
print(f"whole: {len(whole)} x {len(whole)}, restricted: {len(restricted)} x {len(restricted)}")

# %%
# Its eigenvalues. Zeros of the whole matrix stand at the left edge: three for each unused row. A few small ones are
# left in both: adding a constant to all classes changes no probability, and a table may be scaled up where the layer is
# scaled down. Damping is needed in either case; restricting takes away the zeros that are there for no reason.

spectra = {"whole table": torch.linalg.eigvalsh(whole), "used rows": torch.linalg.eigvalsh(restricted)}
figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for (name, values), color in zip(spectra.items(), (ORANGE, BLUE), strict=True):
    axes.plot(torch.arange(len(values)), values.clamp(min=1e-18), "o-", color=color, label=name, markersize=3)
axes.set(yscale="log", xlabel="eigenvalue, in rising order", ylabel="value; below 1e-18 drawn there")
axes.legend(frameon=False)
axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# What breaks on unused rows, and what does not
# ---------------------------------------------
# Not with damping: the damped step of the whole table equals that of the used rows, and is zero elsewhere. Conjugate
# gradients that start at zero never leave the used rows either, even without damping.
#
# What breaks: a direct solution without damping; a preconditioner :math:`d^{-3/4}` of the squared gradients d, which
# divides by zero; and a warm start, since what stands in an unused row has no residual, and is applied once more at
# each step, unchanged. And all vectors have the size of the table.

gradient = torch.zeros(len(whole))
gradient[used] = operator.gradient()
damping = 0.01
step = torch.linalg.solve(whole + damping * torch.eye(len(whole)), -gradient)
small = torch.linalg.solve(restricted + damping * torch.eye(len(restricted)), -gradient[used])
difference = (step[used] - small).abs().max()
print(f"damped: largest difference on used rows {difference:.0e}, elsewhere {step[~used].abs().max():.0e}")
