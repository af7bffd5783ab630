"""The public names and how they are called, as text: `make api` writes tests/public_api.txt anew, and a change shows there."""

import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click

FILE = Path(__file__).with_suffix(".txt")
REFERENCE = Path(__file__).parent.parent / "docs" / "api" / "index.rst"
OURS = "sparsetrain."


def api() -> str:
    """A line for each public function, class, method, property and option of the command line."""
    modules = re.findall(r"^   (sparsetrain\S*)$", REFERENCE.read_text(), re.MULTILINE)
    lines = [line for module in sorted(modules) for line in of_module(module)]  # in any order of the page
    return "".join(f"{line}\n" for line in [*lines, *of_command_line()])


def of_module(name: str) -> Iterator[str]:
    """What the reference describes of a module: what it defines, or its folder does."""
    module = import_module(name)
    home = OURS if hasattr(module, "__path__") and name != "sparsetrain" else f"{name}."
    for inner, member in sorted(vars(module).items()):
        ours = f"{getattr(member, '__module__', '')}.".startswith(home) or (name == "sparsetrain" and _ours(member))
        if inner.startswith("_") or not ours:
            continue
        if inspect.isclass(member):
            yield from of_class(f"{name}.{inner}", member)
        elif inspect.isfunction(member):
            yield f"{name}.{inner}{signature(member)}"


def of_class(name: str, kind: type) -> Iterator[str]:
    """A class as it is made, and what it or a class of ours that it extends defines: what torch defines is torch's."""
    above = [each for each in kind.__mro__ if _ours(each)]
    made = any({"__init__", "__new__"} & vars(each).keys() for each in above)
    yield f"{name}{signature(kind) if made else ''}"
    members: dict[str, Any] = {}
    for each in reversed(above):
        members.update({inner: member for inner, member in vars(each).items() if not inner.startswith("_")})
    for inner, member in sorted(members.items()):
        if isinstance(member, staticmethod | classmethod):
            yield f"{name}.{inner}{signature(getattr(kind, inner))}"
        elif inspect.isfunction(member):
            yield f"{name}.{inner}{signature(member)}"
        else:
            yield f"{name}.{inner}"


def signature(of: Callable[..., Any]) -> str:
    """Names, order and defaults of the arguments; their types are left to mypy, as Pythons print them differently."""
    arguments = inspect.signature(of)
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in arguments.parameters.values()]
    return str(arguments.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def of_command_line() -> Iterator[str]:
    """The options of each command."""
    from sparsetrain.cli import main

    for name, command in sorted(main.commands.items()):
        for option in command.params:
            default = option.default if isinstance(option, click.Option) and _plain(option.default) else ""
            yield f"sparsetrain {name} {'/'.join([*option.opts, *option.secondary_opts])} {default}".rstrip()


def _plain(default: Any) -> bool:
    return isinstance(default, str | int | float) and default is not False


def _ours(member: Any) -> bool:
    return str(getattr(member, "__module__", "")).startswith(OURS)


if __name__ == "__main__":
    FILE.write_text(api())
