"""The command ``sparsetrain`` itself: its name, its version, and how it ends."""

from importlib.metadata import entry_points
from typing import Any

import click

from .compare import compare
from .environment import version_of
from .info import info
from .warm import warm

MORE_COMMANDS = "sparsetrain.commands"  # entry points: what stands above the command line enters itself there
ONLY_IN_A_CLONE = {"bench": "It is no part of the wheel. In a clone of the repository, run: pip install ./bench"}
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class _Program(click.Group):
    """A group of commands that Ctrl-C ends with the exit code that shells expect; installed packages can add some."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *entry_points(group=MORE_COMMANDS).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = entry_points(group=MORE_COMMANDS, name=cmd_name)
        command = super().get_command(ctx, cmd_name) or next((point.load() for point in found), None)
        if command is None and cmd_name in ONLY_IN_A_CLONE:
            raise click.UsageError(f"{cmd_name} is not installed. {ONLY_IN_A_CLONE[cmd_name]}", ctx)
        return command

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
main.add_command(warm)
