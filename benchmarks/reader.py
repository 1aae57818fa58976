"""`python -m benchmarks.reader`: the reader of Amazon Reviews 2023 against pandas and against gunzip alone.

Reviews in the official format are generated, 580 bytes a line, gzip. Every measurement runs in a process of its own,
with all of the machine's cores. Both readers do the same work, which is compared: JSON, the window of a year, the
earliest of repeated interactions, broken lines counted. Further: the whole load with items and 5-core, the cost at
several sizes, 50,000 tasks, and all of the tools' data but SASRec. Writes runs/bench/reader.json.
"""

import argparse
import gzip
import io
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from agenticrec_lite.data import build_tasks, make_log, temporal_split
from agenticrec_lite.data.amazon import WINDOW, read_amazon
from agenticrec_lite.data.amazon_reader import read_reviews
from agenticrec_lite.runs import peak_rss_mb

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "runs" / "bench" / "reader.json"
SIZES = (0.1, 0.2, 0.5, 1)  # shares of all rows
CHUNK = 100_000
REVIEW = (
    '{"rating": %d.0, "title": "%s", "text": "%s", "images": [], "asin": "%s", "parent_asin": "%s", "user_id": "%s", '
    '"timestamp": %d, "helpful_vote": %d, "verified_purchase": true}\n'
)
ITEM = (
    '{"main_category": "Office Products", "title": "%s", "average_rating": 4.5, "rating_number": 10, "features": '
    '["%s"], "description": ["%s"], "price": %s, "images": [], "videos": [], "store": "S", "categories": ["Office '
    'Products", "%s"], "details": {"Date First Available": "March %d, 2015"}, "parent_asin": "%s"}\n'
)
BROKEN = '{"rating": 5.0, "title": "cut o\n'


