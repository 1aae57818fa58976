"""The tools by name, the JSON schema of any tool, and the one way to call one."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import get_args

from agenticrec_lite.errors import UserError
from agenticrec_lite.tools.behavior import get_rating_behavior, get_session_behavior
from agenticrec_lite.tools.collaborative import get_similar_items, get_similar_users
from agenticrec_lite.tools.context import TaskContext, ToolError
from agenticrec_lite.tools.item_info import candidates_analyze, item_info_search
from agenticrec_lite.tools.lists import weigh_evidence
from agenticrec_lite.tools.profile import get_user_profile
from agenticrec_lite.tools.text import escape

Tool = Callable[..., str]
ERROR = "Error: "  # what the observation of a call begins with that was wrong, or failed
_IN_WORDS = {str: "text or a number", int: "a whole number", float: "a number", bool: "true or false"}

TOOLS: dict[str, Tool] = {
    tool.__name__: tool
    for tool in (
        get_user_profile,
        item_info_search,
        candidates_analyze,
        get_session_behavior,
        get_rating_behavior,
        get_similar_items,
        get_similar_users,
        weigh_evidence,
    )
}
LISTS = {  # the list that a tool shows of the whole history, by the tool's name
    "get_similar_users": "users", "get_similar_items": "items", "get_session_behavior": "session",
    "get_user_profile": "profile", "get_rating_behavior": "ratings", "candidates_analyze": "popularity",
}  # fmt: skip
PAPER_TOOLS = {name: tool for name, tool in TOOLS.items() if tool is not weigh_evidence}  # the paper's seven


def parameters(tool: Tool) -> dict[str, inspect.Parameter]:
    """The arguments that the policy may give: all but the context."""
    return {name: p for name, p in inspect.signature(tool).parameters.items() if name != "context"}


def summary(tool: Tool) -> str:
    """The first sentence of a tool's docstring."""
    return inspect.getdoc(tool).split("\n\n")[0].replace("\n", " ")


@cache
def schema(tool: Tool) -> dict:
    """A tool's JSON schema (OpenAI function form, which chat templates take), from signature and docstring.

    Of the docstring it has the summary and the arguments: what else stands there is not for the policy.
    """
    from transformers.utils import get_json_schema  # slow to import

    found = get_json_schema(as_method(tool))
    found["function"]["description"] = summary(tool)
    return found


def as_method(tool: Tool) -> Callable[..., str]:
    """A function with the signature that the policy sees: a tool without its context."""

    def method(**arguments) -> str:
        raise NotImplementedError("only its signature and docstring are of use")

    known = parameters(tool)
    method.__name__, method.__doc__ = tool.__name__, tool.__doc__
    method.__signature__ = inspect.Signature(list(known.values()), return_annotation=str)
    method.__annotations__ = {name: p.annotation for name, p in known.items()} | {"return": str}
    return method


def tools_of(context: TaskContext) -> Mapping[str, Tool]:
    """The tools that can be called in a task, by name."""
    return TOOLS if context.tools is None else context.tools


def check_tools(tools: Sequence[Tool]) -> None:
    """Whether functions can serve as tools.

    Raises:
        UserError: One has no docstring, no `context` first, an argument without a type or a line about it; or two have
            one name.
    """
    names = [getattr(tool, "__name__", repr(tool)) for tool in tools]
    for tool, name in zip(tools, names, strict=True):
        if not callable(tool) or not name.isidentifier():
            raise UserError(f"A tool is a function with a name, not {name}; write it with def.")
        if names.count(name) > 1:
            raise UserError(f"There are two tools called {name}; rename one.")
        if not (inspect.getdoc(tool) or "").strip():
            raise UserError(f"The tool {name} has no docstring; its first sentence is what the policy reads of it.")
        if next(iter(inspect.signature(tool).parameters), "") != "context":
            raise UserError(f"The first argument of the tool {name} must be called context (its TaskContext).")
        for argument, parameter in parameters(tool).items():
            if not set(accepted(parameter)) or f"{argument}:" not in inspect.getdoc(tool):
                raise UserError(
                    f"The argument {argument} of the tool {name} needs a type (str, int, float or bool) "
                    f"and a line '{argument}: ...' under Args: in the docstring."
                )


def accepted(parameter: inspect.Parameter) -> list[type]:
    """The types of values that an argument takes, of those that JSON and a schema have; empty if there are others."""
    hint = parameter.annotation
    if isinstance(hint, str):  # from __future__ import annotations
        hint = {"str": str, "int": int, "float": float, "bool": bool}.get(hint.removesuffix(" | None"), hint)
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    return kinds if all(kind in (str, int, float, bool) for kind in kinds) else []


def _takes(parameter: inspect.Parameter, value: object) -> bool:
    """Whether a value from JSON fits an argument. A number may stand for text: a candidate's number is often one."""
    kinds = accepted(parameter)
    if isinstance(value, bool):
        return bool in kinds
    wider = {str: (str, int), int: (int,), float: (int, float), bool: ()}
    return any(isinstance(value, wider[kind]) for kind in kinds)


def call_tool(name: str, arguments: dict, context: TaskContext) -> str:
    """Run one tool. A wrong argument comes back as an observation that says what is wrong.

    So does a tool that fails; why it did is for the maintainers, in the log, and not for the policy.

    Args:
        name: Of one of the context's tools.
        arguments: As parsed from the policy's JSON.
        context: The task.
    """
    tool = tools_of(context)[name]
    known = parameters(tool)
    try:
        for argument, value in arguments.items():
            if argument not in known:
                takes = ", ".join(known) or "none"
                raise ToolError(f"{name} has no argument {escape(argument, 40)!r}; it takes {takes}.")
            if not _takes(known[argument], value):
                wanted = " or ".join(_IN_WORDS[kind] for kind in accepted(known[argument]))
                raise ToolError(f"{argument} must be {wanted}, not {type(value).__name__}.")
        missing = [a for a, p in known.items() if p.default is inspect.Parameter.empty and a not in arguments]
        if missing:
            raise ToolError(f"{name} needs the argument {missing[0]}.")
        return tool(context, **arguments)
    except ToolError as error:
        return f"{ERROR}{error}"
    except MemoryError:
        raise
    except Exception as error:
        logging.getLogger(__name__).exception("the tool %s failed on %s", name, arguments)
        return f"{ERROR}{name} failed ({type(error).__name__})."
