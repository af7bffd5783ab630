"""Steps of a lookup table: forward, backward and update of the rows that a step uses."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from .case import OURS, Case, Contestant
from .lookup_tables import EPS, LR, RACES, Size, Table
from .step import SEED, Clock, seeded

Law = Literal["uniform", "zipf"]
EXPONENT = 1.05  # of Zipf's law
CHECKED_STEPS = 3


class LookupProblem(NamedTuple):
    """What is checked: the same ids in each step, and the gradients of the output."""

    ids: Tensor
    dy: list[Tensor]


@dataclass(frozen=True)
class LookupCase(Case):
    """A table of some size under an optimizer's rule, with ids drawn by some law."""

    rule: str
    law: Law
    size: Size
    threads: int
    dense: bool = False
    density: None = None

    @property
    def family(self) -> str:
        rows, dim, ids, bag = self.size
        return f"Lookup, {rows:,} rows of {dim}, {ids:,} ids a step, bags of {bag}"

    @property
    def panel(self) -> str:
        return f"{self.rule}, {self.law}"

    @property
    def pooled(self) -> bool:
        """Whether the output is one row for each bag."""
        return "pooled" in self.rule

    def contestants(self) -> list[str]:
        return [name for name in RACES[self.rule] if self.dense or not name.startswith("dense")]

    def module_of(self, name: str) -> str:
        return {OURS: "sparsetrain", "FBGEMM": "fbgemm_gpu"}.get(name, "torch")

    def problem(self) -> LookupProblem:
        generator = seeded(1)
        ids = torch.randint(self.size.rows, (self.size.ids,), generator=generator)
        return LookupProblem(ids, [self.gradient(generator) for _ in range(CHECKED_STEPS)])

    def gradient(self, generator: torch.Generator) -> Tensor:
        """A gradient of the output of one step."""
        outputs = self.size.ids // self.size.bag if self.pooled else self.size.ids
        return torch.randn(outputs, self.size.dim, generator=generator)

    def fill(self, weight: Tensor) -> Tensor:
        """The numbers that all tables start with, written into one."""
        return weight.normal_(generator=seeded())

    def expected(self, problem: LookupProblem) -> dict[str, Tensor]:
        weight = self.fill(torch.empty(self.size.rows, self.size.dim))
        rule = self.rule.split(",")[0]
        rules = {rule, "Adam"} if rule == "RMSprop" else {rule}
        return {f"rows after {rule}": _trained(rule, weight, problem, self) for rule in rules}

    def contestant(self, name: str, problem: LookupProblem) -> "LookupContestant":
        return LookupContestant(name, self, problem)

    def tiny(self) -> Self:
        return replace(self, size=self.size._replace(rows=1000))

    def edges(self, problem: LookupProblem) -> int:
        return 0


class LookupContestant(Contestant):
    """One table in training."""

    def __init__(self, name: str, case: LookupCase, problem: LookupProblem) -> None:
        self.case, self.problem = case, problem
        self.oracle = "Adam" if name == "torch SparseAdam" else case.rule.split(",")[0]
        self.table: Table = RACES[case.rule][name](case.size)
        case.fill(self.table.weight)
        self.draw_ids = _source(case.law, case.size)
        self.gradients = seeded(2)

    def first_pass(self) -> None:
        for dy in self.problem.dy:
            self.table.train(self.problem.ids, dy)

    def results(self) -> dict[str, Tensor]:
        return {f"rows after {self.oracle}": self.table.weight[torch.unique(self.problem.ids)]}

    def step(self) -> dict[str, float]:
        ids, dy = self.draw_ids(), self.case.gradient(self.gradients)
        clock = Clock()
        self.table.train(ids, dy)
        clock.mark("step")
        return clock.phases

    def kept_bytes(self) -> int:
        return self.table.weight.nbytes


def _source(law: Law, size: Size) -> Callable[[], Tensor]:
    """Every row alike, or the row of rank r in proportion to r**-1.05, ranks in any order."""
    generator = np.random.default_rng(SEED)
    if law == "uniform":
        return lambda: torch.from_numpy(generator.integers(0, size.rows, size.ids))
    share = np.cumsum(np.arange(1, size.rows + 1) ** -EXPONENT)
    row_of_rank = generator.permutation(size.rows)
    return lambda: torch.from_numpy(row_of_rank[np.searchsorted(share, generator.random(size.ids) * share[-1])])


def _trained(rule: str, weight: Tensor, problem: LookupProblem, case: LookupCase) -> Tensor:
    """The rows of the ids after the checked steps of torch's dense optimizer in float64, over just these rows."""
    rows, places = torch.unique(problem.ids, return_inverse=True)
    small = nn.Parameter(weight[rows].double())
    optimizer = getattr(torch.optim, rule.removeprefix("row-wise "))([small], LR, eps=EPS)
    squares = torch.zeros(len(rows), 1, dtype=torch.float64)
    for dy in problem.dy:
        each = dy.double().repeat_interleave(case.size.bag, 0) if case.pooled else dy.double()
        small.grad = torch.zeros_like(small).index_add_(0, places, each)
        if rule.startswith("row-wise"):
            squares += small.grad.square().mean(1, keepdim=True)
            small.data -= LR * small.grad / (squares.sqrt() + EPS)
        else:
            optimizer.step()
    return small.detach()
