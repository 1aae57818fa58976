"""The seven recommendation tools of the paper, as plain functions over one task's context."""

from agenticrec_lite.tools.context import Evidence, ItemCard, TaskContext, ToolError
from agenticrec_lite.tools.registry import TOOLS, call_tool, check_tools, schema, tools_of

__all__ = [
    "TOOLS", "Evidence", "ItemCard", "TaskContext", "ToolError", "call_tool", "check_tools", "schema", "tools_of",
]  # fmt: skip
