"""The two usual forms of masked, timed against each other before the race."""

import random

import numpy as np

from ..data import DataSet
from .contestant import Contestant
from .network import FORMS, Form
from .setting import Setting

ROUNDS, STEPS = 8, 4


class Trial:
    """Masked with the mask in the forward pass, and masked with the mask on the weight after each step."""

    def __init__(self, setting: Setting, data: DataSet) -> None:
        self.contestants = {form: Contestant("masked", form, setting, data) for form in FORMS}
        self.order = random.Random(setting.seed)

    def medians(self) -> dict[Form, float]:
        """Median seconds of a whole step in each form."""
        times: dict[Form, list[float]] = {form: [] for form in FORMS}
        for contestant in self.contestants.values():
            contestant.train(2)  # the first steps allocate the optimizer's state
        for _ in range(ROUNDS):
            for form in self.order.sample(FORMS, len(FORMS)):
                times[form] += self.contestants[form].train(STEPS).total
        return {form: float(np.median(seconds)) for form, seconds in times.items()}
