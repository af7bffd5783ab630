"""The tables of a report: times, means over shapes, threads, crossovers, bytes, and every measurement."""

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import NamedTuple

from sparsetrain.cli.setting import count
from sparsetrain.text_table import size

from ..case import OURS
from ..engines import DENSE, ENGINES, PEERS
from ..rounds import geometric_mean, ratios
from .comparisons import RIVALS, Case, Seconds, by_case, crossover, fastest, mean_and_worst, over_ours, speedup
from .record import PASS, Point, Record
from .table import Table, milliseconds, spread, times

Cases = dict[Point, Case]
LAYER = "layer"  # in the names of families that are compared without the optimizer, as networks are not


class Measured(NamedTuple):
    """What of a step is compared."""

    what: str
    seconds: Seconds


def all_tables(records: list[Record]) -> list[Table]:
    """Everything, in the order in which one reads it."""
    cases = by_case(records)
    tables: list[Table] = []
    for (family, threads), group in _groups(cases):
        name = f"{family}, {count(threads, 'thread')}"
        tables += times_of(f"{name}: milliseconds of a step", group, _step)
        measured = Measured("a step", _step)
        phased = all(set(PASS) <= record.phases.keys() for case in group.values() for record in _timed(case))
        if phased and LAYER in family:
            measured = Measured("forward and backward", _pass)
            tables += times_of(f"{name}: milliseconds of {measured.what}", group, measured.seconds)
        tables += means(name, group, measured) + crossovers(name, group, measured)
    return tables + threads_over_one(cases) + memory(cases) + [measurements(records)]


def times_of(title: str, cases: Cases, seconds: Seconds) -> list[Table]:
    """Medians, and ratios to ours."""
    remark = (
        "Medians over rounds; in brackets how many times ours, the median over rounds of the ratio in each. "
        "*: so slow that it ran one round."
    )

    def cell(case: Case, record: Record) -> str:
        ratio = None if record.contestant == OURS else over_ours(case, record.contestant, seconds)
        return milliseconds(seconds(record)) + ("" if ratio is None else f" ({times(ratio)})")

    return [_wide(title, remark, cases, cell)]


def means(name: str, cases: Cases, measured: Measured) -> list[Table]:
    """For each density, rivals over ours as geometric means over the problems, and where they came closest."""
    rows = []
    for density, group in _by_density(cases):
        row = [f"{density:g}"]
        for names in RIVALS.values():
            found = mean_and_worst(group.values(), names, measured.seconds)
            if found is None:
                row.append("")
                continue
            mean, (ratio, rival), case = found
            row.append(f"{times(mean)} (least {times(ratio)}: {rival}, {case[OURS].panel})")
        rows.append(row)
    title = f"{name}: rivals over ours in {measured.what}, over all problems"
    ran = {name for case in cases.values() for name, record in case.items() if not record.state}
    peers = ", ".join(name for name in PEERS if name in ran) or "none ran"
    remark = (
        "Geometric means of the ratios; in brackets the problem in which a rival came closest. Sparse peers here: "
        f"{peers}."
        + (
            " The mask after the step is applied in the optimizer's phase, which is not in these."
            if measured.seconds is _pass
            else ""
        )
    )
    return [Table(title, remark, ["density", *RIVALS], rows)] if any(any(row[1:]) for row in rows) else []


def crossovers(name: str, cases: Cases, measured: Measured) -> list[Table]:
    """Below which density ours is faster than dense, by the faster of its libraries."""
    points: dict[str, list[tuple[float, float]]] = {}
    for (_, _, panel, density), case in cases.items():
        rival = fastest(case, DENSE, measured.seconds)
        if density is not None and rival is not None:
            points.setdefault(panel, []).append((density, rival[0]))
    rows = [[panel, crossover(found)] for panel, found in points.items()]
    remark = (
        "Interpolated between measured densities, both axes logarithmic; faster than dense, by torch's MKL and by its "
        "oneDNN, below it."
    )
    title = f"{name}: crossover density of {measured.what}"
    return [Table(title, remark, ["problem", "density"], rows)] if rows else []


