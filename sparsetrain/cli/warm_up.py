"""What is done once before the comparison, in a process whose memory nobody counts."""

import random
from dataclasses import replace
from time import perf_counter

import numpy as np

from ..data import DataSet
from ..nn.masked import Form
from .implementation import Implementation
from .libraries import load_libraries
from .network import FORMS, KINDS
from .setting import Setting

ROUNDS, STEPS = 12, 5


class WarmUp:
    """Compiles the kernels, and times the two forms of masked against each other."""

    def __init__(self, setting: Setting, data: DataSet) -> None:
        self.setting, self.data = setting, data

    def compile_kernels(self) -> float:
        """Seconds until sparse has run, and edges have changed, once: the machine code is on the disk from then on."""
        start = perf_counter()
        load_libraries(self.setting)
        setting = self.setting
        Implementation("sparse", "step", setting, self.data).warm_up()
        if setting.evolution:
            at_once = replace(setting, evolution=replace(setting.evolution, interval=1))
            for kind in KINDS[:2]:
                Implementation(kind, "step", at_once, self.data).train(2)
        return perf_counter() - start

    def time_forms(self) -> dict[Form, float]:
        """Median seconds of a whole step, for each form."""
        setting = replace(self.setting, evolution=None)
        implementations = {form: Implementation("masked", form, setting, self.data) for form in FORMS}
        times: dict[Form, list[float]] = {form: [] for form in FORMS}
        order = random.Random(self.setting.seed)
        for implementation in implementations.values():
            implementation.train(2)  # the first steps allocate the optimizer's state
        for _ in range(ROUNDS):
            for form in order.sample(FORMS, len(FORMS)):
                times[form] += implementations[form].train(STEPS).total
        return {form: float(np.median(seconds)) for form, seconds in times.items()}
