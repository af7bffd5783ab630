"""What is done once before the race, in a process whose memory nobody counts."""

import random
from time import perf_counter

import numpy as np

from ..data import DataSet
from ..nn.masked import Form
from .contestant import Contestant
from .libraries import load_libraries
from .network import FORMS
from .setting import Setting

ROUNDS, STEPS = 12, 5


class Rehearsal:
    """Compiles the kernels, and times the two forms of masked against each other."""

    def __init__(self, setting: Setting, data: DataSet) -> None:
        self.setting, self.data = setting, data

    def compile_kernels(self) -> float:
        """Seconds until sparse has run once: the machine code is on the disk from then on."""
        start = perf_counter()
        load_libraries(self.setting)
        Contestant("sparse", "step", self.setting, self.data).warm_up()
        return perf_counter() - start

    def time_forms(self) -> dict[Form, float]:
        """Median seconds of a whole step, for each form."""
        contestants = {form: Contestant("masked", form, self.setting, self.data) for form in FORMS}
        times: dict[Form, list[float]] = {form: [] for form in FORMS}
        order = random.Random(self.setting.seed)
        for contestant in contestants.values():
            contestant.train(2)  # the first steps allocate the optimizer's state
        for _ in range(ROUNDS):
            for form in order.sample(FORMS, len(FORMS)):
                times[form] += contestants[form].train(STEPS).total
        return {form: float(np.median(seconds)) for form, seconds in times.items()}
