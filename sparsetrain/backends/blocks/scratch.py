"""How much memory a product may take for dense blocks, and where a small block is made."""

import threading
from itertools import pairwise

import torch
from torch import Tensor

SIZES = {"cpu": 16 << 20, "cuda": 256 << 20}  # bytes; small blocks would leave most of a GPU idle

KEPT_BYTES = 16 << 20  # of a block in memory that a thread keeps for its next one: the weight of 512 x 512 x 3 x 3


class _Kept(threading.local):
    """Memory of this thread's blocks on a CPU."""

    memory: Tensor | None = None


_kept = _Kept()


def block_memory(rows: int, columns: int, like: Tensor) -> Tensor:
    """Room for a block that is used at once and forgotten. On a CPU a small one is where the last one was: what is
    taken and given back at each product has to be mapped anew by the system, which takes longer than to fill it."""
    size = rows * columns * like.itemsize
    if like.device.type != "cpu" or size > KEPT_BYTES:
        return like.new_empty(rows, columns)
    memory = _kept.memory
    if memory is None or memory.numel() < size:
        with torch.inference_mode(False):  # or it could not be written into outside of it
            memory = _kept.memory = torch.empty(size, dtype=torch.uint8)
    return memory[:size].view(like.dtype).view(rows, columns)


def block_bytes(device: torch.device | str = "cpu") -> int:
    """Bytes that the blocks backend may take at a time on devices of a kind, beyond what a product returns.

    Example:
        >>> block_bytes() >> 20
        16
    """
    kind = torch.device(device).type
    return SIZES.get(kind, SIZES["cuda"])


def set_block_bytes(size: int, device: torch.device | str = "cpu") -> None:
    """Set what the blocks backend may take at a time on devices of a kind; a single row of the weight is the least.

    Args:
        size: bytes.
        device: of this kind; 16 MB for ``"cpu"`` and 256 MB for others before anybody sets them.

    Raises:
        ValueError: it is no positive number. TypeError: it is no integer.

    Example:
        >>> set_block_bytes(8 << 20)
        >>> block_bytes() >> 20
        8
        >>> set_block_bytes(16 << 20)
    """
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"set_block_bytes: expected a number of bytes, got {type(size).__name__}.")
    if size <= 0:
        raise ValueError(f"set_block_bytes: expected a positive number of bytes, got {size}.")
    SIZES[torch.device(device).type] = size


def row_blocks(rows: int, columns: int, itemsize: int, budget: int) -> list[tuple[int, int]]:
    """First and last row of each block: as few blocks as the budget allows, of about equal size.

    Example:
        >>> row_blocks(10, 4, 4, budget=64)
        [(0, 4), (4, 7), (7, 10)]
    """
    most = max(1, budget // max(1, columns * itemsize))
    count = max(1, -(-rows // most))
    bounds = [-(-rows * block // count) for block in range(count + 1)]
    return list(pairwise(bounds))
