"""The command `agenticrec`: fetch a dataset, run the whole way, show a run's table, list settings, and more.

A mistake that the user can mend ends in one sentence and exit code 2, never in a traceback. Each command
imports the rooms that it needs by itself: torch takes seconds, and most commands can answer without it.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from agenticrec_lite import runs
from agenticrec_lite.errors import UserError
from agenticrec_lite.profiles import load_profile, parse_value

METRICS = ("H@1", "H@5", "H@10", "N@5", "N@10")


class _InOneSentence(TyperGroup):
    """Turns a UserError of any command into its sentence, and Ctrl-C into what to do next."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo("Error: " + " ".join(str(error).split()), err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("\nInterrupted; the same command goes on, a run from its last checkpoint.", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_InOneSentence,
    help="Train a tool-using ranking agent by reinforcement learning, from raw interactions to a table.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="The dataset, e.g. ml-100k or amazon-2023/Office.")],
    force: Annotated[bool, typer.Option("--force", help="Fetch again even if it is in the cache.")] = False,
) -> None:
    """Bring a dataset into the cache folder and check it."""
    from agenticrec_lite.data.fetch import fetch as fetch_dataset

    typer.echo(f"{name} is in {fetch_dataset(name, force=force)}")


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="The run folder, e.g. runs/x; an unfinished run goes on.")],
    dataset: Annotated[
        str,
        typer.Option(help="ml-100k, toystore, moodstore, amazon-2023/CDs (Instruments, Office, Games), or a folder."),
    ] = "ml-100k",
    profile: Annotated[str, typer.Option(help="The profile: policy, sizes, steps; or a YAML file of yours.")] = "nano",
    seed: Annotated[int, typer.Option(min=0, help="Decides tasks, rollouts and initial weights.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="E.g. --set rta.steps=10; repeatable.")
    ] = None,
) -> None:
    """Go the whole way: fetch, fit the tools, roll out, train (RTA, then PPR), evaluate."""
    overrides = dict(setting(text) for text in settings or [])
    load_profile(profile, **overrides)  # a wrong name ends here, before torch takes seconds to import
    from agenticrec_lite.experiment.stages import run_experiment

    run_experiment(dataset, profile, seed, out, overrides)
    if runs.processes.is_main():
        typer.echo(result_table(runs.read_result(out)))


@app.command()
def show(folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, e.g. runs/demo.")]) -> None:
    """Print a run's table: every method on the same test tasks, with 95% intervals."""
    typer.echo(result_table(runs.read_result(folder)))


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Finished runs, or folders that hold some: data/results.")],
    out: Annotated[Path | None, typer.Option(help="Folder for report.md and its figures.")] = None,
) -> None:
    """Pool seeds into tables with paired differences, claims with verdicts, variants and costs, as Markdown."""
    from agenticrec_lite.report import full_report

    typer.echo(full_report(folders, out))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The run folder; the executed notebook goes there too.")] = Path(
        "runs/demo"
    ),
    parameters: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="The notebook's, e.g. -p seed=1; repeatable.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="E.g. --set rta.steps=10; repeatable.")
    ] = None,
) -> None:
    """Execute the quickstart notebook, which trains a policy, and print its table."""
    from agenticrec_lite.reproduce import demo as execute_quickstart
    from agenticrec_lite.reproduce import parse_parameter

    values = dict(parse_parameter(text) for text in parameters or [])
    if settings:
        values["overrides"] = dict(setting(text) for text in settings)
    execute_quickstart(out, values)
    typer.echo(result_table(runs.read_result(out)))


@app.command()
def reproduce(
    dataset: Annotated[str, typer.Option(help="As of `agenticrec run`.")] = "ml-100k",
    profile: Annotated[str, typer.Option(help="As of `agenticrec run`.")] = "nano",
    seeds: Annotated[str, typer.Option(help='A run for each, e.g. "0 1 2".')] = "0",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="E.g. --set rta.steps=10; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; otherwise runs/reproduce-DATASET-PROFILE.")] = None,
) -> None:
    """A run for each seed, notebooks 01 to 08 on these runs, and a report in HTML."""
    from agenticrec_lite.reproduce import parse_seeds
    from agenticrec_lite.reproduce import reproduce as run_the_course

    out = out or Path("runs", f"reproduce-{dataset}-{profile}")
    page = run_the_course(dataset, profile, parse_seeds(seeds), settings or [], out)
    typer.echo(f"The report: {page}")


@app.command("pretrain-nano")
def pretrain_nano(out: Annotated[Path, typer.Option(help="Where the policy goes.")] = Path("data/nano")) -> None:
    """Rebuild the nano policy from generated worlds (about an hour on two cores)."""
    from agenticrec_lite.nano.pretrain import pretrain

    pretrain(out=out)


@app.command("make-toystore")
def make_toystore(
    kind: Annotated[str, typer.Option(help="toystore or moodstore.")] = "toystore",
    out: Annotated[Path | None, typer.Option(help="Where the files go, if not in data/ and the kind.")] = None,
    users: Annotated[int | None, typer.Option(help="Users, if not as many as in the shipped store.")] = None,
    items: Annotated[int | None, typer.Option(help="Items, likewise.")] = None,
    types: Annotated[int | None, typer.Option(help="Types of taste, likewise.")] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed is another store.")] = None,
) -> None:
    """Generate a toystore, or a moodstore: a shop whose truth is known; of itself the shipped one, bit for bit."""
    from agenticrec_lite.data.toystore import generate

    given = {"users": users, "items": items, "types": types, "seed": seed}
    given = {name: value for name, value in given.items() if value is not None}
    folder = generate(out or Path("data") / kind, kind=kind, **given)
    typer.echo(f"The {kind} is in {folder}")


