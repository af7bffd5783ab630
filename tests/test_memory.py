"""Nothing of size rows x columns is made: the whole training step of a layer that could not exist densely."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

STEP = """
import torch
import sparsetrain as st

torch.set_num_threads(1)  # or kernels are compiled in both of their forms

def high_water():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20

generator = torch.Generator().manual_seed(0)
small = st.nn.SparseLinear(8, 8, density=0.5)
small(torch.ones(16, 8)).sum().backward()  # loads the kernels
start = high_water()
t = st.patterns.uniform((200_000, 200_000), 1_000_000 / 200_000**2, generator)
layer = st.nn.SparseLinear(200_000, 200_000, topology=t)
optimizer = torch.optim.Adam(layer.parameters())
x = torch.randn(16, 200_000, requires_grad=True)
layer(x).pow(2).mean().backward()
optimizer.step()
print(t.nnz, x.grad.abs().sum() > 0, high_water() - start)
"""


LOOKUP = """
import sys, torch
import sparsetrain as st

def high_water(rows):
    table = st.nn.LookupTable(rows, 16)
    optimizer = st.optim.AdamW(table.parameters(), unused=sys.argv[1])
    for _ in range(5):
        optimizer.zero_grad()
        table(torch.randint(rows, (4096,))).square().sum().backward()
        optimizer.step()
        for name in ("exp_avg", "exp_avg_sq"):  # all of it is in memory, whichever rows were used
            optimizer.state[table.weight][name].fill_(0.1)
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20

small = high_water(4096)  # compiles and loads the kernels
print(high_water(1_000_000) - small)
"""

STRUCTURE = """
import torch
import sparsetrain as st
from sparsetrain.edges.packed_edges import packed
from sparsetrain.patterns import pieces
from sparsetrain.structure import index_types

torch.set_num_threads(1)
pieces.EDGES = index_types.PIECE = 1 << 16

def taken(work):
    with open("/proc/self/clear_refs", "w") as marks:
        marks.write("5")  # the high-water mark starts anew
    before = marked("VmRSS")
    result = work()
    return result, marked("VmHWM") - before

def marked(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024

def structure(edges):
    t, making = taken(lambda: st.patterns.uniform((20_000, 40_000), edges / 8e8))
    _, hashing = taken(lambda: t.digest)
    again, checking = taken(lambda: st.Topology(t.crow, t.stored_col, t.shape))
    state, packing = taken(lambda: packed(t))
    return t.nbytes, making, hashing, checking, packing, state.nbytes

structure(200_000)  # loads the kernels
print(*structure(20_000_000))
"""

FILES = """
import sys, torch
import sparsetrain as st

torch.set_num_threads(1)

def taken(work):
    with open("/proc/self/clear_refs", "w") as marks:
        marks.write("5")  # the high-water mark starts anew
    before = marked("VmRSS")
    work()
    return marked("VmHWM") - before

def marked(name):  # with pages of files, which are given back as soon as others want them
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024

def file(edges):
    topology = st.patterns.uniform((20_000, 40_000), edges / 8e8)
    layer, other = (st.nn.SparseLinear(40_000, 20_000, topology=topology) for _ in range(2))
    layer.topology.digest
    path = f"{sys.argv[1]}/layer.safetensors"
    saving = taken(lambda: st.io.save(path, layer))
    loading = taken(lambda: st.io.load(path, other))
    assert torch.equal(layer.values, other.values)
    return layer.topology.nbytes + layer.values.nbytes, saving, loading

file(200_000)
print(*file(20_000_000))
"""


EVOLVING = """
import torch
import sparsetrain as st

torch.set_num_threads(1)

def marked(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024

def change(edges):
    layer = st.nn.SparseLinear(20_000, 10_000, density=edges / 2e8, bias=False)
    optimizer = st.optim.Adam(layer.parameters(), moments="bfloat16")
    evolver = st.evolve.Evolver(layer, optimizer, st.evolve.SET(), st.evolve.Constant(interval=1, prune_fraction=0.1))
    for _ in range(2):
        optimizer.zero_grad()
        layer(torch.randn(16, 20_000)).square().mean().backward()
        optimizer.step()
        with open("/proc/self/clear_refs", "w") as marks:
            marks.write("5")  # the high-water mark starts anew
        before = marked("VmRSS")
        evolver.step()
        taken = marked("VmHWM") - before
    born = 4 * edges  # which the Evolver keeps of each
    states = sum(each.nbytes for each in optimizer.state[layer.values].values())
    return 2 * layer.values.nbytes + states + layer.topology.nbytes + born, taken

change(100_000)  # loads the kernels
print(*change(5_000_000))
"""


proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads the high-water mark of memory from /proc"
)


def run(program: str, *arguments: str) -> str:
    """What a program prints, in a process of its own: the high-water mark is the process's."""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, cwd=ROOT,
                          env={"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "PATH": "/usr/bin:/bin"})  # fmt: skip
    return done.stdout


@proc
@pytest.mark.parametrize("unused", ["frozen", "dense"])
def test_a_step_of_a_table_allocates_nothing_of_its_size(unused: str) -> None:
    kept = 1_000_000 * (3 * 16 * 4 + 4) / 2**30  # weight, two moments, and for each row a count of steps
    assert float(run(LOOKUP, unused)) < kept + 0.03, "a single table of this size is 0.06 GiB"


@proc
def test_a_step_of_a_layer_of_200_000_by_200_000() -> None:
    nnz, moved, grown = run(STEP).split()
    assert (nnz, moved) == ("1000000", "tensor(True)")
    assert float(grown) < 1.0, f"{grown} GiB above the start"


@proc
def test_making_checking_hashing_and_packing_edges_takes_little_more_than_they_keep() -> None:
    kept, making, hashing, checking, packing, state = map(int, run(STRUCTURE).split())
    assert 2 * 20_000_000 <= kept < 2.1 * 20_000_000, "columns of 16 bits"
    assert making < 1.5 * kept
    assert checking < 1.5 * kept
    assert hashing < 0.5 * kept
    assert packing < 1.1 * state


@proc
def test_a_change_of_edges_takes_less_than_one_and_a_half_times_what_is_kept() -> None:
    kept, taken = map(int, run(EVOLVING).split())
    assert taken < 1.5 * kept, f"{taken / 2**20:.0f} MiB beside {kept / 2**20:.0f}"


@proc
def test_saving_and_loading_take_little_beside_what_is_kept(tmp_path: Path) -> None:
    kept, saving, loading = map(int, run(FILES, str(tmp_path)).split())
    assert saving < 0.1 * kept
    assert loading < 1.5 * kept, "with the pages of the file, which is 1.33 times as large"
