"""The race: three contestants in three processes, driven in turn so that only one computes at a time."""

import random
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..data import DataSet
from . import birth
from .contestant import Bytes, Evaluation, Steps
from .network import FORMS, KINDS, Form, Kind
from .process import Remote
from .setting import Setting

ROUNDS = 3  # of each epoch: a busy moment of the machine then hits all contestants alike


@dataclass
class Record:
    """What a contestant did: seconds of the warm-up, every step, the test after each epoch, and its memory so far."""

    warm_up: float
    memory: Bytes
    steps: Steps = field(default_factory=lambda: Steps([], [], [], []))
    test: list[Evaluation] = field(default_factory=list)

    def train_loss(self, epochs: int) -> list[float]:
        """Mean loss of each epoch's batches."""
        return [float(part.mean()) for part in np.split(np.array(self.steps.loss), epochs)]


@dataclass(frozen=True)
class Race:
    """What was run and what came out; ``forms`` are masked's median seconds in the trial of its forms."""

    setting: Setting
    compile: float
    forms: dict[Form, float]
    form: Form
    records: dict[Kind, Record]


def run(setting: Setting, data: DataSet, say: Callable[[str], None]) -> Race:
    """Compile the kernels, choose masked's form, then train the three contestants in interleaved rounds.

    Raises:
        ProcessError: a contestant failed or died; all processes are ended.
    """
    with tempfile.TemporaryDirectory(prefix="sparsetrain-") as folder:
        file = Path(folder) / "data.npz"
        birth.write(file, data)
        say("Compiling the kernels: the first time takes a while, later they come from the disk ...")
        compile_seconds = _compile(setting, file)
        say(f"  took {compile_seconds:.1f} s. Timing the two forms of masked ...")
        forms = _try_forms(setting, file)
        form = min(FORMS, key=lambda form: forms[form])
        say("Starting one process for each contestant ...")
        with ExitStack() as stack:
            remotes = {
                kind: _start(stack, kind, setting, birth.contestant, kind, form, setting, file) for kind in KINDS
            }
            for remote in remotes.values():
                remote.ready()
            records = {kind: Record(remote.call("warm_up"), remote.call("measure")) for kind, remote in remotes.items()}
            _train(setting, len(data.train_labels) // setting.batch, remotes, records)
    return Race(setting, compile_seconds, forms, form, records)


def _start(stack: ExitStack, name: str, setting: Setting, make: Callable[..., object], *args: object) -> Remote:
    return stack.enter_context(Remote(name, setting.threads, make, *args))


def _compile(setting: Setting, file: Path) -> float:
    """In a process that ends at once: what the compiler needs is then not counted as the contestant's memory."""
    with ExitStack() as stack:
        remote = _start(stack, "sparse", setting, birth.contestant, "sparse", "step", setting, file)
        remote.ready()
        seconds: float = remote.call("warm_up")
    return seconds


def _try_forms(setting: Setting, file: Path) -> dict[Form, float]:
    with ExitStack() as stack:
        remote = _start(stack, "masked", setting, birth.trial, setting, file)
        remote.ready()
        medians: dict[Form, float] = remote.call("medians")
    return medians


def _train(setting: Setting, steps: int, remotes: dict[Kind, Remote], records: dict[Kind, Record]) -> None:
    from tqdm import tqdm  # an extra, which only a race needs

    order = random.Random(setting.seed)
    with tqdm(total=setting.epochs * steps * len(KINDS), unit="step", leave=False, disable=None) as bar:
        for epoch in range(1, setting.epochs + 1):
            bar.set_description(f"epoch {epoch}/{setting.epochs}")
            for round_steps in (len(part) for part in np.array_split(range(steps), ROUNDS)):
                for kind in order.sample(KINDS, len(KINDS)):
                    records[kind].steps.extend(remotes[kind].call("train", round_steps))
                    bar.update(round_steps)
            for kind, remote in remotes.items():
                records[kind].test.append(remote.call("evaluate"))
            bar.set_postfix({kind: f"{record.test[-1].accuracy:.1f}%" for kind, record in records.items()})
    for kind, remote in remotes.items():
        records[kind].memory = remote.call("measure")
