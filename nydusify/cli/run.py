"""``nydusify run FLOW``: a flow instead of the plain command. With ``PREFECT_API_URL`` set, it shows in the UI."""

import json
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from nydusify.cli.command import with_options
from nydusify.errors import FormatError, UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

FLOWS = ("convert",)
MAX_PARAMS = 4 << 20


@dataclass(frozen=True, slots=True)
class RunArguments:
    """As typed."""

    flow: Annotated[str, Argument(metavar="FLOW", help="Which flow: convert.")]
    source: Annotated[str, Option(metavar="REFERENCE", help="The parameter source.")] = ""
    target: Annotated[str, Option(metavar="REFERENCE", help="The parameter target.")] = ""
    param: Annotated[
        list[str] | None,
        Option(metavar="KEY=VALUE", help="Another parameter, as JSON or else as text. May be repeated."),
    ] = None
    params_file: Annotated[
        Path | None, Option(metavar="PATH", help="JSON object of parameters; --param, --source and --target beat it.")
    ] = None


@with_options(RunArguments)
def run(arguments: RunArguments, environment: list[str]) -> None:
    """Run a flow with Prefect and print its result as JSON. Needs nydusify[prefect].

    The same steps as the plain command, as tasks with retries and a record of the run.
    """
    if arguments.flow not in FLOWS:
        raise UsageError(f"no flow {arguments.flow[:100]!r}", advice=f"Flows are: {', '.join(FLOWS)}.")
    values = parameters(arguments)
    flow, model = _load()
    result = flow(_validated(model, values))
    print(_as_json(result), flush=True)


def parameters(arguments: RunArguments) -> dict[str, Any]:
    """The flow's parameters, from the file and then the options. Raises `UsageError`."""
    values = _from_file(arguments.params_file) if arguments.params_file else {}
    for text in arguments.param or []:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UsageError(f"--param: {text[:40]!r} is not KEY=VALUE")
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    given = {"source": arguments.source, "target": arguments.target}
    return values | {key: value for key, value in given.items() if value}


def _from_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(MAX_PARAMS))
    except OSError as error:
        raise UsageError(f"--params-file: {path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"--params-file: {path} does not hold a JSON object")
    return value


def _load() -> tuple[Any, "type[BaseModel]"]:
    """The flow and the model of its parameters."""
    from nydusify.project import project_root

    sys.path.insert(0, str(project_root()))
    if find_spec("prefect") is None:
        raise UsageError("Prefect is not installed", advice="Install it with `pip install 'nydusify[prefect]'`.")
    from flows.convert import ConvertParameters, convert_image

    return convert_image, ConvertParameters


def _validated(model: "type[BaseModel]", values: dict[str, Any]) -> "BaseModel":
    from pydantic import ValidationError

    unknown = set(values) - set(model.model_fields)
    if unknown:
        raise UsageError(
            f"the flow has no parameter {', '.join(sorted(unknown))}",
            advice=f"It has {', '.join(model.model_fields)}.",
        )
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # Without the inputs: what was typed into the wrong place may be a secret.
        places = [f"{'.'.join(map(str, part['loc'])) or 'parameters'}: {part['msg']}" for part in error.errors()]
        raise UsageError("; ".join(places), advice="See `nydusify run --help`.") from None


def _as_json(result: Any) -> str:
    if hasattr(result, "model_dump_json"):
        return str(result.model_dump_json())
    try:
        return json.dumps(result, default=str)
    except (TypeError, ValueError) as error:
        raise FormatError(f"the flow's result is not JSON: {error}") from error
