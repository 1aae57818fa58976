"""Family 4, collaborative evidence: neighbours, and every candidate ordered by what the neighbours say.

The paper's tools show neighbours only. With 20 random candidates a neighbour is almost never among them, so the
evidence could not reach the answer; ordering the candidates as well is our deviation, listed in docs/deviations.md.
"""

from agenticrec_lite.tools.context import Evidence, TaskContext
from agenticrec_lite.tools.lists import show_list
from agenticrec_lite.tools.text import escape


def get_similar_users(context: TaskContext) -> str:
    """Show what users with a similar history took recently, and order the candidates by their votes: list users."""
    found = context.collaborative.similar_users()
    return f"Similar users took: {_titles(context, found)}.\n" + show_list(context, "users", found.scores)


def get_similar_items(context: TaskContext, item_title: str | None = None) -> str:
    """Show items often taken together with the history, or with one item, and order the candidates by it: list items.

    Args:
        item_title: Candidate number, history number such as h3, or exact title; leave out for the whole history.
    """
    place = None if item_title is None else context.find(item_title)
    found = context.collaborative.similar_items(place)
    whose = "the history" if place is None else context.label(place)
    name = "items" if place is None else f"like {whose}"
    return f"Similar to {whose}: {_titles(context, found)}.\n" + show_list(context, name, found.scores)


def _titles(context: TaskContext, found: Evidence) -> str:
    return "; ".join(escape(title, 40) for title in found.neighbours[: context.neighbours]) or "nothing known"
