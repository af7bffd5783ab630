r"""
13. Forward, backward, and the graph between them
=================================================

A network with one hidden layer, its loss and a penalty:

.. math:: z = W_1 x, \quad h = \phi(z), \quad o = W_2 h, \quad L = l(o, y), \quad
          s = \frac{\lambda}{2} \left( \|W_1\|_F^2 + \|W_2\|_F^2 \right), \quad J = L + s .

Going back through it, with :math:`\odot` for a product number by number:

.. math:: \frac{\partial J}{\partial W_2} = \frac{\partial J}{\partial o} h' + \lambda W_2, \quad
          \frac{\partial J}{\partial h} = W_2' \frac{\partial J}{\partial o}, \quad
          \frac{\partial J}{\partial z} = \frac{\partial J}{\partial h} \odot \phi'(z), \quad
          \frac{\partial J}{\partial W_1} = \frac{\partial J}{\partial z} x' + \lambda W_1 .

Where only some edges exist, the two outer products are wanted at the edges alone: that is ``st.ops.sddmm``, and
products with W are ``st.ops.spmm``. This page computes each formula with them, compares with autograd and with full
matrices, draws the graph that autograd keeps, and counts the memory that waits from forward to backward.
"""

from collections import Counter
from itertools import pairwise

import matplotlib.pyplot as plt
import networkx as nx
import pandas as pd
import torch
from torch import nn

import sparsetrain as st

INPUTS, HIDDEN, OUTPUTS, DENSITY = 784, 512, 10, 0.1
DEPTH, BATCH = 8, 256  # of the network whose memory is counted
LAMBDA = 0.01
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, for colour-blind readers
COLOURS = [BLUE, "#E69F00", ORANGE, "#009E73", "#CC79A7"]

# %%
# Forward and backward by hand
# ----------------------------
# Samples are columns, as in the formulas. phi is tanh, l is half the squared error, summed.

torch.manual_seed(0)
t1 = st.patterns.uniform((HIDDEN, INPUTS), DENSITY)
t2 = st.patterns.uniform((OUTPUTS, HIDDEN), DENSITY)
w1 = (0.1 * torch.randn(t1.nnz, dtype=torch.float64)).requires_grad_()
w2 = torch.randn(t2.nnz, dtype=torch.float64).requires_grad_()
x = torch.rand(
    INPUTS, 32, dtype=torch.float64, requires_grad=True
)  # so that they are in the graph; they need not
y = torch.rand(OUTPUTS, 32, dtype=torch.float64, requires_grad=True)

z = st.ops.spmm(t1, w1, x)
h = z.tanh()
o = st.ops.spmm(t2, w2, h)
L = 0.5 * (o - y).square().sum()
s = LAMBDA / 2 * (w1.square().sum() + w2.square().sum())
J = L + s

with torch.no_grad():
    grad_o = o - y
    grad_w2 = st.ops.sddmm(t2, grad_o, h) + LAMBDA * w2
    grad_h = st.ops.spmm(t2, w2, grad_o, transpose=True)
    grad_z = grad_h * (1 - h**2)  # the derivative of tanh
    grad_w1 = st.ops.sddmm(t1, grad_z, x) + LAMBDA * w1

# %%
# Autograd, and the dense twin
# ----------------------------
# The twin has full matrices, plain torch, float64; of its gradients we read the stored edges.

J.backward(retain_graph=True)

W1, W2 = (torch.zeros(t.shape, dtype=torch.float64) for t in (t1, t2))
edges1, edges2 = ((t.row.long(), t.col.long()) for t in (t1, t2))
W1[edges1], W2[edges2] = w1.detach(), w2.detach()
W1.requires_grad_(), W2.requires_grad_()
of_twin = 0.5 * (W2 @ (W1 @ x.detach()).tanh() - y.detach()).square().sum()
of_twin = of_twin + LAMBDA / 2 * (W1.square().sum() + W2.square().sum())
of_twin.backward()

print("gradient  edges   largest  formula - autograd  autograd - twin")
checks = (
    ("dJ/dW1", grad_w1, w1.grad, W1.grad[edges1]),
    ("dJ/dW2", grad_w2, w2.grad, W2.grad[edges2]),
)
for name, formula, autograd, twin in checks:
    apart = (formula - autograd).abs().max(), (autograd - twin).abs().max()
    print(
        f"{name:8}  {len(formula):5}  {autograd.abs().max():8.3f}  {apart[0]:18.0e}  {apart[1]:15.0e}"
    )
print(f"J: {J:.6f}, the twin's {of_twin:.6f}")

# %%
# The graph
# ---------
# Every result of autograd knows the operation that made it, and that one those before it. Walking back from J gives the
# whole graph: operations as circles, variables as boxes. Variables without a name of their own are left out, and the
# penalty's squares lead from W1 and W2 to s, past the layers.

variables = {"z": z, "h": h, "o": o, "L": L, "s": s, "J": J, "W1": w1, "W2": w2, "x": x, "y": y}
names = {torch.autograd.graph.get_gradient_edge(v).node: name for name, v in variables.items()}
graph = nx.DiGraph()


def walk_back(operation):
    """Draw what led here. The end is the variable that it makes, or where that has no name, itself."""
    end = names.get(operation, operation)
    if end not in graph:
        graph.add_node(end)
        before = [node for node, _ in operation.next_functions if node is not None]
        if before and end != operation:
            graph.add_edge(operation, end)
        graph.add_edges_from((walk_back(node), operation) for node in before)
    return end


