"""The command ``sparsetrain`` itself: its name, its version, and how it ends."""

from typing import Any

import click

from .compare import compare
from .environment import version_of
from .info import info

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class _Program(click.Group):
    """A group of commands that Ctrl-C ends with the exit code that shells expect."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


@click.group("sparsetrain", cls=_Program)
@click.version_option(version_of("sparsetrain"), prog_name="sparsetrain")
def main() -> None:
    """Sparse training for PyTorch: only the edges that exist are stored, computed and trained."""


main.add_command(compare)
main.add_command(info)
