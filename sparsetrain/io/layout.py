"""Whether the content of a file has the form that io.save and io.save_edges give it."""

import os
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .archive import damaged

Fits = Callable[[Any], bool]


def check(where: str, path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """ValueError: a part has another form than it was written in."""
    for part, fits in PARTS.items():
        if part in content and not fits(content[part]):
            raise damaged(where, path, f"the part {part!r} has another form than it was written in")
    if "model" in content and "versions" not in content:
        raise damaged(where, path, "it has no versions")


def _is(kind: type) -> Fits:
    return lambda value: isinstance(value, kind)


def _list(item: Fits) -> Fits:
    return lambda value: isinstance(value, list) and all(map(item, value))


def _dict(item: Fits) -> Fits:
    return lambda value: isinstance(value, dict) and all(isinstance(key, str) and item(value[key]) for key in value)


def _record(**fields: Fits) -> Fits:
    return lambda value: (
        isinstance(value, dict)
        and value.keys() == fields.keys()
        and all(fits(value[name]) for name, fits in fields.items())
    )


def _version(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("version"), int | None)


def _parameter(value: Any) -> bool:
    """Name and shape of a parameter."""
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[0], str | None)
        and isinstance(value[1], tuple)
    )


def _optimizer(value: Any) -> bool:
    shaped = _record(**{"class": _is(str), "parameters": _list(_list(_parameter)), "state": _is(dict)})
    if not shaped(value):
        return False
    groups, states = value["state"].get("param_groups"), value["state"].get("state")
    if not _list(lambda group: isinstance(group, dict) and isinstance(group.get("params"), list))(groups):
        return False
    sizes = [len(group["params"]) for group in groups]
    indices = [index for group in groups for index in group["params"]]
    return (
        sizes == [len(group) for group in value["parameters"]]
        and indices == list(range(len(indices)))
        and isinstance(states, dict)
        # keys that are no parameters' numbers are their users'
        and all(not isinstance(k, int) or (k in indices and isinstance(states[k], dict)) for k in states)
    )


_stateful = _record(**{"class": _is(str), "state": _is(object)})
_delta_of_before: dict[str, Fits] = {"shape": _list(_is(int)), "position": _is(Tensor), "values": _is(Tensor)}
_delta = _record(**_delta_of_before, base=_is(str))

PARTS: dict[str, Fits] = {
    "model": _dict(_is(object)),
    "versions": _dict(_version),
    "optimizer": _optimizer,
    "evolver": _stateful,
    "scheduler": _dict(_stateful),
    "extra": _record(states=_dict(_stateful), data=_dict(_is(object))),
    "edges": _dict(lambda value: _delta(value) or _record(**_delta_of_before)(value)),
}