walk_back(J.grad_fn)

# %%
# Networkx draws it. Everything is as far to the right as what comes after it allows; an operation with one operand is
# at its height, any other at that of the variable that it leads to.

heights = {"W1": 3, "W2": 2, "s": 2.5, "y": 0} | dict.fromkeys(("x", "z", "h", "o", "L", "J"), 1)
symbols = {
    "Tanh": "φ", "Sub": "−", "Pow": "( )²", "Sum": "Σ", "Mul": "×", "Add": "+", "RecordedSpMM": "W·",
}  # fmt: skip


def height(node):
    while node not in heights and len(before := list(graph.predecessors(node))) == 1:
        node = before[0]
    while node not in heights:
        node = next(graph.successors(node))
    return heights[node]


columns = enumerate(nx.topological_generations(graph.reverse()))
places = {node: (-column, height(node)) for column, nodes in columns for node in nodes}
boxes = [node for node in graph if isinstance(node, str)]
circles = [node for node in graph if node not in boxes]
labels = {node: symbols[node.name().partition("Backward")[0]] for node in circles}
labels |= {name: name for name in boxes}

figure, axes = plt.subplots(figsize=(11, 3.2), layout="constrained")
style = {"node_size": 620, "edgecolors": "#333333", "ax": axes}
nx.draw_networkx_nodes(graph, places, boxes, node_shape="s", node_color="#CFE5F5", **style)
nx.draw_networkx_nodes(graph, places, circles, node_shape="o", node_color="#FBDCC8", **style)
nx.draw_networkx_edges(graph, places, node_size=620, edge_color="#333333", ax=axes)
nx.draw_networkx_labels(graph, places, labels, font_size=10, ax=axes)
axes.set_title("Boxes: variables. Circles: operations.")
axes.set_axis_off()
plt.show()

# %%
# What waits from forward to backward
# -----------------------------------
# The formulas use x and h: forward has to keep them until backward has come by. (z is not kept, as the derivative of
# tanh is 1 - h².) Here a deeper network of the same kind, sparse and dense; a ledger notes what autograd holds of
# activations, whenever it takes or lets go of one.


class Ledger:
    """Bytes of activations that autograd holds. A storage counts once, and parameters do not count."""

    def __init__(self, network):
        self.parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
        self.holders, self.history = Counter(), [0]

    def keep(self, tensor):
        known = tensor.untyped_storage().data_ptr() in self.parameters
        return tensor if known else Held(self, tensor)

    def change(self, storage, by):
        before = self.holders[storage.data_ptr()]
        self.holders[storage.data_ptr()] += by
        if not before or not before + by:
            self.history.append(self.history[-1] + by * storage.nbytes())


class Held:
    """A tensor in autograd's keeping, which tells the ledger when it is dropped."""

    def __init__(self, ledger, tensor):
        self.ledger, self.tensor = ledger, tensor
        ledger.change(tensor.untyped_storage(), 1)

    def __del__(self):
        self.ledger.change(self.tensor.untyped_storage(), -1)


def unpack(kept):
    return kept.tensor if isinstance(kept, Held) else kept


def deep(linear):
    sizes = [INPUTS, *[HIDDEN] * DEPTH, OUTPUTS]
    layers = [module for i, o in pairwise(sizes) for module in (linear(i, o), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


def sparse_layer(inputs, outputs):
    return st.nn.SparseLinear(inputs, outputs, density=DENSITY)


peaks, histories = {}, {}
for name, linear in {"sparse": sparse_layer, "dense": nn.Linear}.items():
    network = deep(linear)
    adam, ledger = torch.optim.Adam(network.parameters()), Ledger(network)
    with torch.autograd.graph.saved_tensors_hooks(ledger.keep, unpack):
        outputs = network(torch.rand(BATCH, INPUTS))
    outputs.sum().backward()
    adam.step()
    histories[name] = ledger.history
    topologies = [layer.topology for layer in network[::2] if linear is sparse_layer]
    peaks[name] = {
        "activations": max(ledger.history),
        "indices of edges": sum(topology.nbytes for topology in topologies),
        "parameters": sum(p.nbytes for p in network.parameters()),
        "gradients": sum(p.grad.nbytes for p in network.parameters()),
        "state of Adam": sum(t.nbytes for state in adam.state.values() for t in state.values()),
    }

table = pd.DataFrame(peaks)
print("bytes of", table.to_string(formatters=["{:,}".format] * 2), sep="\n")

# %%
# Activations are as large for sparse layers as for dense ones (the two lines are one): they are of the batch. What
# edges save are parameters, gradients, and the state of an optimizer, at the price of their indices.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained")
(pd.DataFrame(histories) / 1e6).plot(ax=left, style=["-", "--"], color=[BLUE, ORANGE])
left.set(xlabel="activations taken (rising), let go of (falling)", ylabel="MB of activations held")
left.set_title(f"Through {DEPTH} hidden layers and back, batch {BATCH}")
(table.T / 1e6).plot.barh(stacked=True, ax=right, color=COLOURS)
right.set(title="What a training step holds", xlabel="MB")
for axes in (left, right):
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
plt.show()
