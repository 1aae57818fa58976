"""The paper's seven recommendation tools and a calculator, as plain functions over one task's context."""

from agenticrec_lite.tools.context import Evidence, ItemCard, TaskContext, ToolError
from agenticrec_lite.tools.lists import show_list
from agenticrec_lite.tools.registry import LISTS, PAPER_TOOLS, TOOLS, call_tool, check_tools, schema, tools_of

__all__ = [
    "LISTS", "PAPER_TOOLS", "TOOLS", "Evidence", "ItemCard", "TaskContext", "ToolError", "call_tool", "check_tools",
    "schema", "show_list", "tools_of",
]  # fmt: skip
