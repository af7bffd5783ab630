"""The command line: ``sparsetrain compare``, ``info`` and ``warm``."""

from .program import main as main