@app.command()
def plan(
    profile: Annotated[str, typer.Option(help="The profile, or a YAML file of yours.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="E.g. --set rta.micro_groups=2; repeatable.")
    ] = None,
    card: Annotated[str | None, typer.Option(help="Only on this GPU: T4, L4, RTX 4090, A100 or H200.")] = None,
) -> None:
    """Estimate a profile's memory and time on each GPU, and whether this machine has what it needs, offline."""
    resolved = load_profile(profile, **dict(setting(text) for text in settings or []))
    from agenticrec_lite.pace import plan_table
    from agenticrec_lite.plan import check_hardware

    typer.echo(plan_table(profile, resolved, card))
    try:
        check_hardware(profile, resolved)
    except UserError as error:
        typer.echo(f"Not on this machine: {error}")


@app.command("settings")
def list_settings(
    section: Annotated[str | None, typer.Argument(help="Only this section, e.g. rta or agent.vllm.")] = None,
    profile: Annotated[str, typer.Option(help="Whose values to show; or a YAML file of yours.")] = "nano",
) -> None:
    """Print every setting: its value in a profile, the values that it can take, and what it means."""
    from agenticrec_lite.profiles import describe

    table = describe(section, profile)
    table["value"] = [value if isinstance(value, str) else json.dumps(value) for value in table["value"]]
    rows = [list(table.columns), *table.to_numpy().tolist()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def ask(
    history: Annotated[str, typer.Option(help="Titles of what was taken, oldest first, separated by semicolons.")],
    run: Annotated[Path | None, typer.Option(help="A finished run folder; the run that ships if none.")] = None,
    candidates: Annotated[str, typer.Option(help="Titles to rank, ten or more; proposed if none.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the order in which the candidates are shown.")] = 0,
) -> None:
    """Let a trained agent rank candidates for a history that you type in, and show how it came to its answer."""
    from agenticrec_lite.experiment.ask import ask as ask_agent

    asked = ask_agent(run or "", history.split(";"), candidates.split(";"), seed)
    looks = {"think": {"italic": True}, "call": {"fg": "blue"}, "observation": {"dim": True}, "invalid": {"fg": "red"}}
    typer.echo("You took: " + "; ".join(asked.history) + "\n")
    for step in asked.trajectory.steps:
        text = f"{step.tool} {json.dumps(step.arguments, ensure_ascii=False)}" if step.kind == "call" else step.text
        typer.secho(f"{step.kind:12}" + text.replace("\n", f"\n{'':12}"), **looks.get(step.kind, {"bold": True}))
    if not asked.ranking:
        raise UserError("The agent gave no valid answer; its trajectory is above. Ask again with another --seed.")
    typer.echo()
    for place, title in enumerate(asked.ranking, start=1):
        typer.secho(f"{place:2}. {title}", bold=place == 1)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    repo: Annotated[str, typer.Argument(metavar="REPO_ID", help="On the Hugging Face hub, e.g. name/my-agent.")],
    public: Annotated[bool, typer.Option("--public", help="Visible to all; private otherwise.")] = False,
) -> None:
    """Put a run's adapter, with a model card, on the Hugging Face hub."""
    from agenticrec_lite.hub import push as push_adapter

    typer.echo(f"The adapter is at {push_adapter(folder, repo, public)}")


def result_table(result: dict[str, Any]) -> str:
    """The figures of a result.json as text for a terminal of 80 columns, the 95% interval below each figure.

    Raises:
        UserError: the run has not come to its evaluation.
    """
    if not result.get("metrics"):
        raise UserError("This run has no figures yet; the same `agenticrec run` command goes on with it.")
    run_of = f"{result['dataset']}, profile {result['profile']}, seed {result['seed']}"
    lines = [
        f"{run_of}: {result['n_test']} test tasks, 95% intervals below",
        f"{'':10}" + "".join(f"{name:>12}" for name in METRICS) + f"{'valid':>8}",
    ]
    for method, figures in result["metrics"].items():
        intervals = figures.get("ci95", {})
        shown = "".join(f"{_figure(figures.get(name)):>12}" for name in METRICS)
        lines.append(f"{method:10}{shown}{_figure(figures.get('valid')):>8}")
        lines.append(f"{'':10}" + "".join(f"{_interval(intervals.get(name)):>12}" for name in METRICS))
    seconds = result.get("seconds", {})
    lines.append(f"{sum(seconds.values()) / 60:.1f} minutes, peak memory {result.get('peak_rss_mb', 0) / 1000:.1f} GB")
    return "\n".join(line.rstrip() for line in lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".replace("0.", ".", 1) if value < 1 else f"{value:.2f}"


def _interval(bounds: list[float] | None) -> str:
    return f"{_figure(bounds[0])}-{_figure(bounds[1])}" if bounds else ""


def setting(text: str) -> tuple[str, Any]:
    """Split KEY=VALUE of --set."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UserError(f"--set takes KEY=VALUE, for example rta.steps=10, not {text!r}.")
    return key, parse_value(value)


if __name__ == "__main__":
    app(prog_name="agenticrec")
