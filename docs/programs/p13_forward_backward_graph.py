r"""
13. Forward, backward, and the autograd graph
=============================================

A network with one hidden layer, its loss and a penalty:

.. math:: z = W_1 x, \quad h = \phi(z), \quad o = W_2 h, \quad L = l(o, y), \quad
          s = \frac{\lambda}{2} \left( \|W_1\|_F^2 + \|W_2\|_F^2 \right), \quad J = L + s .

The backward pass, with :math:`\odot` for the elementwise product:

.. math:: \frac{\partial J}{\partial W_2} = \frac{\partial J}{\partial o} h^T + \lambda W_2, \quad
          \frac{\partial J}{\partial h} = W_2^T \frac{\partial J}{\partial o}, \quad
          \frac{\partial J}{\partial z} = \frac{\partial J}{\partial h} \odot \phi'(z), \quad
          \frac{\partial J}{\partial W_1} = \frac{\partial J}{\partial z} x^T + \lambda W_1 .

If only some edges exist, the two outer products are needed only at the edges. ``st.ops.sddmm`` computes them, and
``st.ops.spmm`` computes products with W. This page evaluates each formula with these two functions, and compares the
results with autograd and with full matrices. It then draws the graph that autograd keeps, and measures the memory that
is kept from forward to backward.
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
# Samples are columns, as in the formulas. phi is tanh, and l is half the sum of squared errors.

torch.manual_seed(0)
t1 = st.patterns.uniform((HIDDEN, INPUTS), DENSITY)
t2 = st.patterns.uniform((OUTPUTS, HIDDEN), DENSITY)
w1 = (0.1 * torch.randn(t1.nnz, dtype=torch.float64)).requires_grad_()
w2 = torch.randn(t2.nnz, dtype=torch.float64).requires_grad_()
x = torch.rand(
    INPUTS, 32, dtype=torch.float64, requires_grad=True
)  # x and y have requires_grad only to appear in the graph
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
# The twin is plain torch with full matrices in float64. Its gradients are compared at the stored edges.

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
# In autograd, every result has a reference to the operation that computed it (``grad_fn``), and every operation has
# references to the operations before it. Following them from J gives the whole graph: operations as circles, variables
# as boxes. Variables without a name are omitted. The squares of the penalty lead from W1 and W2 directly to s.

variables = {"z": z, "h": h, "o": o, "L": L, "s": s, "J": J, "W1": w1, "W2": w2, "x": x, "y": y}
names = {torch.autograd.graph.get_gradient_edge(v).node: name for name, v in variables.items()}
graph = nx.DiGraph()


def walk_back(operation):
    """Add an operation and everything before it. Returns the node of its result: the variable, if it has a name."""
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
# Networkx draws it. Each node is as far to the right as possible. An operation with one operand is drawn at the height
# of this operand, any other operation at the height of the variable that it leads to.

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
# Memory between forward and backward
# -----------------------------------
# The formulas use x and h, so they must be kept from forward until backward. (z is not kept, since the derivative of
# tanh is 1 - h².) This section measures a deeper network of the same kind, sparse and dense. The class ``Ledger``
# records the bytes of activations that autograd keeps, each time it saves or releases one.


class Ledger:
    """Bytes of activations that autograd keeps. Each storage counts once, and parameters do not count."""

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
    """A tensor that autograd has saved; it tells the ledger when it is released."""

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
# Activations are equally large for sparse and dense layers (the two lines coincide), since their size depends on the
# batch. Sparse layers save memory for parameters, gradients and optimizer state, but need memory for their indices.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained")
(pd.DataFrame(histories) / 1e6).plot(ax=left, style=["-", "--"], color=[BLUE, ORANGE])
left.set(
    xlabel="activations saved (rising) and released (falling)", ylabel="MB of saved activations"
)
left.set_title(f"Forward and backward, {DEPTH} hidden layers, batch {BATCH}")
(table.T / 1e6).plot.barh(stacked=True, ax=right, color=COLOURS)
right.set(title="Memory of a training step", xlabel="MB")
for axes in (left, right):
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
plt.show()
