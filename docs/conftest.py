"""Pages about names that are still to come wait for them. To be deleted with the last of them."""

import pytest

import sparsetrain as st

WAITING = set() if hasattr(st.nn.SparseLinear, "from_edges") and hasattr(st.io, "from_sets") else {"edges.md"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in WAITING:
            item.add_marker(pytest.mark.skip("its names are still to come"))
