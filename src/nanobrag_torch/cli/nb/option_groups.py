"""Options that several verbs share: the fields of a dataclass, which reach each verb as one record."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer

R = TypeVar("R")
_KIND = inspect.Parameter.POSITIONAL_OR_KEYWORD


def takes(group: type, argument: str, **helps: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Decorator: a verb has the fields of `group` as options, where its `argument` stands, which they reach together.

    A field is annotated like an option of a verb. helps: what some of them mean to this verb alone.
    """

    def decorate(verb: Callable[..., R]) -> Callable[..., R]:
        signature = inspect.signature(verb, eval_str=True)
        options = [option.replace(kind=signature.parameters[argument].kind) for option in _options(group, helps)]

        @functools.wraps(verb)
        def taking(**given: Any) -> R:
            given[argument] = group(**{option.name: given.pop(option.name) for option in options})
            return verb(**given)

        parameters: list[inspect.Parameter] = []
        for name, parameter in signature.parameters.items():
            parameters += options if name == argument else [parameter]
        taking.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        taking.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return taking

    return decorate


def _options(group: type, helps: Mapping[str, str]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    found = []
    for field in fields(group):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        annotation = hints[field.name]
        if field.name in helps:
            annotation = Annotated[get_args(annotation)[0], typer.Option(help=helps[field.name])]
        found.append(inspect.Parameter(field.name, _KIND, default=default, annotation=annotation))
    return found
