"""Program 15 of docs/programs, and the last part of program 9."""

from collections.abc import Iterator

import pytest
import torch
from pages import F64, close, run

pytest.importorskip("mlxtend", reason="needs the extra demo")


@pytest.fixture(autouse=True)
def usual_dtype() -> Iterator[None]:
    """Program 15 computes in float64 by default, and then no longer."""
    yield
    torch.set_default_dtype(torch.float32)


def test_9_by_an_operator_and_an_optimizer() -> None:
    page = run("p09_lookup_table", IDLE_STEPS=60)
    close(page.operator.to_dense(), page.spaces["used rows"][0], atol=1e-12)
    close(page.curved.matrix, page.table.get_value(), atol=1e-10)
    assert "rows of the operator: [1, 4]" in page.printed


def test_15_second_order() -> None:
    page = run("p15_second_order", IMAGES=40, STEPS=2, EPOCHS=2)
    # the diagonal blocks of a row: sum over the samples that use it of W' (diag(p) - p p') W / n
    weight = page.model[1].weight
    p = (page.before[page.ids] @ weight.t()).softmax(1)
    for place, row in enumerate(range(0, 12, 2)):
        block = torch.zeros(3, 3, dtype=F64)
        for n in (page.ids == row).nonzero().flatten().tolist():
            block += weight.t() @ (torch.diag(p[n]) - p[n, :, None] * p[n]) @ weight / len(page.ids)
        close(page.restricted[3 * place : 3 * place + 3, 3 * place : 3 * place + 3], block)
    assert torch.linalg.matrix_rank(page.whole) == torch.linalg.matrix_rank(page.restricted) == 18
    assert page.spectra["used rows"].min() > 1e-5
    close(page.step[page.used], page.small, atol=1e-12)
    close(page.step[~page.used], torch.zeros(18), atol=1e-15)
    assert "unused rows end at 0.10 to 0.10" in page.printed
    assert "rows that HessianFree moved: [0, 2, 4, 6, 8, 10]" in page.printed
    for curve in page.curves.values():
        assert curve[1][2] < curve[0][2]
