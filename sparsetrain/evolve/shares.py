"""How a number of edges is shared out over layers."""

from collections.abc import Sequence


def shared_out(count: int, weights: Sequence[float], room: Sequence[int]) -> list[int]:
    """``count`` in whole parts proportional to the weights, none above its room; what a layer can't take, others get.

    Example:
        >>> shared_out(10, weights=[3.0, 1.0, 1.0], room=[4, 100, 100])
        [4, 3, 3]
    """
    parts = [0] * len(weights)
    left = min(count, sum(room))
    while left:
        open_ = [k for k in range(len(parts)) if parts[k] < room[k]]
        total = sum(weights[k] for k in open_)
        exact = {k: left * (weights[k] / total if total > 0 else 1 / len(open_)) for k in open_}
        whole = {k: min(int(exact[k]), room[k] - parts[k]) for k in open_}
        if not any(whole.values()):  # fewer than layers: one each, the largest remainders first
            for k in sorted(open_, key=lambda k: (-exact[k], k))[:left]:
                whole[k] = 1
        for k, part in whole.items():
            parts[k] += part
        left -= sum(whole.values())
    return parts
