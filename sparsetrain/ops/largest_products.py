"""The largest entries of a product of two dense matrices, without the product."""

import torch
from torch import Tensor

BLOCK = 2**22  # entries of the product that exist at a time


def largest_products(a: Tensor, b: Tensor, count: int) -> Tensor:
    """Positions ``i * in + j``, ascending, of the ``count`` largest ``|a[i] . b[j]|``; a (out, batch), b (in, batch).

    Blocks of rows are multiplied one after another, and each is merged into the largest so far.
    """
    columns = b.shape[0]
    wide = torch.promote_types(a.dtype, torch.float32)
    b = b.to(wide)
    scores, positions = a.new_empty(0, dtype=wide), torch.empty(0, dtype=torch.int64, device=a.device)
    for first, rows in zip(*_blocks(a, columns), strict=True):
        block = (rows.to(wide) @ b.t()).abs().flatten()
        block, place = block.topk(min(count, block.numel()), sorted=False)
        scores, positions = torch.cat([scores, block]), torch.cat([positions, place + first * columns])
        scores, kept = scores.topk(min(count, scores.numel()), sorted=False)
        positions = positions[kept]
    return positions.sort().values


def _blocks(a: Tensor, columns: int) -> tuple[range, tuple[Tensor, ...]]:
    """First rows of the blocks, and the blocks."""
    size = max(1, BLOCK // max(1, columns))
    return range(0, a.shape[0], size), torch.split(a, size) if a.shape[0] else ()
