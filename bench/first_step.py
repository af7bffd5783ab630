"""Seconds of the first training step: in a fresh environment, where kernels must be compiled, and in a warmed one.

    python bench/first_step.py [--repeat 3]

Each run is a process of its own. Its cache of machine code is a folder of its own, empty at first.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

STEP = """
import time
start = time.perf_counter()
import torch
imported = time.perf_counter()
import sparsetrain as st
model = torch.nn.Sequential(
    st.nn.SparseLinear(784, 1000, density=0.1), torch.nn.ReLU(), st.nn.SparseLinear(1000, 10, density=0.2)
)
optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
loss = torch.nn.functional.cross_entropy(model(torch.randn(128, 784)), torch.randint(10, (128,)))
loss.backward()
optimizer.step()
print(imported - start, time.perf_counter() - imported)
"""


def run(cache: str) -> tuple[float, float]:
    """Seconds of importing torch, and from there to the end of the first step."""
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    done = subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, check=True)
    torch, rest = map(float, done.stdout.split())
    return torch, rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    print(f"load {os.getloadavg()[0]:.2f}, 784-1000-10, batch 128; seconds beyond importing torch, medians of {repeat}")
    fresh, warmed, torch = [], [], []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as cache:
            fresh.append(run(cache)[1])
            torch_seconds, rest = run(cache)
            torch.append(torch_seconds)
            warmed.append(rest)
    print(f"fresh {statistics.median(fresh):.1f}, warmed {statistics.median(warmed):.2f}", end="")
    print(f" (importing torch itself {statistics.median(torch):.2f})")


if __name__ == "__main__":
    main()
