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
            # by hand: torch's own reductions may split their sums by thread
            y.backward((y.detach() - x) / 1000)
            optimizer.step()
        return [model(x), *(parameter.detach() for name, parameter in model.named_parameters() if "values" in name)]
    finally:
        torch.set_num_threads(before)


def test_bitwise_equal_for_one_and_two_threads() -> None:
    for one, two in zip(trained(1), trained(2), strict=True):
        assert torch.equal(one, two)
