r"""
3. Two layers, chosen edges in the first
========================================

A network 2-2-1 with sigmoids, one sample, binary cross-entropy:

.. math:: h = \sigma(x W_1^T), \quad p = \sigma(h W_2^T), \quad
          L = -t \log p - (1 - t) \log (1 - p), \qquad x = (0.5, \ 0.2), \quad t = 0.7 .

In W1 the edges (0, 0), (1, 0) and (1, 1) are trained, and in W2 both edges. The task can be read in two ways: the other
edge of W1 is *frozen* and keeps its value, or it is *absent*. Both take a few lines.
"""

import torch
from torch import nn

import sparsetrain as st

STEPS = 100
LR = 0.1
W1 = torch.tensor([[0.1, 0.4], [-0.3, 0.2]], dtype=torch.float64)
W2 = torch.tensor([[0.5, -0.6]], dtype=torch.float64)
x = torch.tensor([[0.5, 0.2]], dtype=torch.float64)
target = torch.tensor([[0.7]], dtype=torch.float64)
trained = st.Topology.from_coo([0, 1, 1], [0, 1, 0], shape=(2, 2))

# %%
# Both readings
# -------------
# - *Frozen*: ``SparseDeltaLinear`` adds trainable edges to a frozen layer.
# - *Absent*: ``SparseLinear`` has no other edges.
#
# There is a third way: ``st.constrain.frozen(layer, edges)`` freezes single edges of a ``SparseLinear``. It gives the
# same results as ``SparseDeltaLinear``, as the last line of this page shows.


def dense(weight):
    """An nn.Linear with this weight and no bias."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(weight)
    return linear


def network(first):
    return nn.Sequential(first, nn.Sigmoid(), dense(W2), nn.Sigmoid())


frozen = network(st.nn.SparseDeltaLinear(dense(W1), trained))
absent = network(st.nn.SparseLinear.from_dense(dense(W1), mask=trained))


def train(net, steps):
    """The losses before each step."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=LR)
    losses = []
    for _ in range(steps):
        loss = nn.functional.binary_cross_entropy(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %%
# The dense twin
# --------------
# It has full matrices, explicit formulas, and multiplies the gradient of W1 by a mask, which is 1 where an edge is
# trained. For *absent*, the other edge is zero at the start, and the mask keeps it at zero.
#
# .. math:: \frac{\partial L}{\partial o} = p - t, \quad
#           \frac{\partial L}{\partial W_2} = (p - t) \, h, \quad
#           \frac{\partial L}{\partial W_1} = \big( (p - t) \, W_2 \odot h (1 - h) \big)^T x, \qquad o = h W_2^T .
#
# The mask contains only zeros and ones. Random numbers in it, as in the program that this page is based on, would scale
# the gradient, and so give each edge its own random learning rate. An edge set cannot have this error, since it has no
# such numbers.

mask = trained.to_mask().double()


def train_twin(W1, W2, steps):
    losses = []
    for _ in range(steps):
        h = (x @ W1.t()).sigmoid()
        p = (h @ W2.t()).sigmoid()
        losses.append((-target * p.log() - (1 - target) * (1 - p).log()).item())
        of_o = p - target
        of_z = of_o @ W2 * h * (1 - h)
        W1, W2 = W1 - LR * mask * (of_z.t() @ x), W2 - LR * of_o.t() @ h
    return W1, W2, losses


# %%
# One step
# --------

# At the end, *frozen* merges its changes into W1. The network computes the same outputs as before.


def first_weight(net):
    layer = net[0]
    return (layer.merge() if layer is frozen[0] else layer.to_dense()).weight.detach()


def show(name, net):
    loss = nn.functional.binary_cross_entropy(net(x), target).item()
    numbers = *first_weight(net).flatten(), *net[2].weight.flatten(), loss
    print(f"{name:13}", *(f"{number:8.5f} " for number in numbers))


print("               W1[0, 0]  W1[0, 1]  W1[1, 0]  W1[1, 1]  W2[0, 0]  W2[0, 1]  loss")
for name, net in (("frozen", frozen), ("absent", absent)):
    show(name + " before", net)
    train(net, 1)
    show(name + " after", net)

# %%
# More steps
# ----------
# The loss cannot fall below the entropy of the target, 0.6109, which it reaches at p = 0.7.

for name, net, start in (("frozen", frozen, W1), ("absent", absent, W1 * mask)):
    losses = train(net, STEPS - 1)
    of_twin = train_twin(start, W2, STEPS)
    apart = max(
        (first_weight(net) - of_twin[0]).abs().max().item(),
        (net[2].weight - of_twin[1]).abs().max().item(),
        max(abs(a - b) for a, b in zip(losses, of_twin[2][1:], strict=True)),
    )
    print(f"{name}: loss {losses[-1]:.6f} before step {STEPS}, p = {net(x).item():.4f} after it")
    print(f"        largest difference from the dense twin: {apart:.0e}")

constrained = network(st.nn.SparseLinear.from_dense(dense(W1)))
st.constrain.frozen(constrained[0], edges=constrained[0].topology.position([0], [1]))
train(constrained, STEPS)
apart = (constrained[0].to_dense().weight - first_weight(frozen)).abs().max().item()
print(f"st.constrain.frozen: largest difference from SparseDeltaLinear {apart:.0e}")

# sphinx_gallery_thumbnail_path = "_static/p03.png"
