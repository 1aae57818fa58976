"""A trained agent, asked about a history that is typed in by title: `agenticrec ask`."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.data import InteractionLog, RankingTask
from agenticrec_lite.errors import UserError
from agenticrec_lite.experiment.experiment import Experiment
from agenticrec_lite.experiment.extensions import EvidenceSource
from agenticrec_lite.experiment.shipped import SHIPPED, borrow
from agenticrec_lite.tools.text import escape
from agenticrec_lite.tools.toolbox import Toolbox

CLOSE = 4  # titles that are suggested


@dataclass(frozen=True)
class Asked:
    """A question and its answer.

    Attributes:
        task: The question; nothing is known of its positive, which is 0.
        history, candidates: Titles, as they were shown.
        trajectory: What the policy did.
        stage: The training after which it was asked.
    """

    task: RankingTask
    history: list[str]
    candidates: list[str]
    trajectory: Trajectory
    stage: str

    @property
    def ranking(self) -> list[str]:
        """Titles of the ten best, best first; empty if the answer was not valid."""
        return [self.candidates[number - 1] for number in self.trajectory.answer or ()]


def item_of(log: InteractionLog, title: str, counts: np.ndarray) -> int:
    """Code of the item with this title, in any case; of several the most frequent.

    Args:
        log: Whose items.
        title: As typed.
        counts: Interactions of each item [n_items].

    Raises:
        UserError: There is none; close ones are named.
    """
    known, wanted = [str(each).casefold() for each in log.items["title"]], title.strip().casefold()
    same = [code for code, each in enumerate(known) if each == wanted]
    if same:
        return max(same, key=lambda code: counts[code])
    inside = sorted((code for code, each in enumerate(known) if wanted and wanted in each), key=lambda c: -counts[c])
    close = [known.index(each) for each in get_close_matches(wanted, known, CLOSE, 0.6)]
    titles = [repr(str(log.items["title"].iloc[code])) for code in dict.fromkeys([*inside[:CLOSE], *close])][:CLOSE]
    hint = f"; close to it: {', '.join(titles)}" if titles else ""
    raise UserError(f"No item is titled {escape(title.strip(), 60)!r}{hint}.")


def proposals(toolbox: EvidenceSource, history: Sequence[int], n: int) -> list[int]:
    """What a first stage would hand to the agent: the n items most often taken together with the history's.

    Raises:
        UserError: The evidence is of one's own, so that nothing here can propose.
    """
    toolbox = getattr(toolbox, "source", toolbox)
    if not isinstance(toolbox, Toolbox):
        raise UserError("This run has evidence of its own, which proposes nothing; name the candidates as well.")
    counts = toolbox.popularity.counts
    together = np.zeros(len(counts))
    for item in history:
        others, cosines = toolbox.itemknn.column(item)
        together[others] += cosines
    order = np.lexsort((-counts, -together))
    return order[~np.isin(order, history)][:n].tolist()


def ask(run_dir: str | Path, history: Sequence[str], candidates: Sequence[str] = (), seed: int = 0) -> Asked:
    """Let the policy of a finished run rank candidates for a history.

    Args:
        run_dir: The run folder, with its adapters; empty for the run that ships.
        history: Titles of what was taken, oldest first.
        candidates: Titles of what is to be ranked, ten or more; none for what is taken together with the history.
        seed: Of the candidates' order.

    Raises:
        UserError: No finished run is there, a title is not known, or there are too few.
    """
    experiment = borrow(run_dir or SHIPPED)
    return answer(experiment, history, candidates, seed)


def answer(experiment: Experiment, history: Sequence[str], candidates: Sequence[str] = (), seed: int = 0) -> Asked:
    """As `ask`, by an experiment in hand."""
    log, settings = experiment.log, experiment.profile["tasks"]
    counts = np.bincount(experiment.log.interactions["item"], minlength=log.n_items)
    taken = [item_of(log, title, counts) for title in history if title.strip()]
    asked = [item_of(log, title, counts) for title in candidates if title.strip()]
    if not taken:
        raise UserError("A history needs at least one title; separate titles by semicolons.")
    if asked and len(set(asked) - set(taken)) < 10:
        raise UserError("The candidates must be ten or more different items, none of them of the history.")
    shown = list(dict.fromkeys(taken))[-settings["history_length"] :]
    others = [item for item in dict.fromkeys(asked) if item not in taken]
    others = others or proposals(experiment.toolbox, taken, settings["n_candidates"])
    others = [others[i] for i in np.random.default_rng(seed).permutation(len(others))]
    now = int(log.interactions["timestamp"].max()) + 1
    task = RankingTask("asked", -1, tuple(shown), (float("nan"),) * len(shown), tuple(others), 0, now)
    (trajectory,) = experiment.play([task], experiment.toolbox.contexts([task]))
    titles = [[escape(str(log.items["title"].iloc[item])) for item in items] for items in (shown, others)]
    return Asked(task, *titles, trajectory, experiment.stage)
