"""Seconds of the first training step: in a fresh environment, where kernels must be compiled, and in a warmed one.

    python bench/first_step.py [--repeat 3] [--kernels]

Each run is a process of its own. Its cache of machine code is a folder of its own, empty at first. "import" is that of
sparsetrain, with numba, after torch's. "To the first step" is everything from there to the end of the first step, of
which nn.Linear and the optimizer take a part too: they import the compiler of torch. The same step of nn.Linear stands
beside it. Processor time stands beside the time that passes, as other work on the machine changes it less. After the
first step come batches of other sizes and a model of another type, and the longest call among them; --kernels names
what was compiled, the longest first, without what it calls.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

DENSE = """
import json, time, torch
start, processor = time.perf_counter(), time.process_time()
model = torch.nn.Sequential(torch.nn.Linear(784, 1000), torch.nn.ReLU(), torch.nn.Linear(1000, 10))
optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
torch.nn.functional.cross_entropy(model(torch.randn(128, 784)), torch.randint(10, (128,))).backward()
optimizer.step()
print(json.dumps({"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}))
"""

STEP = """
import json, time, torch
start, processor = time.perf_counter(), time.process_time()
import sparsetrain as st
imported = time.perf_counter() - start, time.process_time() - processor
from numba.core import event
compiled, inside = [], []

class Listener(event.Listener):
    def on_start(self, started):
        inside.append([time.thread_time(), 0.0])
    def on_end(self, ended):
        since, within = inside.pop()
        seconds = time.thread_time() - since
        function = ended.data["dispatcher"].py_func
        compiled.append((f"{function.__module__.rpartition('.')[2]}.{function.__name__}", seconds - within))
        if inside:
            inside[-1][1] += seconds

event.register("numba:compile", Listener())
model = torch.nn.Sequential(
    st.nn.SparseLinear(784, 1000, density=0.1), torch.nn.ReLU(), st.nn.SparseLinear(1000, 10, density=0.2)
)
optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

def step(batch, dtype=torch.float32):
    calls = []
    def timed(call, *args):
        since = time.process_time()
        result = call(*args)
        calls.append(time.process_time() - since)
        return result
    x = torch.randn(batch, 784, dtype=dtype)
    for layer in model:
        x = timed(layer, x)
    timed(torch.nn.functional.cross_entropy(x, torch.randint(10, (batch,))).backward)
    timed(optimizer.step)
    return max(calls)

step(128)
found = {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor, "kernels": compiled[:]}
found["import"], found["import, processor"] = imported
found["batches"] = max(map(step, (64, 100, 33, 300, 16)))
found["few samples"] = step(2)
model.double()
found["type"] = step(128, torch.float64)
print(json.dumps(found))
"""


def run(program: str, cache: str) -> dict[str, Any]:
    """What one process found."""
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--kernels", action="store_true")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.2f}, 784-1000-10, batch 128; seconds after importing torch, medians")
    print(
        "(of the processor in brackets)        import        to the first step   longest call: batches   two   float64"
    )
    dense, fresh, warmed = [], [], []
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory() as cache:
            dense.append(run(DENSE, cache))
            fresh.append(run(STEP, cache))
            warmed.append(run(STEP, cache))
    for name, runs in (
        ("nn.Linear", dense),
        ("sparse, no kernels on disk", fresh),
        ("sparse, kernels on disk", warmed),
    ):
        median = {key: statistics.median(found[key] for found in runs) for key in runs[0] if key != "kernels"}
        step = f"{median['seconds']:.2f} ({median['processor']:.2f})"
        if runs is dense:
            print(f"{name:35} {'':13} {step}")
            continue
        imports = f"{median['import']:.2f} ({median['import, processor']:.2f})"
        print(f"{name:35} {imports:13} {step:19} {median['batches']:<23.2f} {median['few samples']:<5.2f}", end="")
        print(f" {median['type']:.2f}")
    if options.kernels:
        for name, seconds in sorted(fresh[0]["kernels"], key=lambda each: -float(each[1])):
            print(f"    {name:36} {seconds:6.2f}")


if __name__ == "__main__":
    main()
