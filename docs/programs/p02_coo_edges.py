"""
2. Update only stored edges
===========================

The 2 x 2 weight of this program has three edges; the fourth does not exist. torch has sparse tensors for that, but a
training loop with them usually needs a dense gradient and a dense mask. Here the values of the edges are a tensor of
three elements, and so are their gradient and the optimizer state.
"""

import torch

import sparsetrain as st

NODES = 200_000  # inputs and outputs of the large layer at the end
LR = 0.1

# %%
# The edges
# ---------
# ``W`` is 2 x 2 and has the edges (0, 0), (1, 0) and (1, 1), given in COO format: a list of rows and a list of columns.
# Edge (row, column) leads from input ``column`` to output ``row``. The program computes ``y = W x`` and ``loss =
# sum(y)``, and takes one step of gradient descent.

rows, columns = [0, 1, 1], [0, 0, 1]
weights = torch.tensor([0.5, 1.5, 2.0], dtype=torch.float64)
x = torch.tensor([1.0, 2.0], dtype=torch.float64)

topology = st.Topology.from_coo(rows, columns, shape=(2, 2))
layer = st.nn.SparseLinear(2, 2, bias=False, topology=topology, dtype=torch.float64)
with torch.no_grad():
    layer.values[topology.position(rows, columns)] = (
        weights  # whichever order the edges were given in
    )

# %%
# One step
# --------
# By hand: ``d loss / d W[i, j] = x[j]``, so the gradients of the edges are 1, 1 and 2, and the edges change by -0.1,
# -0.1 and -0.2.

optimizer = torch.optim.SGD(layer.parameters(), lr=LR)
before = layer.values.detach().clone()
loss = layer(x).sum()
loss.backward()
optimizer.step()

print(f"loss {loss.item():.1f}")
print("edge    before  gradient  after")
for edge in range(topology.nnz):
    place = f"({topology.row[edge]}, {topology.col[edge]})"
    print(
        f"{place}  {before[edge]:6.1f}  {layer.values.grad[edge]:8.1f}  {layer.values[edge]:5.1f}"
    )

# %%
# The dense twin
# --------------
# The usual program without such a layer: the full matrix, the full gradient, and a mask of the same size that sets the
# other part of the gradient to zero.

W = torch.tensor([[0.5, 0.0], [1.5, 2.0]], dtype=torch.float64, requires_grad=True)
mask = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
(W @ x).sum().backward()
with torch.no_grad():
    W -= LR * mask * W.grad

difference = (layer.to_dense().weight - W).abs().max().item()
print(f"largest difference from the dense twin: {difference:.1e}")

# %%
# What torch does with a sparse weight
# ------------------------------------
# A tensor of layout ``sparse_coo`` can be a parameter. Whether it can be trained depends on the product and on the
# optimizer. ``W @ x`` gives a dense gradient, which cannot be added to a sparse weight in place. ``torch.sparse.mm``
# gives a sparse gradient, which SGD accepts; Adam and RMSprop raise an error.


def attempt(multiply, optimizer_class):
    """What becomes of a step with torch's own sparse tensor."""
    sparse = torch.sparse_coo_tensor(
        [rows, columns], weights, (2, 2), check_invariants=True
    ).requires_grad_()
    try:
        multiply(sparse, x[:, None]).sum().backward()
        optimizer_class([sparse], lr=LR).step()
    except RuntimeError as error:
        return f"refused: {str(error).split('.')[0]}"
    return "stepped"


for name, multiply in (("W @ x", torch.matmul), ("sparse.mm", torch.sparse.mm)):
    for optimizer_class in (torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adam):
        print(f"{name:9}  {optimizer_class.__name__:7}  {attempt(multiply, optimizer_class)}")

# %%
# The same at a size that cannot be dense
# ---------------------------------------
# No tensor of size rows x columns is created here. So much larger layers can be trained on any machine, with any
# optimizer of torch or of ``st.optim``. Each output of this layer has three edges.

torch.manual_seed(0)
big = st.nn.SparseLinear(NODES, NODES, topology=st.patterns.fixed_fan_in((NODES, NODES), 3))
adam = torch.optim.Adam(big.parameters())
big(torch.ones(1, NODES)).sum().backward()
adam.step()

held = {"values": big.values, "gradient": big.values.grad, **adam.state[big.values]}
for name, tensor in held.items():
    print(f"{name:10}  {tensor.numel():8,} numbers")
print(f"a dense weight would have {NODES**2:,}: {4 * NODES**2 / 1e9:,.0f} GB")

# sphinx_gallery_thumbnail_path = "_static/p02.png"
