r"""
17. Digits: training, checkpoint, resume
========================================

A complete training on real digits: a network with 5 % of its weights, a cosine schedule of the learning rate, edges
that change, and a checkpoint. One training is stopped in the middle and resumed from the file. It ends with the same
bits as the one that was not stopped. A dense network of the same widths is trained for comparison. It has twenty times
as many weights, which are worth a percentage point or two on these 4,000 digits.
"""

import copy
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

import sparsetrain as st

EPOCHS, BATCH, HIDDEN, DENSITY, LR = 20, 50, 500, 0.05, 2e-3
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's

digits = st.data.load("mnist")
images, labels = digits.train_images.float(), digits.train_labels
test_images, test_labels = digits.test_images.float(), digits.test_labels
STEPS = EPOCHS * (len(labels) // BATCH)

# %%
# What belongs to a training
# --------------------------
# The model, its optimizer, the learning rate schedule, the evolver that changes the edges, and the generator that draws
# the order of the samples. ``st.io.save`` takes them all.


def network(sparse):
    torch.manual_seed(0)
    if sparse:
        first, last = st.nn.SparseLinear(784, HIDDEN, density=DENSITY), nn.Linear(HIDDEN, 10)
    else:
        first, last = nn.Linear(784, HIDDEN), nn.Linear(HIDDEN, 10)
    return nn.Sequential(first, nn.ReLU(), last)


class Training:
    def __init__(self, sparse):
        self.model = network(sparse)
        self.optimizer = st.optim.Adam(self.model.parameters(), lr=LR)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, EPOCHS)
        rule = st.evolve.RigL()
        schedule = st.evolve.Cosine(interval=40, start=40, stop=3 * STEPS // 4, prune_fraction=0.3)
        self.evolver = (
            st.evolve.Evolver(self.model, self.optimizer, rule, schedule) if sparse else None
        )
        self.order = torch.Generator().manual_seed(0)
        self.accuracies = []

    def epoch(self):
        for index in torch.randperm(len(labels), generator=self.order).split(BATCH):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(images[index]), labels[index]).backward()
            self.optimizer.step()
            if self.evolver:
                self.evolver.step()
        self.scheduler.step()
        with torch.no_grad():
            right = self.model(test_images).argmax(1) == test_labels
        self.accuracies.append(100 * right.float().mean().item())

    def save(self, path):
        extra = {"order": self.order.get_state(), "accuracies": self.accuracies}
        st.io.save(
            path, self.model, self.optimizer, self.evolver, scheduler=self.scheduler, extra=extra
        )

    def load(self, path):
        extra = {}
        st.io.load(
            path, self.model, self.optimizer, self.evolver, scheduler=self.scheduler, extra=extra,
            topology="adopt",
        )  # fmt: skip
        self.order.set_state(extra["order"])
        self.accuracies = extra["accuracies"]


# %%
# Train, stop, resume
# -------------------
# ``load`` above has ``topology="adopt"``: the new network was drawn with edges of its own, and takes those of the file.

whole, dense, stopped, resumed = Training(True), Training(False), Training(True), Training(True)
for epoch in range(EPOCHS):
    whole.epoch()
    dense.epoch()
    if epoch % 5 == 4:
        print(
            f"epoch {epoch + 1}: sparse {whole.accuracies[-1]:.1f} %, dense {dense.accuracies[-1]:.1f} %"
        )

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "training.safetensors"
    for _ in range(EPOCHS // 2):
        stopped.epoch()
    stopped.save(path)
    resumed.load(path)
for _ in range(EPOCHS - EPOCHS // 2):
    resumed.epoch()

same = all(
    torch.equal(one, other)
    for one, other in zip(
        whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True
    )
)
print(f"resumed as if it had not stopped, to the bit: {same}")
print(st.summary(whole.model))

# %%
# A dense twin: the sparse network with a full matrix in float64.

exact = copy.deepcopy(whole.model).double()
twin = nn.Sequential(exact[0].to_dense(), nn.ReLU(), exact[2])
difference = (exact(test_images.double()) - twin(test_images.double())).abs().max().item()
print(f"largest difference from the dense twin: {difference:.0e}")

# %%
# Accuracy
# --------

figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
axis.plot(range(1, EPOCHS + 1), dense.accuracies, color=ORANGE, label="dense")
axis.plot(range(1, EPOCHS + 1), whole.accuracies, color=BLUE, label=f"{DENSITY:.0%} of the weights")
axis.plot(
    range(EPOCHS // 2 + 1, EPOCHS + 1), resumed.accuracies[EPOCHS // 2 :], "o", color=BLUE,
    fillstyle="none", label="the same, resumed",
)  # fmt: skip
axis.set(xlabel="epoch", ylabel="right answers (%)")
axis.legend()
plt.show()
