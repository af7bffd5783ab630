"""What belongs to a training beside its model and optimizer: each part is kept as its class and its state."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

State = dict[str, Any]


class Stateful(Protocol):
    """What has a state of tensors, numbers, text, None, lists, tuples and dicts: an evolver, a schedule, a scaler."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


Schedulers = Stateful | Iterable[Stateful] | Mapping[str, Stateful]
Pair = tuple[Stateful, State]  # a part, and the state that it is to have


def kind_of(part: object) -> str:
    """What a part is known by."""
    return type(part).__name__


def stored(part: Stateful) -> State:
    """A part as it is kept."""
    return {"class": kind_of(part), "state": part.state_dict()}


def named(where: str, what: str, given: Schedulers | None) -> dict[str, Stateful]:
    """Several of a kind by their names or numbers, and one alone under no name."""
    if given is None:
        return {}
    if is_stateful(given):
        return {"": given}  # type: ignore[dict-item]
    parts: dict[str, Any] = {}
    if isinstance(given, Mapping):
        parts = {str(name): part for name, part in given.items()}
    elif isinstance(given, Iterable) and not isinstance(given, str):
        parts = {str(k): part for k, part in enumerate(given)}
    if not parts or not all(map(is_stateful, parts.values())):
        raise TypeError(
            f"{where}: expected {what} to be an object with state_dict and load_state_dict, or a list or a dict of "
            f"such, got {given!r}."
        )
    return parts


def matched(where: str, what: str, given: Mapping[str, Stateful], kept: Mapping[str, Any]) -> list[Pair]:
    """The parts with their stored states, where the names and classes are the same."""
    if given and not kept:
        raise ValueError(f"{where}: expected a checkpoint with a {what}, it was saved without. Leave {what}= out.")
    if given and given.keys() != kept.keys():
        one = "one alone" if kept.keys() == {""} else f"those named {sorted(kept)}"
        raise ValueError(
            f"{where}: expected the same {what}s as were saved, got {len(given)} named {sorted(given)}, the checkpoint "
            f"has {one}. Pass them in the same form."
        )
    for name, part in given.items():
        if kept[name]["class"] != kind_of(part):
            raise ValueError(
                f"{where}: expected a {what} of class {kind_of(part)}{f' as {name!r}' if name else ''}, the checkpoint "
                f"has {kept[name]['class']}."
            )
    return [(part, kept[name]["state"]) for name, part in given.items()]


def stored_extra(where: str, extra: Mapping[str, Any]) -> State:
    """States of what has some, and the rest as it is."""
    _check_names(where, extra)
    states = {name: stored(value) for name, value in extra.items() if is_stateful(value)}
    return {"states": states, "data": {name: value for name, value in extra.items() if name not in states}}


def matched_extra(where: str, extra: Mapping[str, Any], kept: Mapping[str, Any]) -> list[Pair]:
    """The parts in extra that have states, with the stored ones; every name in extra is in the checkpoint."""
    _check_names(where, extra)
    known = {*kept["states"], *kept["data"]}
    missing = [name for name in extra if name not in known]
    if missing:
        raise ValueError(
            f"{where}: expected a checkpoint with {', '.join(map(repr, missing))} in extra, it has {sorted(known)}."
        )
    parts = {name: value for name, value in extra.items() if is_stateful(value)}
    for name in extra:
        if (name in parts) != (name in kept["states"]):
            kind = kept["states"].get(name, {}).get("class")
            wanted = f"have the class {kind}, whose state is stored" if kind else "be data, which is stored"
            raise ValueError(f"{where}: expected extra[{name!r}] to {wanted}, got {extra[name]!r}.")
    return matched(where, "part of extra", parts, {name: kept["states"][name] for name in parts})


def is_stateful(value: object) -> bool:
    """Whether it has a state to save and to load."""
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def _check_names(where: str, extra: object) -> None:
    if not isinstance(extra, Mapping) or not all(isinstance(name, str) for name in extra):
        raise TypeError(f"{where}: expected extra to be a dict with names as keys, got {extra!r}.")
