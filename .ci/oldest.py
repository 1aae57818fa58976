"""The lower ends of the dependencies in pyproject.toml, as pins, for `make test-oldest`: all but torch's.

`python .ci/oldest.py` prints those that pip installs with what they need, `python .ci/oldest.py torch` those that need
torch, which is another environment's there.
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEED_TORCH = ("trl", "peft", "bitsandbytes", "accelerate")


def lower_ends() -> dict[str, str]:
    """The lowest version of each dependency."""
    return dict(re.match(r"([\w-]+)>=([\d.]+)", text).groups() for text in PROJECT["dependencies"])


if __name__ == "__main__":
    wanted = sys.argv[1:] == ["torch"]
    ends = {name: end for name, end in lower_ends().items() if name != "torch" and (name in NEED_TORCH) == wanted}
    print(*(f"{name}=={end}" for name, end in ends.items()))
