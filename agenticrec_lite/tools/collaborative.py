"""Family 4, collaborative evidence: neighbours, and every candidate ordered by what the neighbours say.

The paper's tools show neighbours only. With 20 random candidates a neighbour is almost never among them, so the
evidence could not reach the answer; ordering the candidates as well is our deviation, listed in the README.
"""

from agenticrec_lite.tools.context import Evidence, TaskContext, label
from agenticrec_lite.tools.text import escape, ordered_candidates, standardise


def get_similar_users(context: TaskContext) -> str:
    """Show what users with a similar history took recently, and order the candidates by it."""
    return _shown(context, "Similar users took", "similar users", context.collaborative.similar_users())


def get_similar_items(context: TaskContext, item_title: str | None = None) -> str:
    """Show items similar to one item, or to the whole history, and order the candidates by that similarity.

    Args:
        item_title: Candidate number, history number such as h3, or exact title; leave out for the whole history.
    """
    place = None if item_title is None else context.find(item_title)
    source = "similar items" if place is None else f"similarity to {label(place)}"
    name = "the history" if place is None else label(place)
    return _shown(context, f"Similar to {name}", source, context.collaborative.similar_items(place))


def _shown(context: TaskContext, intro: str, source: str, evidence: Evidence) -> str:
    titles = "; ".join(escape(title, 40) for title in evidence.neighbours[: context.neighbours])
    known = standardise(evidence.scores).any()
    candidates = ordered_candidates(evidence.scores) if known else "nothing tells them apart."
    return f"{intro}: {titles or 'nothing known'}.\nCandidates by {source}: {candidates}"
