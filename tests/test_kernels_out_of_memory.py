"""A kernel that finds too little memory raises MemoryError before it starts: results untouched, subnormals as they were."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PROGRAM = """
import resource
import sys
import numpy as np
import sparsetrain_kernels as kernels
from sparsetrain_kernels import launch, rows

THREADS = int(sys.argv[1])
EDGES = 3_000_000
launch.PARALLEL_WORK = 1  # the parallel form even of the small case, whose kernels and threads are those of the large one


def structure(columns, edges):
    col = np.tile(np.arange(columns, dtype=np.int32), edges // columns)
    crow = np.arange(edges // columns + 1, dtype=np.int32) * columns
    return col.size // columns, columns, kernels.plan(crow, col, columns), *kernels.transpose(crow, col, columns)


def products(columns, edges, batch):
    made, columns, plan, crow_t, col_t, perm = structure(columns, edges)
    values, grad, bias_grad = np.ones(edges, np.float32), np.full(edges, 7, np.float32), np.full(made, 7, np.float32)
    x, dx = np.ones((columns, batch), np.float32), np.full((columns, batch), 7, np.float32)
    y, dy = np.full((made, batch), 7, np.float32), np.ones((made, batch), np.float32)
    plan_t = kernels.plan(crow_t, col_t, made)
    return {
        "backward": (lambda: kernels.backward(plan_t, perm, values, x, dy, dx, grad, bias_grad, THREADS), [dx, grad, bias_grad]),
        "spmm": (lambda: kernels.spmm(plan, values, x, y, None, THREADS), [y]),
        "sddmm": (lambda: kernels.sddmm(plan, dy, x, grad, THREADS), [grad]),
    }


def step(dim):
    groups, gradients = rows.group(np.arange(1), 1), np.ones(dim, np.float32)
    w, *states = (np.full(dim, 7, np.float32) for _ in range(4))
    counts, rest = np.zeros(1, np.int32), {"dim": dim, "lr": 0.1, "weight_decay": 0.1, "l1_values": w[:0], "threads": THREADS}
    adam, rms, none = {"betas": (0.9, 0.99), "eps": 1e-8}, {"eps": 1e-8, "alpha": 0.9, "momentum": 0.9}, w[:0]
    return {
        "sgd": (lambda: rows.sgd(groups, gradients, w, states[0], counts, momentum=0.9, dampening=0.1, nesterov=False, **rest),
                [w, *states, counts]),
        "adam": (lambda: rows.adam(groups, gradients, w, *states, counts, step=1, decoupled=True, **adam, **rest),
                 [w, *states, counts]),
        "rmsprop": (lambda: rows.rmsprop(groups, gradients, w, *states, counts, **rms, **rest), [w, *states, counts]),
        "adagrad": (lambda: rows.adagrad(groups, gradients, w, states[0], rowwise=False, eps=1e-8, **rest), [w, *states]),
    }


def sort(size):
    ids = np.arange(size)[::-1].copy()
    return {"group": (lambda: rows.group(ids, size, THREADS), [np.full(1, 7)])}


small = [products(20, 400, 161), products(20, 400, 3), step(5), sort(9000)]
large = [products(1500, EDGES, 161), products(3_000_000, EDGES, 3), step(4_000_000), sort(4_000_000)]
large[0] = {"backward": large[0]["backward"]}  # products by tiles have no room of their own that grows with the edges
for cases in small:
    for run, _ in cases.values():
        run()
with open("/proc/self/status") as status:
    held = next(int(line.split()[1]) for line in status if line.startswith("VmSize")) << 10
tiny = np.full(4, 1e-40, np.float32)
for cases in large:
    for name, (run, results) in cases.items():
        for result in results:
            result[:] = 7
        resource.setrlimit(resource.RLIMIT_AS, (held + (4 << 20), resource.RLIM_INFINITY))
        try:
            run()
        except MemoryError:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert all((result == 7).all() for result in results), f"{name} had begun to write"
            assert (tiny * np.float32(1)).all(), f"{name} left subnormals flushed"
            run()
            assert (tiny * np.float32(1)).all()
            print(name, "held")
        else:
            print(name, "found enough memory")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the size of the process from /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_memory_runs_out_before_a_kernel_starts(threads: int) -> None:
    no_reserve = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_ARENA_MAX": "1",
    }  # of memory freed, or of threads
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(threads)], env=no_reserve, cwd=ROOT / "kernels", capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    names = ["backward", "backward", "spmm", "sddmm", "sgd", "adam", "rmsprop", "adagrad", "group"]
    assert done.stdout.splitlines() == [f"{name} held" for name in names]