def threads_over_one(cases: Cases) -> list[Table]:
    """What more threads give, as a geometric mean over cases."""
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    for (family, threads, panel, density), case in cases.items():
        alone = cases.get((family, 1, panel, density), {})
        for name, record in case.items():
            if threads > 1 and not record.state and name in alone and not alone[name].state:
                found.setdefault((family, threads), {}).setdefault(name, []).append(speedup(alone[name], record))
    remark = "Geometric means over problems and densities of the median step on one thread over that on more."
    return [
        Table(f"{family}: {threads} threads over one", remark, ["contestant", "times as fast"],
              [[name, f"{geometric_mean(ratios):.2f}x"] for name, ratios in by_name.items()])
        for (family, threads), by_name in found.items()
    ]  # fmt: skip


def memory(cases: Cases) -> list[Table]:
    """What is kept, and what is used at most."""
    kept = "Weights and indices between steps, over the edges that exist; gradients and optimizer state apart."
    peak = "By which the peak of a fresh process rises, the batch included; in brackets with building the layers."
    tables = []
    for (family, threads), group in _groups(cases):
        name = f"{family}, {count(threads, 'thread')}"
        if any(record.edges for case in group.values() for record in case.values()):
            tables.append(_wide(f"{name}: bytes per edge", kept, group, lambda _, r: _per_edge(r)))
        if any(record.peak for case in group.values() for record in case.values()):
            tables.append(_wide(f"{name}: peak memory of three steps", peak, group, lambda _, r: _peak(r)))
    return tables


def measurements(records: Iterable[Record]) -> Table:
    """Every record in a line."""
    cases = by_case(records)
    rows = []
    for case in cases.values():
        for record in _timed(case):
            ours = case.get(OURS)
            over = spread_of_ratio(record, ours) if ours and not ours.state else ""
            density = "" if record.density is None else f"{record.density:g}"
            where = [record.family, record.panel, density, str(record.threads), record.contestant]
            phases = ", ".join(f"{phase} {milliseconds(seconds)}" for phase, seconds in record.phases.items())
            once = [f"{1e3 * record.first_s:.0f}", f"{record.import_s:.2f}", f"{record.error:.0e}"]
            rows.append([*where, spread([1e3 * seconds for seconds in record.step]), over, phases, *once])
    header = ["table", "problem", "density", "threads", "contestant", "ms, quartiles", "over ours, quartiles", "phases"]
    header += ["first pass, ms", "import, s", "error"]
    return Table("Every measurement", "Median between the quartiles.", header, rows, detail=True)


def spread_of_ratio(theirs: Record, ours: Record) -> str:
    """Quartiles of the ratio to ours over rounds."""
    return spread(ratios(theirs.step, ours.step))


def _wide(title: str, remark: str, cases: Cases, cell: Callable[[Case, Record], str]) -> Table:
    """Rows of cases, columns of contestants; one without times shows why."""
    names = sorted(dict.fromkeys(name for case in cases.values() for name in case), key=_place)
    dense = any(density is not None for _, _, _, density in cases)
    rows = []
    for (_, _, panel, density), case in cases.items():
        head = [panel] + ([f"{density:g}" if density is not None else ""] if dense else [])
        found = (case.get(name) for name in names)
        rows.append(head + ["" if record is None else record.state or cell(case, record) for record in found])
    return Table(title, remark, ["problem", *(["density"] if dense else []), *names], rows)


def _groups(cases: Cases) -> list[tuple[tuple[str, int], Cases]]:
    """Cases by family and threads."""
    groups: dict[tuple[str, int], Cases] = {}
    for point, case in cases.items():
        groups.setdefault(point[:2], {})[point] = case
    return list(groups.items())


def _by_density(cases: Cases) -> list[tuple[float, Cases]]:
    having = sorted(((p[3], p) for p in cases if p[3] is not None), key=lambda pair: -pair[0])
    return [(d, {p: cases[p] for _, p in points}) for d, points in groupby(having, key=lambda pair: pair[0])]


def _timed(case: Case) -> list[Record]:
    return [record for record in case.values() if not record.state]


def _step(record: Record) -> list[float]:
    return record.step


def _pass(record: Record) -> list[float]:
    return record.forward_and_backward


def _peak(record: Record) -> str:
    return f"{size(record.peak['steps'])} ({size(record.peak['with_building'])})" if record.peak else ""


def _per_edge(record: Record) -> str:
    return f"{record.kept_bytes / max(1, record.edges):.1f}"


def _place(name: str) -> int:
    """Engines in the order of their registry, then others; those without times come last in the records."""
    return list(ENGINES).index(name) if name in ENGINES else len(ENGINES)
