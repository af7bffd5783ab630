"""sparsetrain on a CUDA device, in one command: correctness, times beside dense layers and torch's own, memory.

    PYTHONPATH=.:kernels:bench python3 -u bench/gpu.py [--seconds 430] [--json FILE] [--parts probe ...] [--tiny]

Nothing has to be installed but torch; Triton and numba are used where they work. Each part has seconds of its own,
results are written after each part, and a table comes last. On a CPU, shapes are tiny, and what needs CUDA is left out.
"""

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from gpu_parts import without_numba

NUMBA = without_numba.make_importable()  # before anything imports sparsetrain

import torch  # noqa: E402
from gpu_parts.budget import Record  # noqa: E402
from gpu_parts.checks import checks  # noqa: E402
from gpu_parts.correct import correct  # noqa: E402
from gpu_parts.delta import delta  # noqa: E402
from gpu_parts.host import host  # noqa: E402
from gpu_parts.layers import layers  # noqa: E402
from gpu_parts.machine import Machine, Result  # noqa: E402
from gpu_parts.memory import memory  # noqa: E402
from gpu_parts.probe import probe, surroundings  # noqa: E402
from gpu_parts.rows import rows  # noqa: E402
from gpu_parts.table import tables  # noqa: E402

# seconds of each, of 430 in all
PARTS: dict[str, tuple[int, Callable[[Machine], Iterable[Result]]]] = {
    "probe": (30, probe),
    "correct": (70, correct),
    "layers": (170, layers),
    "memory": (20, memory),
    "delta": (20, delta),
    "rows": (40, rows),
    "host": (50, host),
    "checks": (40, checks),
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=430, help="for all parts together")
    parser.add_argument("--json", type=Path, default=None, help="where results are written, anew after each part")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to see that everything runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    asked = options()
    device = torch.device(asked.device)
    machine = Machine(device, asked.tiny or device.type != "cuda")
    torch.manual_seed(0)
    record = Record(asked.seconds, asked.json)
    record.content["machine"] = surroundings(machine, NUMBA) | {"tiny": machine.tiny}
    for name, value in record.content["machine"].items():
        print(f"{name}: {value}", flush=True)
    for name in asked.parts:
        budget, part = PARTS[name]
        record.run(name, budget * asked.seconds / 430, partial(part, machine))
        if machine.on_cuda:
            torch.cuda.empty_cache()
    for table in tables(record.content["parts"]):
        print(table)


if __name__ == "__main__":
    main()
