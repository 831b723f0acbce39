"""Sub-commands whose options are the fields of a dataclass, and what the environment had to say about them."""

import inspect
import os
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar, get_type_hints

import typer

from nydusify.reports.redact import redact

T = TypeVar("T")


def with_options(kind: type[T]) -> Callable[[Callable[[T, list[str]], None]], Callable[..., None]]:
    """Make a function of ``kind`` (a dataclass, ``Annotated`` with `typer.Option`) into one that typer can read.

    Its second argument tells which values came from the environment, a line for each.
    """
    hints = get_type_hints(kind, include_extras=True)
    parameters = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=hints[field.name]
        )
        for field in fields(kind)  # type: ignore[arg-type]  # a dataclass, always
    ]
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)

    def decorate(function: Callable[[T, list[str]], None]) -> Callable[..., None]:
        def command(ctx: typer.Context, **values: Any) -> None:
            function(kind(**values), from_environment(ctx))

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
        command.__annotations__ = {"ctx": typer.Context, **hints}
        return command

    return decorate


def _default(field: Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is MISSING else field.default


def from_environment(ctx: typer.Context) -> list[str]:
    """One line for each option that was not given and whose environment variable is set.

    The names are those of the reference tool, and so general that a build server may have set them for itself.
    """
    lines = []
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "ENVIRONMENT" and parameter.envvar:
            names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar
            name = next(name for name in names if os.environ.get(name))
            lines.append(f"{parameter.opts[0]} {redact(os.environ[name])} comes from the environment variable {name}")
    return lines
