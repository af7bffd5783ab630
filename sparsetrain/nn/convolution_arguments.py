"""How a convolution is described, in the forms that torch's layers take."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from .. import checks
from ..backends.convolution.geometry import Geometry

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Size = int | Sequence[int]
Pairs = tuple[tuple[int, int], ...]


class Described(NamedTuple):
    """What the arguments of a layer say."""

    geometry: Geometry
    padding: str | tuple[int, ...]  # as torch's layers have it


def described(
    where: str, dimensions: int, kernel_size: Size, stride: Size, padding: Size | str, dilation: Size, groups: int
) -> Described:
    """The geometry of a layer.

    Raises:
        ValueError: a size is out of range, there are too many or too few, or "same" comes with a stride. TypeError:
        something is no integer.
    """
    kernel = _each(where, "kernel_size", kernel_size, dimensions, least=1)
    steps = _each(where, "stride", stride, dimensions, least=1)
    spread = _each(where, "dilation", dilation, dimensions, least=1)
    amount: str | tuple[int, ...]
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"{where}: expected padding to be numbers, 'same' or 'valid', got {padding!r}.")
        if padding == "same" and any(step != 1 for step in steps):
            raise ValueError(
                f"{where}: expected a stride of 1 with padding='same', which keeps the size of an input, got {steps}. "
                "Give the padding as a number."
            )
        amount, pairs = padding, _pairs(padding, kernel, spread)
    else:
        amount = _each(where, "padding", padding, dimensions, least=0)
        pairs = tuple((n, n) for n in amount)
    return Described(Geometry(kernel, steps, pairs, spread, groups), amount)


def channels(where: str, in_channels: int, out_channels: int, groups: int) -> tuple[int, int, int]:
    """Channels that groups divide.

    Raises:
        ValueError: they do not, or a number is not positive. TypeError: one is no integer.
    """
    numbers = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}
    for name, number in numbers.items():
        numbers[name] = checks.count(where, name, number)
        if not numbers[name]:
            raise ValueError(f"{where}: expected {name} >= 1, got 0.")
    for name in ("in_channels", "out_channels"):
        if numbers[name] % numbers["groups"]:
            raise ValueError(
                f"{where}: expected {name} that groups divide, got {numbers[name]} channels and {numbers['groups']} "
                "groups."
            )
    return numbers["in_channels"], numbers["out_channels"], numbers["groups"]


def padding_mode_of(where: str, mode: str) -> PaddingMode:
    """One of torch's padding modes."""
    if mode not in get_args(PaddingMode):
        raise ValueError(f"{where}: expected padding_mode to be one of {list(get_args(PaddingMode))}, got {mode!r}.")
    return mode  # type: ignore[return-value]


def check_mode_fits(where: str, mode: PaddingMode, pairs: Pairs, size: tuple[int, ...]) -> None:
    """The input has as much as is to be copied beside it."""
    spare = {"reflect": 1, "circular": 0}.get(mode)
    if spare is None:
        return
    for n, pair in zip(size, pairs, strict=True):
        if max(pair) + spare > n:
            raise ValueError(
                f"{where}: expected an input of at least {max(pair) + spare} for padding {max(pair)} in mode {mode!r}, "
                f"got size {size}. Pad less, or take another padding_mode."
            )


def _each(where: str, name: str, value: Size, dimensions: int, least: int) -> tuple[int, ...]:
    """One number for each dimension: given so, or one for all."""
    given = checks.listed(value)
    numbers = tuple(checks.count(where, name, n) for n in ([value] if given is None else given))  # type: ignore[arg-type]
    if given is None or len(numbers) == 1:
        numbers *= dimensions
    if len(numbers) != dimensions:
        raise ValueError(f"{where}: expected {name} to be a number or {dimensions} numbers, got {value!r}.")
    if min(numbers) < least:
        raise ValueError(f"{where}: expected {name} >= {least}, got {value!r}.")
    return numbers


def _pairs(padding: str, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> Pairs:
    """Zeros before and after; of an odd number the one more comes after, as in torch."""
    totals = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)
