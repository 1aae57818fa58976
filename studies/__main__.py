"""`python -m studies VARIANT ... --base runs/x/seed-0 --out runs/studies`: variants of a finished run, one by one."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from agenticrec_lite.cli import setting
from agenticrec_lite.runs import read_config
from studies.run import run_variant
from studies.tables import one_sentence
from studies.variants import TIERS, VARIANTS


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies", description=__doc__.partition(": ")[2])
    parser.add_argument("names", nargs="+", metavar="VARIANT", help=f"{', '.join([*TIERS, *VARIANTS])}")
    parser.add_argument("--base", type=Path, nargs="+", required=True, help="finished runs, with adapters")
    parser.add_argument("--out", type=Path, required=True, help="runs go to OUT/PROFILE-DATASET/VARIANT/seed-N")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `agenticrec run`")
    asked = parser.parse_args(arguments)
    with one_sentence("Interrupted; the same command goes on where this one stopped."):
        settings = dict(setting(text) for text in asked.set)
        for name in [name for given in asked.names for name in TIERS.get(given, [given])]:
            for base in asked.base:
                config = read_config(base)
                out = asked.out / f"{config['profile']}-{config['dataset']}" / name / f"seed-{config['seed']}"
                metrics = run_variant(name, base, out, settings)["metrics"]
                figures = ", ".join(f"{method} {row['N@10']:.3f}" for method, row in metrics.items())
                print(f"{out}, N@10: {figures}", flush=True)


if __name__ == "__main__":
    main()
