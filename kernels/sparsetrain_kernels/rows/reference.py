"""Plain twins of the row steps: the same signatures, a row at a time, for tests."""

import numpy as np

from ..half_precision import widened
from .group import Groups


def group(ids, size, threads=1, places=None):
    rows = sorted(set(ids.tolist()))
    found = [[k for k in range(ids.size) if ids[k] == row] for row in rows]
    starts = np.cumsum([0, *map(len, found)])
    order = np.array([k for some in found for k in some], np.int64)
    order = order if places is None else places[order]
    return Groups(np.array(rows, np.int64), starts.astype(np.int32), order.astype(np.int32))


def _rows(groups, gradients, dim, scale):
    """Each row and the sum of its gradients."""
    gradients = gradients.reshape(-1, dim)
    for u, row in enumerate(groups.rows):
        places = groups.order[groups.starts[u] : groups.starts[u + 1]] if groups.starts.size else [u]
        yield row, scale * sum(gradients[k] for k in places)


def _count(counts, row):
    counts[row] += 1
    return int(counts[row])


def _shrunk(w, threshold):
    return np.sign(w) * np.maximum(np.abs(w) - threshold, 0)


def _of(table, row, dim):
    return table.reshape(-1, dim)[row] if table.size else None


def gather(ids, table, out, dim, threads=1):
    out.reshape(-1, dim)[:] = table.reshape(-1, dim)[ids]


def total(groups, gradients, out, dim, threads=1):
    for u, (_, g) in enumerate(_rows(groups, gradients, dim, 1)):
        out.reshape(-1, dim)[u] = g


def sgd(groups, gradients, weights, momentum_buffer, counts, *, dim, lr, momentum, dampening, weight_decay, nesterov,
        scale=1.0, l1=0.0, l1_values, threads=1):
    for row, g in _rows(groups, gradients, dim, scale):
        w, b = _of(weights, row, dim), _of(momentum_buffer, row, dim)
        g = g + weight_decay * w
        if b is not None:
            first = counts.size and _count(counts, row) == 1
            b[:] = momentum * b + (1 if first else 1 - dampening) * g
            g = g + momentum * b if nesterov else b
        w[:] = _shrunk(w - lr * g, lr * (_of(l1_values, row, dim) if l1_values.size else l1))


def rmsprop(groups, gradients, weights, square_avg, grad_avg, momentum_buffer, counts, *, dim, lr, alpha, eps,
            weight_decay, momentum, scale=1.0, l1=0.0, l1_values, threads=1):
    for row, g in _rows(groups, gradients, dim, scale):
        w, v, a, b = (_of(table, row, dim) for table in (weights, square_avg, grad_avg, momentum_buffer))
        g = g + weight_decay * w
        v[:] = alpha * v + (1 - alpha) * g * g
        correction = 1 / (1 - alpha ** _count(counts, row)) if counts.size else 1
        if a is not None:
            a[:] = alpha * a + (1 - alpha) * g
        denominator = np.sqrt(correction * v if a is None else v - a**2) + eps
        step = g / denominator
        if b is not None:
            b[:] = step = momentum * b + step
        w[:] = _shrunk(w - lr * step, lr * (_of(l1_values, row, dim) if l1_values.size else l1) / denominator)


def adagrad(groups, gradients, weights, sums, *, dim, rowwise, lr, eps, weight_decay, scale=1.0, l1=0.0, l1_values, threads=1):
    for row, g in _rows(groups, gradients, dim, scale):
        w, s = _of(weights, row, dim), _of(sums, row, 1 if rowwise else dim)
        g = g + weight_decay * w
        s += np.mean(g * g) if rowwise else g * g
        denominator = np.sqrt(s) + eps
        w[:] = _shrunk(w - lr * g / denominator, lr * (_of(l1_values, row, dim) if l1_values.size else l1) / denominator)


def adam(groups, gradients, weights, exp_avg, exp_avg_sq, max_exp_avg_sq, counts, *, dim, step, lr, betas, eps,
         weight_decay, decoupled, scale=1.0, l1=0.0, l1_values, threads=1):
    for row, g in _rows(groups, gradients, dim, scale):
        w, m, v, u = (_of(table, row, dim) for table in (weights, exp_avg, exp_avg_sq, max_exp_avg_sq))
        n = _count(counts, row) if counts.size else step
        if decoupled:
            w *= 1 - lr * weight_decay
        else:
            g = g + weight_decay * w
        m[:] = betas[0] * m + (1 - betas[0]) * g
        v[:] = betas[1] * v + (1 - betas[1]) * g * g
        if u is not None:
            u[:] = np.maximum(u, v)
        denominator = np.sqrt((v if u is None else u) / (1 - betas[1] ** n)) + eps
        w -= lr / (1 - betas[0] ** n) * m / denominator
        w[:] = _shrunk(w, lr * (_of(l1_values, row, dim) if l1_values.size else l1) / denominator)


def random_bits(k, key):
    z = k ^ key
    z = (z ^ z >> 16) * 0x7FEB352D % 2**32
    z = (z ^ z >> 15) * 0x846CA68B % 2**32
    return z ^ z >> 16


def at_random(number, noise):
    """The bits of float32 in bfloat16, rounded up with the probability of its distance from below."""
    bits = int(np.float32(number).view(np.uint32))
    return (bits + noise % 2**16 if np.isfinite(number) else bits) >> 16


def adam_rounded(gradients, weights, exp_avg, exp_avg_sq, counts, *, step, key, lr, betas, eps, weight_decay, decoupled,
                 scale=1.0, threads=1):
    nothing, one = np.empty(0, np.int32), np.zeros(1, np.int64)
    for k in range(weights.size):
        m, v = widened(exp_avg[k : k + 1]), widened(exp_avg_sq[k : k + 1])
        adam(Groups(one, nothing, nothing), gradients[k : k + 1], weights[k : k + 1], m, v, m[:0], counts[k : k + 1], dim=1,
             step=step, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decoupled=decoupled, scale=scale, l1_values=m[:0])
        noise = random_bits(k, key)
        exp_avg[k], exp_avg_sq[k] = at_random(m[0], noise), at_random(v[0], noise >> 16)


def idle_linear(rows, behind, steps, weights, buffer, squares, means, *, dim, threads=1):
    for row, k in zip(rows, behind, strict=True):
        w, b, *averages = (_of(table, row, dim) for table in (weights, buffer, squares, means))
        for ww, wb, bw, bb, a in steps[len(steps) - k :]:
            before = 0 if b is None else b.copy()
            if b is not None:
                b[:] = bw * w + bb * b
            w[:] = ww * w + wb * before
            for average in averages:
                if average is not None:
                    average *= a


def idle_adam(rows, behind, steps, weights, exp_avg, exp_avg_sq, max_exp_avg_sq, *, dim, eps, threads=1):
    for row, k in zip(rows, behind, strict=True):
        w, m, v, u = (_of(table, row, dim) for table in (weights, exp_avg, exp_avg_sq, max_exp_avg_sq))
        for beta1, beta2, step_size, root, shrink in steps[len(steps) - k :]:
            m *= beta1
            v *= beta2
            w[:] = shrink * w - step_size * m / (np.sqrt(v if u is None else u) * root + eps)
