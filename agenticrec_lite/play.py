"""Be the agent: a widget in which the reader asks the tools, sets the weights, answers, and meets the trained agent.

`Game` holds the rules and knows no widgets; `play` draws it with ipywidgets, which work in Jupyter and Colab and by
keyboard. Whoever plays sees what the policy sees, through the same environment, and earns the same reward.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.protocol import TOP, write_answer, write_call
from agenticrec_lite.agent.record import evidence_of
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.errors import UserError
from agenticrec_lite.experiment.experiment import FROZEN, Experiment
from agenticrec_lite.experiment.shipped import SHIPPED, borrow
from agenticrec_lite.runs import read_trajectories
from agenticrec_lite.show.viewer import show_group, show_trajectory
from agenticrec_lite.tools import tools_of
from agenticrec_lite.tools.lists import HIGHEST, WEIGHED
from agenticrec_lite.tools.registry import parameters
from agenticrec_lite.tools.text import escape

YOU = "you"
LINES = "white-space:pre-wrap;margin:2px 0"


class Game:
    """Rounds of one ranking task each, and the score of all players.

    Attributes:
        experiment: Whose test tasks are played.
        task, context, environment: Of the round.
        rewards: Of each player, a number a finished round.
    """

    def __init__(self, experiment: Experiment, seed: int = 0):
        self.experiment = experiment
        self.order = np.random.default_rng(seed).permutation(len(experiment.test)).tolist()
        self.players = list(dict.fromkeys([FROZEN, experiment.stage]))
        self.rewards: dict[str, list[float]] = {name: [] for name in (YOU, *self.players)}
        self.place = -1
        self.deal()

    def deal(self) -> None:
        """Begin the next round."""
        self.place = (self.place + 1) % len(self.order)
        number = self.order[self.place]
        self.task, self.context = self.experiment.test[number], self.experiment.test_contexts[number]
        self.environment = RankingEnvironment(self.context, max_calls=self.experiment.profile["agent"]["max_calls"])

    @property
    def over(self) -> bool:
        return self.environment.outcome is not None

    def ask(self, tool: str, arguments: Mapping[str, object] | None = None) -> str:
        """Call a tool, as the policy would.

        Returns:
            The observation; or why there is none.
        """
        if self.over:
            return "This round is over."
        said = self.environment.step(write_call(tool, dict(arguments or {})))
        return "No call is left; this ends the round." if said is None else said

    def lists(self) -> list[str]:
        """Names of the lists that have been shown, the weighed one not among them."""
        return [name for name in self.environment.context.shown if name != WEIGHED]

    def weigh(self, weights: Mapping[str, int]) -> str:
        """Call the calculator with weights by list; its observation."""
        return self.ask("weigh_evidence", {"weights": ", ".join(f"{name} {w}" for name, w in weights.items())})

    def last_order(self) -> list[int]:
        """The ten first of the list that was shown last: what an answer would be that follows it."""
        shown = list(self.environment.context.shown.values())
        return shown[-1].order[:TOP].tolist() if shown else list(range(1, TOP + 1))

    def answer(self, numbers: Sequence[int]) -> list[Trajectory]:
        """End the round; all players' trajectories, rewarded, the reader's first.

        Raises:
            UserError: The answer is not ten different candidates; the round goes on.
        """
        n = len(self.context.candidates)
        if len(numbers) != TOP or len({*numbers}) != TOP or not {*numbers} <= {*range(1, n + 1)}:
            raise UserError(f"An answer is {TOP} different numbers from 1 to {n}.")
        if not self.over:
            self.environment.step(write_answer(list(numbers)))
        mine = Trajectory(self.task.task_id, 0, "rank", [], steps=self.environment.steps)
        mine.answer, mine.outcome = self.environment.answer, self.environment.outcome
        mine.n_calls = self.environment.n_calls
        played = [mine]
        for stage in self.players:
            policy = self.experiment.policy_after(stage)
            played += self.experiment.play([self.task], [self.context], policy=policy)
        for name, trajectory in zip(self.rewards, played, strict=True):
            trajectory.reward = self.experiment.extensions.rewarded(trajectory, self.task.positive)
            self.rewards[name].append(trajectory.reward)
        return played

    def score(self) -> str:
        """Mean rewards so far, in words."""
        rounds = len(self.rewards[YOU])
        means = ", ".join(f"{name} {np.mean(each):.2f}" for name, each in self.rewards.items() if each)
        return f"Round {rounds + (not self.over)}." + (f" Mean reward of {rounds}: {means}." if rounds else "")


def play(run_dir: str | Path = "", seed: int = 0):
    """A widget in which you are the agent.

    Args:
        run_dir: A finished run; empty for the one that ships.
        seed: Decides which tasks come, in which order.

    Raises:
        UserError: No finished run is there.
    """
    return board(Game(borrow(run_dir or SHIPPED), seed))


def pages(run_dir: str | Path, stage: str = "rta") -> dict[int, dict]:
    """What the policy did with the first test task while a stage trained: logged rows, by step.

    Raises:
        UserError: The run has none.
    """
    rows = {row["step"]: row for row in read_trajectories(run_dir, f"along_{stage}")}  # of a repeated step, the last
    if not rows:
        raise UserError(
            f"The run in {run_dir} has not followed a task through {stage}: it did not train that stage here, in one "
            "process; take a run folder of your own, such as runs/demo."
        )
    return dict(sorted(rows.items()))


def along(run_dir: str | Path, stage: str = "rta"):
    """A slider over the steps of training, and what the policy did with the same test task after each.

    Args:
        run_dir: A run that trained here; what ships has no trajectories.
        stage: "rta" or "ppr".

    Raises:
        UserError: As `pages`.
    """
    import ipywidgets as w  # of the extra `course`

    rows, view = pages(run_dir, stage), w.HTML()
    slider = w.SelectionSlider(options=list(rows), description="step", continuous_update=True)

    def show(_=None) -> None:
        row = rows[slider.value]
        weights = ", ".join(f"{name} {weight}" for name, weight in evidence_of(row).items()) or "nothing"
        title = f"After step {slider.value}: the answer rests on {weights}"
        view.value = show_trajectory(row, title).html

    slider.observe(show, "value")
    show()
    return w.VBox([slider, view])


def board(game: Game):
    """The widget of a game."""
    import ipywidgets as w  # of the extra `course`

    task, log, result, score = w.HTML(), w.HTML(), w.HTML(), w.HTML()
    item = w.Text(placeholder="an item: 7 or h3", layout=w.Layout(width="11em"))
    tools, sliders = w.HBox(layout=w.Layout(flex_flow="row wrap")), w.VBox()
    weigh, reply = w.Button(description="Weigh"), w.Button(description="Answer", button_style="primary")
    numbers = w.Text(layout=w.Layout(width="24em"), description="answer")
    following = w.Button(description="Next task")
    said: list[str] = []

    def show() -> None:
        """Everything that follows from the state of the game."""
        log.value = "".join(f"<pre style='{LINES}'>{html.escape(each)}</pre>" for each in said)
        known = {slider.description for slider in sliders.children}
        sliders.children += tuple(
            w.IntSlider(1, 0, HIGHEST, description=name) for name in game.lists() if name not in known
        )
        weigh.disabled, reply.disabled = game.over or not sliders.children, game.over
        numbers.value, score.value = ", ".join(map(str, game.last_order())), html.escape(game.score())

    def begin(_=None) -> None:
        said.clear()
        sliders.children, result.value = (), ""
        history = "; ".join(escape(card.title) for card in game.context.history)
        rows = "".join(f"<li>{html.escape(escape(card.title))}</li>" for card in game.context.candidates)
        task.value = (
            f"<b>History, oldest first:</b> {html.escape(history)}<br><b>Which was taken next?</b>"
            f"<ol style='columns:2;margin:4px 0'>{rows}</ol>"
        )
        show()

    def asking(tool: str):
        def ask(_) -> None:
            names = list(parameters(tools_of(game.context)[tool]))
            given = {names[0]: item.value.strip()} if names and item.value.strip() else {}
            said.append(f"> {tool} {given or ''}\n{game.ask(tool, given)}")
            show()

        return ask

    def weighing(_) -> None:
        weights = {slider.description: slider.value for slider in sliders.children}
        said.append(f"> weigh_evidence {weights}\n{game.weigh(weights)}")
        show()

    def answering(_) -> None:
        try:
            played = game.answer([int(part) for part in numbers.value.replace(",", " ").split()])
        except (UserError, ValueError) as error:
            result.value = html.escape(str(error))
            return
        rows = [each.row() | {"positive": game.task.positive} for each in played]
        title = escape(game.context.candidates[game.task.positive - 1].title)
        told = f"Taken next: <b>{game.task.positive}, {html.escape(title)}</b>. From left to right: "
        result.value = told + ", ".join(game.rewards) + "." + show_group(rows).html
        show()

    def going_on(_) -> None:
        game.deal()
        begin()

    for name in tools_of(game.context):
        if name != "weigh_evidence":
            button = w.Button(description=name.removeprefix("get_").replace("_", " "), tooltip=name)
            button.on_click(asking(name))
            tools.children += (button,)
    for button, do in ((weigh, weighing), (reply, answering), (following, going_on)):
        button.on_click(do)
    begin()
    rows = [score, task, tools, w.HBox([w.Label("for tools that take an item:"), item]), log, sliders]
    return w.VBox([*rows, w.HBox([weigh, numbers, reply, following]), result])
