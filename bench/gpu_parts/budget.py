"""Parts within a time: what a part yields is kept, and one that fails or runs out of time takes no other along."""

import json
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .machine import Result

Part = Callable[[], Iterable[Result]]


class Record:
    """Results of all parts so far, in a file that is written anew after each."""

    def __init__(self, seconds: float, path: Path | None) -> None:
        self.end, self.path = time.monotonic() + seconds, path
        self.content: dict[str, Any] = {"parts": {}}

    def run(self, name: str, budget: float, part: Part) -> None:
        """Run a part for so many seconds at most, and no longer than there are."""
        start = time.monotonic()
        end = min(start + budget, self.end)
        kept: dict[str, Any] = {"results": [], "ended": "out of time"}
        self.content["parts"][name] = kept
        try:
            for result in part() if start < end else ():
                kept["results"].append(result)
                if time.monotonic() > end:
                    break
            else:
                kept["ended"] = "complete" if start < end else "left out: the time had run out"
        except Exception as error:  # whatever it is: the parts that follow have a chance
            kept["ended"] = f"failed: {type(error).__name__}: {error}"[:2000]
            kept["traceback"] = traceback.format_exc()[-4000:]
        kept["seconds"] = round(time.monotonic() - start, 2)
        print(f"{name}: {len(kept['results'])} results in {kept['seconds']} s, {kept['ended']}", flush=True)
        self.write()

    def results(self, name: str) -> list[Result]:
        """What a part found so far."""
        found: list[Result] = self.content["parts"].get(name, {}).get("results", [])
        return found

    def write(self) -> None:
        """Whole or not at all: the machine may be taken away at any time."""
        if self.path is not None:
            beside = self.path.with_suffix(".tmp")
            beside.write_text(json.dumps(self.content, indent=1) + "\n")
            beside.replace(self.path)