def generate(whole: str) -> dict:
    """<rows>.jsonl.gz, beside it files of its first reviews, <some rows>.jsonl.gz, and items.jsonl.gz."""
    whole = Path(whole)
    folder, rows = whole.parent, int(whole.name.split(".")[0])
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 123, rng.integers(2, 9)))) for _ in range(5000)]
    share = 1 / np.arange(1, 5001)
    drawn = rng.choice(words, 800_000, p=share / share.sum()).tolist()
    starts, lengths = rng.integers(0, 790_000, 20_000), rng.lognormal(3.5, 1, 20_000).astype(int) + 1
    ends = starts + np.minimum(lengths, 2000)
    texts = [" ".join(drawn[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    titles = [" ".join(drawn[k : k + 6]) for k in range(0, 30_000, 6)]
    letters = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))

    def ids(prefix: str, length: int, n: int) -> list[str]:
        return [prefix + "".join(row) for row in letters[rng.integers(0, 32, (n, length))]]

    users, items = ids("A", 27, rows // 3 + 1), ids("B0", 8, rows // 30 + 1)
    with gzip.open(folder / "items.jsonl.gz", "wt", compresslevel=1) as file:
        file.writelines(
            ITEM % (titles[k % 5000], titles[-k % 5000], texts[k % 20_000], ("null", "9.99")[k % 2], titles[k % 100],
                    k % 28 + 1, item)
            for k, item in enumerate(items)
        )  # fmt: skip
    packer = zlib.compressobj(4, wbits=31)
    with open(whole, "wb") as file:
        for start in range(0, rows, CHUNK):
            n = min(CHUNK, rows - start)
            owner, item = (len(users) * rng.random(n) ** 4).astype(int), (len(items) * rng.random(n) ** 3).astype(int)
            when = (1.4e12 + rng.random(n) ** 0.5 * 2.956e11).astype(np.int64)
            columns = (rng.integers(1, 6, n), rng.integers(0, 5000, n), rng.integers(0, 20_000, n), item, owner, when)
            lines = [
                REVIEW % (stars, titles[title], texts[text], items[item], items[item], users[owner], moment, stars % 3)
                for stars, title, text, item, owner, moment in zip(*(c.tolist() for c in columns), strict=True)
            ]
            lines[n // 2] = BROKEN
            file.write(packer.compress("".join(lines).encode()))
            if start + n in {round(rows * share) for share in SIZES[:-1]}:  # the stream may end here as well
                file.flush()
                with open(shutil.copy(whole, folder / f"{start + n}.jsonl.gz"), "ab") as shorter:
                    shorter.write(packer.copy().flush())
        file.write(packer.flush())
    return {"rows": rows}


def read_ours(path: str) -> dict:
    """Our reader."""
    frame, reading = read_reviews(path, WINDOW)
    return told(frame, reading["lines"], reading["broken line"])


def read_pandas(path: str) -> dict:
    """The same with pandas in chunks; one with a broken line is read again without it."""
    start, stop = (pd.Timestamp(day, tz="UTC").timestamp() * 1000 for day in WINDOW)
    columns, parts, n_lines, n_broken = ["user_id", "parent_asin", "rating", "timestamp"], [], 0, 0
    with gzip.open(path, "rt", encoding="utf-8") as file:
        while lines := list(itertools.islice(file, CHUNK)):
            n_lines += len(lines)
            try:
                chunk = pd.read_json(io.StringIO("".join(lines)), lines=True, dtype=False)
            except ValueError:
                whole = [line for line in lines if is_json(line)]
                n_broken += len(lines) - len(whole)
                chunk = pd.read_json(io.StringIO("".join(whole)), lines=True, dtype=False)
            parts.append(chunk.loc[chunk["timestamp"].between(start, stop, inclusive="left"), columns])
    frame = pd.concat(parts).sort_values(["timestamp", "rating"]).drop_duplicates(["user_id", "parent_asin"])
    frame = frame.assign(timestamp=frame["timestamp"] // 1000).rename(columns={"parent_asin": "item_id"})
    return told(frame, n_lines, n_broken)


def is_json(line: str) -> bool:
    """Whether a line is whole."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def told(frame: pd.DataFrame, n_lines: int, n_broken: int) -> dict:
    """What two readers must agree on; the sum of hashes does not depend on the order of the rows."""
    plain = frame.astype({"user_id": object, "item_id": object, "rating": float, "timestamp": int})
    hashes = pd.util.hash_pandas_object(plain, index=False).to_numpy()
    return {"rows": n_lines, "broken": n_broken, "kept": len(frame), "hash": int(hashes.sum(dtype=np.uint64))}


def load(path: str) -> dict:
    """Everything from the two files to a log: items joined, 5-core of the whole file."""
    log = read_amazon(path, Path(path).with_name("items.jsonl.gz"), "generated", WINDOW, k_core=5)
    return {"users": log.n_users, "items": log.n_items, "interactions": len(log.interactions)}


def tools(size: str) -> dict:
    """50,000 tasks, and all that the tools know but SASRec, on "office" (the paper's size) or "large"."""
    from agenticrec_lite.recommenders import SASRec  # and with it torch
    from agenticrec_lite.tools.toolbox import Toolbox

    class Unfitted(SASRec):
        """Measured by itself in bench.json."""

        def fit(self, *_):
            return self

    n_users, n_items, n = {"office": (27_130, 11_511, 47_333), "large": (60_000, 50_000, 900_000)}[size]
    rng = np.random.default_rng(0)
    users, items = (rng.permutation(m)[(m * rng.random(n) ** p).astype(int)] for m, p in ((n_users, 1.5), (n_items, 2)))
    log = make_log(
        size,
        pd.DataFrame({"user_id": users, "item_id": items, "rating": 5.0, "timestamp": np.arange(n)}),
        pd.DataFrame({"item_id": np.arange(n_items), "title": "t", "categories": [("c",)] * n_items, "price": 1.0,
                      "year": 2000.0}),
    )  # fmt: skip
    split = temporal_split(log)
    start = time.perf_counter()
    tasks = build_tasks(log, split, "train_late", 50_000, 0)
    between = time.perf_counter()
    box = Toolbox.fit(log, split.rows("train"), sequential=Unfitted())
    box.user_sizes, box.item_sizes, box.taken_columns
    return {"tasks": len(tasks), "task_seconds": between - start, "toolbox_seconds": time.perf_counter() - between}


WORK = {"generate": generate, "ours": read_ours, "pandas": read_pandas, "load": load, "tools": tools}


def measure(work: str, argument: str | Path) -> dict:
    """One measurement in a process of its own: what `WORK` returns, seconds, and peak memory."""
    command = [sys.executable, "-m", "benchmarks.reader", "--measure", work, str(argument)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    print(work, Path(argument).name, figures, flush=True)
    return figures


def gunzip_seconds(path: Path) -> float:
    """Unpacking alone, to nowhere."""
    start = time.perf_counter()
    subprocess.run(["gunzip", "-c", path], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def compare(rows: int, pandas_rows: int, folder: Path) -> dict:
    """All figures."""
    generated = measure("generate", folder / f"{rows}.jsonl.gz")["seconds"]
    files = {n: folder / f"{n}.jsonl.gz" for n in (round(rows * share) for share in SIZES)}
    ours = {n: measure("ours", path) for n, path in files.items()}
    gunzip = gunzip_seconds(files[rows])
    pandas = measure("pandas", files[pandas_rows])
    same = ("rows", "broken", "kept", "hash")
    assert {k: pandas[k] for k in same} == {k: ours[pandas_rows][k] for k in same}, "the readers disagree"
    whole = ours[rows]
    per_row = {arm: result["seconds"] / result["rows"] for arm, result in (("pandas", pandas), ("ours", whole))}
    return {
        "rows": rows, "pandas_rows": pandas_rows, "bytes_gzip": files[rows].stat().st_size,
        "seconds_generated": generated, "seconds": whole["seconds"], "rows_per_second": 1 / per_row["ours"],
        "peak_rss_mb": whole["peak_rss_mb"], "seconds_gunzip": gunzip, "times_gunzip": whole["seconds"] / gunzip,
        "speedup_vs_pandas": per_row["pandas"] / per_row["ours"], "pandas_rows_per_second": 1 / per_row["pandas"],
        "pandas_peak_rss_mb": pandas["peak_rss_mb"], "seconds_by_rows": {n: ours[n]["seconds"] for n in files},
        "load": measure("load", files[rows]), "tools": {size: measure("tools", size) for size in ("office", "large")},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--pandas-rows", type=int, help="a size of the cost's curve; default: all rows")
    parser.add_argument("--measure", nargs=2, metavar=("WORK", "ARGUMENT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        work, argument = arguments.measure
        start = time.perf_counter()
        figures = WORK[work](argument)
        print(json.dumps(figures | {"seconds": time.perf_counter() - start, "peak_rss_mb": peak_rss_mb()}))
        return
    with tempfile.TemporaryDirectory(prefix="agenticrec-") as folder:
        result = compare(arguments.rows, arguments.pandas_rows or arguments.rows, Path(folder))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
