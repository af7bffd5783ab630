"""Pages about names that are still to come wait for them. To be deleted with the last of them."""

import pytest

import sparsetrain as st

WAITING = {
    page
    for page, there in {
        "edges.md": hasattr(st.convert, "from_hierarchy"),
        "constraints.md": hasattr(st, "constrain") and hasattr(st.convert, "drop_zeros"),
    }.items()
    if not there
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them."""
    for item in items:
        if item.path.name in WAITING:
            item.add_marker(pytest.mark.skip("its names are still to come"))
