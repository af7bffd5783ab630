"""What a run is asked for; it travels to the process that runs it as JSON."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Settings:
    """A preset, and what narrows it; an empty tuple leaves the choice to the preset."""

    preset: str = "layers"
    shapes: tuple[Shape, ...] = ()
    densities: tuple[float, ...] = ()
    threads: tuple[int, ...] = ()
    engines: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    laws: tuple[str, ...] = ()
    rows: int = 1_000_000
    dim: int = 64
    ids: int = 65_536
    bag: int = 16
    dense: bool = False
    rounds: int = 11
    memory: bool = True
    seed: int = 0

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """From that text; JSON has no tuples."""
        return cls(**{name: _tuples(value) for name, value in json.loads(text).items()})

    def command(self) -> str:
        """What to type for the same run."""
        default, words = type(self)(), ["sparsetrain bench", f"--preset {self.preset}"]
        for field in fields(self):
            value, option = getattr(self, field.name), OPTIONS.get(field.name)
            if value == getattr(default, field.name) or option is None:
                continue
            values = value if isinstance(value, tuple) else (value,)
            words += [option] if isinstance(value, bool) else [f"{option} {_text(each)}" for each in values]
        return " ".join(words)


OPTIONS = {
    "shapes": "--shape", "densities": "--density", "threads": "--threads", "engines": "--engine",
    "layouts": "--layout", "laws": "--law", "rows": "--rows", "dim": "--dim", "ids": "--ids", "bag": "--bag",
    "dense": "--dense", "rounds": "--rounds", "memory": "--no-memory", "seed": "--seed",
}  # fmt: skip


def _text(value: object) -> str:
    text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f'"{text}"' if " " in text else text


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
