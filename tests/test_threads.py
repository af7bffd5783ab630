"""Training is bitwise the same at any number of threads."""

import torch
from torch import Tensor

import sparsetrain as st


def trained(threads: int) -> list[Tensor]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        first = st.nn.SparseLinear(300, 400, density=0.2)
        model = torch.nn.Sequential(first, torch.nn.ReLU(), st.nn.SparseLinear(400, 300, density=0.15))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(100, 300)
        for _ in range(3):
            optimizer.zero_grad()
            y = model(x)
            y.backward((y.detach() - x) / 1000)  # by hand: torch's own loss may split its sum by thread
            optimizer.step()
        return [model(x), *(parameter.detach() for parameter in model.parameters())]
    finally:
        torch.set_num_threads(before)


def test_bitwise_equal_for_one_and_two_threads() -> None:
    for one, two in zip(trained(1), trained(2), strict=True):
        assert torch.equal(one, two)


def test_the_bias_of_a_single_output_too() -> None:
    layer = st.nn.SparseLinear(8, 1, density=0.5)  # torch splits a sum to one number by thread
    x, dy = torch.randn(100_003, 8), torch.randn(100_003, 1)
    gradients = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        layer.zero_grad()
        layer(x).backward(dy)
        assert layer.bias is not None
        assert layer.bias.grad is not None
        gradients.append(layer.bias.grad.clone())
    torch.set_num_threads(before)
    assert torch.equal(*gradients)
    torch.testing.assert_close(gradients[0].double(), dy.double().sum(0), rtol=0, atol=1e-3)
