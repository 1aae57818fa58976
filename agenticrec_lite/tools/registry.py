"""The seven tools by name, their JSON schemas, and the one way to call them."""

import inspect
import logging
from collections.abc import Callable

from agenticrec_lite.tools.behavior import get_rating_behavior, get_session_behavior
from agenticrec_lite.tools.collaborative import get_similar_items, get_similar_users
from agenticrec_lite.tools.context import TaskContext, ToolError
from agenticrec_lite.tools.item_info import candidates_analyze, item_info_search
from agenticrec_lite.tools.profile import get_user_profile
from agenticrec_lite.tools.text import escape

Tool = Callable[..., str]

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
    )
}


def parameters(tool: Tool) -> dict[str, inspect.Parameter]:
    """The arguments that the policy may give: all but the context."""
    return {name: p for name, p in inspect.signature(tool).parameters.items() if name != "context"}


def summary(tool: Tool) -> str:
    """The first sentence of a tool's docstring."""
    return inspect.getdoc(tool).split("\n\n")[0].replace("\n", " ")


def schema(tool: Tool) -> dict:
    """A tool's JSON schema (OpenAI function form, which chat templates take), from signature and docstring."""
    lines = inspect.getdoc(tool).partition("Args:\n")[2].splitlines()
    described = dict(line.strip().split(": ", 1) for line in lines if ": " in line)
    properties = {name: {"type": "string", "description": described[name]} for name in parameters(tool)}
    required = [name for name, p in parameters(tool).items() if p.default is inspect.Parameter.empty]
    return {
        "type": "function",
        "function": {
            "name": tool.__name__,
            "description": summary(tool),
            "parameters": {"type": "object", "properties": properties, "required": required},
        },
    }


def call_tool(name: str, arguments: dict, context: TaskContext) -> str:
    """Run one tool. A wrong argument comes back as an observation that says what is wrong.

    So does a tool that fails; why it did is for the maintainers, in the log, and not for the policy.

    Args:
        name: A key of TOOLS.
        arguments: As parsed from the policy's JSON.
        context: The task.
    """
    tool = TOOLS[name]
    known = parameters(tool)
    try:
        for argument, value in arguments.items():
            if argument not in known:
                takes = ", ".join(known) or "none"
                raise ToolError(f"{name} has no argument {escape(argument, 40)!r}; it takes {takes}.")
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise ToolError(f"{argument} must be text or a number, not {type(value).__name__}.")
        missing = [a for a, p in known.items() if p.default is inspect.Parameter.empty and a not in arguments]
        if missing:
            raise ToolError(f"{name} needs the argument {missing[0]}.")
        return tool(context, **arguments)
    except ToolError as error:
        return f"Error: {error}"
    except MemoryError:
        raise
    except Exception as error:
        logging.getLogger(__name__).exception("the tool %s failed on %s", name, arguments)
        return f"Error: {name} failed ({type(error).__name__})."
