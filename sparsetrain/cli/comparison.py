"""The comparison: three implementations in three processes, driven in turn so that only one computes at a time."""

import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from ..data import DataSet
from ..nn.masked import Form
from . import start_up
from .implementation import Bytes, Evaluation, Steps
from .network import FORMS, KINDS, Kind
from .process import Remote
from .race import Race
from .setting import Setting

ROUNDS = 3  # of each epoch: a busy moment of the machine then hits all implementations alike


@dataclass
class Record:
    """What an implementation did: seconds of the warm-up, every step, each epoch's test, and its memory so far."""

    warm_up: float
    memory: Bytes
    steps: Steps = field(default_factory=lambda: Steps([], [], [], [], []))
    test: list[Evaluation] = field(default_factory=list)

    def train_loss(self, epochs: int) -> list[float]:
        """Mean loss of each epoch's batches."""
        return [float(part.mean()) for part in np.split(np.array(self.steps.loss), epochs)]


@dataclass(frozen=True)
class Comparison:
    """What was run and what came out: ``kernels``, the seconds of compiling or loading them; ``forms``, masked's median
    seconds of a step in each of its forms, of which it used ``form``; the records; and ``shared_edges``, where edges
    change, the share of sparse's last edges that masked has too."""

    setting: Setting
    kernels: float
    forms: dict[Form, float]
    form: Form
    records: dict[Kind, Record]
    shared_edges: float | None = None


def run(setting: Setting, data: DataSet, say: Callable[[str], None]) -> Comparison:
    """Compile the kernels, choose masked's form, then train the three implementations in interleaved rounds.

    Raises:
        ProcessError: an implementation failed or died; all processes are ended.
    """
    with tempfile.TemporaryDirectory(prefix="sparsetrain-") as folder:
        file = Path(folder) / "data.npz"
        start_up.write(file, data)
        say("Loading the kernels ...")
        with Remote("warm-up", setting.threads, start_up.warm_up, setting, file) as warm_up:
            warm_up.ready()
            kernels = warm_up.call("compile_kernels")
            say(f"  took {kernels:.1f} s. Timing the two forms of masked ...")
            forms: dict[Form, float] = warm_up.call("time_forms")
        form = min(FORMS, key=forms.__getitem__)
        say("Starting one process for each implementation ...")
        race = Race[Kind](setting.threads, random.Random(setting.seed))
        with race:
            remotes = {kind: race.enter(kind, start_up.implementation, kind, form, setting, file) for kind in KINDS}
            for remote in remotes.values():
                remote.ready()
            records = {kind: Record(remote.call("warm_up"), remote.call("measure")) for kind, remote in remotes.items()}
            _train(setting, len(data.train_labels) // setting.batch, race, records)
            shared = None
            if setting.evolution:
                shared = _shared_edges(remotes["sparse"].call("edges"), remotes["masked"].call("edges"))
    return Comparison(setting, kernels, forms, form, records, shared)


def _shared_edges(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Share of our edges, of all layers together, that are among theirs."""
    common = sum(len(np.intersect1d(a, b, assume_unique=True)) for a, b in zip(ours, theirs, strict=True))
    return common / max(1, sum(map(len, ours)))


def _train(setting: Setting, steps: int, race: Race[Kind], records: dict[Kind, Record]) -> None:
    total = setting.epochs * steps * len(KINDS)
    with click.progressbar(length=total, file=sys.stderr, show_pos=True, item_show_func=lambda text: text) as bar:
        for epoch in range(1, setting.epochs + 1):
            bar.label = f"epoch {epoch}/{setting.epochs}"
            for round_steps in (len(part) for part in np.array_split(range(steps), ROUNDS)):
                for kind, remote in race.round():
                    records[kind].steps.extend(remote.call("train", round_steps))
                    bar.update(round_steps)
            for kind, record in records.items():
                record.test.append(race.contestants[kind].call("evaluate"))
            bar.update(0, ", ".join(f"{kind} {record.test[-1].accuracy:.1f} %" for kind, record in records.items()))
    for kind, record in records.items():
        record.memory = race.contestants[kind].call("measure")
