"""The command line: ``sparsetrain compare`` and ``sparsetrain info``."""

from .program import main as main
