"""``python -m sparsetrain``: the command line without an installed command."""

from .cli import main

if __name__ == "__main__":  # the processes that compare starts import this module under another name
    main(prog_name="sparsetrain")
