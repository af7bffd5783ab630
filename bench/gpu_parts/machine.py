"""What a part measures on: a CUDA device, or a CPU with tiny shapes, which shows that the parts run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

import torch
from torch import Tensor

Result = dict[str, Any]
L2 = 64 << 20  # bytes; inputs take turns until they exceed the cache of an H100, 50 MB
LONG = 0.05  # seconds; what takes longer is timed once
FULL = 0.1  # seconds that a measurement lasts
AHEAD = 20_000_000  # cycles for which the device sleeps, so that short kernels do not wait for their launches


@dataclass(frozen=True)
class Machine:
    """``tiny`` shapes take seconds on any device."""

    device: torch.device
    tiny: bool

    @cached_property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def sizes(self, full: Any, tiny: Any) -> Any:
        """One of both."""
        return tiny if self.tiny else full

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, device=self.device).to(dtype)

    def turns(self, *shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Inputs that take turns, so many that none is in the cache when its turn comes."""
        first = self.normal(*shape, dtype=dtype)
        count = 2 if self.tiny else min(64, max(2, -(-L2 // max(1, first.nbytes))))
        return [first, *(self.normal(*shape, dtype=dtype) for _ in range(count - 1))]

    def wait(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize(self.device)

    def milliseconds(self, step: Callable[[int], object]) -> float:
        """Median time of ``step(k)``, k counting its calls: by events on CUDA, without the host's part where it can run
        ahead; by the clock elsewhere."""
        step(0)  # compiles, and makes what follows from the structure
        self.wait()
        once = self._by_clock(step, 1)
        if once > LONG:
            return 1000 * once
        calls = 3 if self.tiny else max(5, min(50, int(FULL / max(once, 1e-6))))
        return self._by_events(step, calls) if self.on_cuda else 1000 * self._by_clock(step, calls)

    def wall_milliseconds(self, step: Callable[[int], object]) -> float:
        """Median time between calls that follow each other, the host's part included."""
        calls, rounds = (2, 2) if self.tiny else (20, 7)
        for k in range(3):
            step(k)
        self.wait()
        several = [self._by_clock(lambda _: [step(k) for k in range(calls)], 1) for _ in range(rounds)]
        return 1000 * median(several) / calls

    def _by_clock(self, step: Callable[[int], object], calls: int) -> float:
        times = []
        for k in range(calls):
            start = time.perf_counter()
            step(k + 1)
            self.wait()
            times.append(time.perf_counter() - start)
        return median(times)

    def _by_events(self, step: Callable[[int], object], calls: int) -> float:
        cuda: Any = torch.cuda  # untyped
        events = [[cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
        cuda._sleep(AHEAD)
        for k, (start, stop) in enumerate(events):
            start.record()
            step(k + 1)
            stop.record()
        self.wait()
        times: list[float] = [start.elapsed_time(stop) for start, stop in events]
        return median(times)
