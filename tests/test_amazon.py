"""Amazon Reviews 2023 and one's own files: every form that is accepted, and everything that can be wrong in them."""

import gzip
import json
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agenticrec_lite.data import amazon, build_tasks, from_frames, load_dataset, temporal_split
from agenticrec_lite.data.amazon import compare_with_paper, read_amazon
from agenticrec_lite.data.amazon_reader import read_items, read_reviews
from agenticrec_lite.errors import UserError
from agenticrec_lite.tools import toolbox
from benchmarks import reader

YEAR = ("2022-10-01", "2023-10-01")
T = 1_670_000_000_000  # in December 2022


def review(user="u1", item="i1", timestamp=T, rating=5.0, **more):
    row = {"rating": rating, "title": "A title", "text": 'Said "fine"\n, é', "images": [], "asin": "variant",
           "parent_asin": item, "user_id": user, "timestamp": timestamp, "helpful_vote": 0,
           "verified_purchase": True}  # fmt: skip
    return json.dumps({key: value for key, value in (row | more).items() if value is not ...})


def item(item_id="i1", title="Pen", price=9.99, categories=("Office", "Pens"), **more):
    row = {"main_category": "Office", "title": title, "average_rating": 4.5, "rating_number": 3, "features": ["f"],
           "description": [], "price": price, "images": [], "videos": [], "store": "S", "categories": list(categories),
           "details": {"Date First Available": "March 1, 2015"}, "parent_asin": item_id, "bought_together": None}
    return json.dumps(row | more)  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """Writes lines, or bytes, to a file of the test's folder; gzip if the name says so."""

    def write(name, lines):
        content = lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write


def rows(frame):
    return sorted(frame[["user_id", "item_id", "rating", "timestamp"]].itertuples(index=False, name=None))


def met(reading):
    """What was counted but the lines themselves."""
    return {case: count for case, count in reading.items() if count and case not in ("lines", "kept")}


def told(error):
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


OFFICIAL = [review("u1", "i1", T + 1999, 4.0), review("u2", "i1", T), review("u1", "i2", T + 5000, 1.0)]
EXPECTED = [("u1", "i1", 4.0, T // 1000 + 1), ("u1", "i2", 1.0, T // 1000 + 5), ("u2", "i1", 5.0, T // 1000)]
CSV = [f"u1,i1,4.0,{T + 1999}", f"u2,i1,5.0,{T}", f"u1,i2,1.0,{T + 5000}"]
HEADER = "user_id,parent_asin,rating,timestamp"


@pytest.mark.parametrize(("name", "lines"), [
    ("r.jsonl", OFFICIAL),
    ("r.jsonl.gz", OFFICIAL),
    ("r[1]*?.jsonl", OFFICIAL),
    ("r.csv", CSV),
    ("r.csv.gz", [HEADER, *CSV]),
    ("r.csv", [f"{HEADER},history", *(f"{line},i7 i8" for line in CSV)]),
    ("r.csv", ['"user_id","parent_asin","rating","timestamp"', *CSV[:2], '"u1","i2",1.0,"' + str(T + 5000) + '"']),
])  # fmt: skip
def test_every_published_form_gives_the_same_rows(write, name, lines):
    write("r1ab.jsonl", [review("another file, which the odd name would match as a pattern")])
    frame, reading = read_reviews(write(name, lines))
    assert rows(frame) == EXPECTED
    assert met(reading) == {} and reading["lines"] == 3


@pytest.mark.parametrize("lines", [OFFICIAL, [HEADER, *CSV]], ids=["jsonl", "csv"])
@pytest.mark.parametrize("form", ["bom", "crlf", "blank lines", "no last newline", "gzip by another name", "not gzip"])
def test_how_the_text_is_packed_does_not_matter(write, lines, form):
    kind = "jsonl" if lines is OFFICIAL else "csv"
    text = "".join(f"{line}\n" for line in lines).encode()
    content = {
        "bom": b"\xef\xbb\xbf" + text, "crlf": text.replace(b"\n", b"\r\n"), "no last newline": text[:-1],
        "blank lines": b"\n" + text.replace(b"\n", b"\n\n"), "gzip by another name": gzip.compress(text),
        "not gzip": text,
    }[form]  # fmt: skip
    path = write(f"r.{kind}", content)
    frame, reading = read_reviews(path.rename(f"{path}.gz") if form == "not gzip" else path)
    assert rows(frame) == EXPECTED and met(reading) == {}


BAD_LINES = [
    ("cut off", review()[:40], "broken line"),
    ("no JSON", "hello", "broken line"),
    ("two objects", review() + review(), "broken line"),
    ("an array", "[1, 2]", "broken line"),
    ("an empty object", "{}", "broken line"),
    ("not UTF-8", review().replace("variant", "\udcff"), "broken line"),
    ("user missing", review(user_id=...), "no user or item"),
    ("user null", review(user_id=None), "no user or item"),
    ("item empty", review(item=""), "no user or item"),
    ("timestamp missing", review(timestamp=...), "no or impossible timestamp"),
    ("timestamp in words", review(timestamp="yesterday"), "no or impossible timestamp"),
    ("timestamp negative", review(timestamp=-T), "no or impossible timestamp"),
    ("timestamp 0", review(timestamp=0), "no or impossible timestamp"),
    ("timestamp not a number", review(timestamp=float("nan")), "no or impossible timestamp"),
    ("timestamp without end", review(timestamp=1e300), "no or impossible timestamp"),
    ("timestamp in the future", review(timestamp=4 * 10**12), "timestamp in the future"),
    ("timestamp in microseconds", review(timestamp=T * 1000), "timestamp in the future"),
    ("CSV, a field too few", "u9,i9,5.0", "broken line"),
    ("CSV, fields too many", f"u9,i9,5.0,{T},i1,i2", "broken line"),
    ("CSV, not UTF-8", f"u\udcff9,i9,5.0,{T}", "broken line"),
    ("CSV, a control character", f"u9,i9,5.0,{T}\x010", "broken line"),
    ("CSV, user empty", f",i9,5.0,{T}", "no user or item"),
    ("CSV, timestamp empty", "u9,i9,5.0,", "no or impossible timestamp"),
    ("CSV, timestamp in the future", "u9,i9,5.0,4000000000000", "timestamp in the future"),
]


@pytest.mark.parametrize(
    ("line", "case"),
    [pytest.param(line, case, marks=pytest.mark.fault(what, "reviews"), id=what) for what, line, case in BAD_LINES],
)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_bad_line_is_left_out_and_counted(write, record_property, line, case, place):
    record_property("detail", f"left out and counted as '{case}'; the rows around it are read")
    csv = line.startswith(("u", ","))
    lines = list(CSV if csv else OFFICIAL)
    lines.insert(place, line)
    content = "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")
    frame, reading = read_reviews(write("r.csv" if csv else "r.jsonl", content))
    assert rows(frame) == EXPECTED
    assert met(reading) == {case: 1} and reading["lines"] == 4


@pytest.mark.fault("timestamp in seconds", "reviews")
def test_seconds_among_milliseconds_are_taken_as_such(write):
    """Counted, and the interaction has its true time."""
    lines = [*OFFICIAL[1:], review("u1", "i1", T // 1000 + 1, 4.0)]
    frame, reading = read_reviews(write("r.jsonl", lines), YEAR)
    assert rows(frame) == EXPECTED and met(reading) == {"timestamp in seconds": 1}


@pytest.mark.fault("odd rating", "reviews")
@pytest.mark.parametrize("rating", [None, ..., "good", 0, 6, -1, float("nan")])
def test_an_interaction_without_a_rating_is_kept(write, rating):
    """Kept as an interaction without a rating, and counted."""
    frame, reading = read_reviews(write("r.jsonl", [review(rating=rating)]))
    assert np.isnan(frame["rating"]).all() and len(frame) == 1
    assert met(reading) == {"without a rating of 1 to 5": 1}


@pytest.mark.fault("repeated interactions", "reviews")
def test_the_earliest_of_repeated_interactions_is_kept(write):
    """Counted; at equal times the lowest rating counts, whatever the order of the lines."""
    lines = [review(timestamp=T + 9000, rating=1.0), review(timestamp=T, rating=5.0), review(timestamp=T, rating=3.0)]
    for order in (lines, lines[::-1]):
        frame, reading = read_reviews(write("r.jsonl", order))
        assert rows(frame) == [("u1", "i1", 3.0, T // 1000)] and met(reading) == {"user and item met again": 2}


def test_the_window_begins_with_its_first_second_and_ends_before_its_last(write):
    start, end = 1_664_582_400_000, 1_696_118_400_000
    moments = {"a": start - 1, "b": start, "c": end - 1, "d": end}
    frame, reading = read_reviews(write("r.jsonl", [review(user, timestamp=t) for user, t in moments.items()]), YEAR)
    assert sorted(frame["user_id"]) == ["b", "c"] and met(reading) == {"outside the window": 2}
    with pytest.raises(UserError, match="'October' is no day"):
        read_reviews(write("r.jsonl", OFFICIAL), ("October", "2023-10-01"))


def slow_core(pairs, k):
    """The k-core by its definition: what is left when everything too rare has gone, again and again."""
    while True:
        users, items = ([pair[side] for pair in pairs] for side in (0, 1))
        left = {(u, i) for u, i in pairs if users.count(u) >= k and items.count(i) >= k}
        if left == pairs:
            return left
        pairs = left


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3), st.booleans()), max_size=40),
       st.integers(1, 3))  # fmt: skip
def test_core_window_and_duplicates_as_by_their_definitions(tmp_path, drawn, k):
    """Against slow code; and every line is accounted for."""
    lines, first = ["broken", review("in", "in")], {("in", "in"): (T, True)}
    for user, item_id, hour, inside in drawn:
        moment = T + hour * 3_600_000 - (0 if inside else 10**11)
        lines.append(review(f"u{user}", f"i{item_id}", moment))
        if inside or k > 1:
            pair = (f"u{user}", f"i{item_id}")
            first[pair] = min(first.get(pair, (np.inf, None)), (moment, inside))
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(lines))
    frame, reading = read_reviews(path, YEAR, k)
    expected = {pair for pair in slow_core(set(first), k) if first[pair][1]}
    assert set(zip(frame["user_id"], frame["item_id"], strict=True)) == expected
    for user, item_id, _, second in rows(frame):
        assert second * 1000 == first[user, item_id][0]
    assert reading["lines"] == len(lines) == sum(met(reading).values()) + len(frame)


SPACES = "".join(c for c in map(chr, range(0x3001)) if unicodedata.category(c) == "Zs")  # what SQL's trim takes away


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1, max_size=20), st.text(max_size=40), st.text(max_size=20), st.binary(max_size=60))
@example("\r", "", "", b"").via("an id of spaces only")
@example("\u2003\x1f", "", "", b"").via("and of others than SQL knows")
@example("0", "\xa0 \u3000\t", "", b"").via("a title that begins with blanks of several kinds")
def test_any_text_survives_and_any_noise_is_counted(tmp_path, user, title, name, noise):
    noise = noise.replace(b"\n", b"").replace(b"\r", b"") or b"?"
    reviews, items = tmp_path / "r.jsonl", tmp_path / "meta.jsonl"
    user = user.replace("\0", "0")
    reviews.write_bytes(review(user).encode() + b"\nx" + noise + b"\n" + review("u2").encode())
    items.write_bytes(item(title=title + "!", categories=["All", name + "!"]).encode() + b"\nx" + noise + b"\n")
    log = read_amazon(reviews, items, "mine")
    assert set(log.user_ids) == {"u2"} | ({user} if user.strip() else set()) and log.reading["broken line"] >= 1
    assert log.reading["no user or item"] == (not user.strip())
    assert log.items["title"][0] == (title + "!").lstrip(SPACES) and log.items["categories"][0] == (name + "!",)


ITEM_ROWS = [
    item("i1", "Pen"),
    item("i2", " Ink ", "None", details='{"Original Release Date": "1999", "Date First Available": "May 2, 2011"}'),
    item("i3", None, None), item("i4", "", "$1,299.00"), item("i5", "Paper", "12.99 - 20.00", [], details="no JSON"),
    item("i6", "Glue", -1.0, ["Office"], details=None), item("i1", "Older", 1.0), item("i3", "Cord", float("nan")),
    "no JSON", item("unwanted", "X"),
]  # fmt: skip


@pytest.mark.fault("items: odd price, no title, broken line, described again", "items")
def test_items_official_and_from_the_hub(write):
    """Each is counted; the item is kept with what is known of it."""
    table, reading = read_items(write("meta.jsonl.gz", ITEM_ROWS), [f"i{k}" for k in range(1, 8)])
    table = table.set_index("item_id").sort_index()
    assert table["title"].to_dict() == {"i1": "Older", "i2": "Ink", "i3": "Cord", "i4": "", "i5": "Paper", "i6": "Glue"}
    np.testing.assert_array_equal(table["price"], [1.0, np.nan, np.nan, 1299.0, np.nan, np.nan])
    np.testing.assert_array_equal(table["year"], [2015, 1999, 2015, 2015, np.nan, np.nan])
    categories = {"i5": (), "i6": ("Office",)}
    assert table["categories"].to_dict() == {i: ("Pens",) for i in ("i1", "i2", "i3", "i4")} | categories
    assert reading == {"broken line of the items": 1, "item described again": 2, "odd price": 3}


def test_reviews_and_items_become_one_log(write, capsys):
    reviews = [review(f"u{k}", f"i{k}", T + 1000 * k) for k in range(1, 8)] + [review("u1", "i5", T)]
    log = read_amazon(write("r.jsonl.gz", reviews), write("meta.jsonl.gz", ITEM_ROWS), "mine")
    assert list(log.items["item_id"]) == ["i1", "i2", "i3", "i5", "i6"]
    assert [log.user_ids[code] for code in log.interactions["user"]] == ["u1", "u1", "u2", "u3", "u5", "u6"]
    assert met(log.reading) == {
        "of an unknown item": 1, "of an item without a title": 1, "broken line of the items": 1,
        "item described again": 2, "odd price": 3,
    }  # fmt: skip
    assert log.reading["kept"] == 6 and "of an unknown item: 1" in capsys.readouterr().out


@pytest.mark.fault("gzip cut off", "reviews")
@pytest.mark.parametrize("cut", [1, 9, 0.5, 0.02])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_gzip_that_is_cut_off_is_refused(write, cut, kind):
    """Refused by name: a part of the reviews would pass for all."""
    path = write(f"r.{kind}.gz", [review(f"u{k}") if kind == "jsonl" else f"u{k},i,5.0,{T}" for k in range(3000)])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * cut) if cut < 1 else -cut])
    with pytest.raises(UserError, match=rf"r.{kind}.gz cannot be read .*GZIP") as error:
        read_reviews(path)
    told(error)


@pytest.mark.fault("gzip damaged", "reviews")
def test_a_damaged_gzip_is_refused(write):
    """Refused by name."""
    path = write("r.jsonl.gz", [review(f"u{k * 7919 % 10007}") for k in range(3000)])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match="r.jsonl.gz"):
        read_reviews(path)


@pytest.mark.fault("nothing to read", "reviews and items")
@pytest.mark.parametrize(("reviews", "items", "said"), [
    (b"", [item()], "r.jsonl has no interaction"),
    (b"<html>\n<p>Not found</p>\n", [item()], r"no interaction \(lines: 2, broken line: 2\).*format"),
    ([review()], b"", "meta.jsonl describes no item"),
    ([review()], [item("other")], "meta.jsonl describes no item of the reviews .*same category"),
    ([review()], [item(title="")], "of an item without a title: 1.*same category"),
    (None, [item()], "There is no file .*r.jsonl"),
    ([review()], None, "There is no file .*meta.jsonl"),
])  # fmt: skip
def test_files_that_give_nothing_are_told(write, tmp_path, reviews, items, said):
    """One sentence that names the file and what was met in it."""
    for name, lines in (("r.jsonl", reviews), ("meta.jsonl", items)):
        if lines is not None:
            write(name, lines)
    with pytest.raises(UserError, match=said) as error:
        read_amazon(tmp_path / "r.jsonl", tmp_path / "meta.jsonl", "mine")
    told(error)


@pytest.mark.fault("columns in another order", "reviews.csv")
@pytest.mark.parametrize("header", ["parent_asin,user_id,rating,timestamp", "user_id,item_id,timestamp,rating"])
def test_csv_with_other_columns_is_refused(write, header):
    """Refused with the columns that it must have."""
    with pytest.raises(UserError, match=f"{header} in line 1; they must be {HEADER}"):
        read_reviews(write("r.csv", [header, *CSV]))


def test_a_window_or_a_core_that_leaves_nothing_is_told(write):
    path, items = write("r.jsonl", OFFICIAL), write("meta.jsonl", [item()])
    with pytest.raises(UserError, match="outside the window: 3.*another window"):
        read_amazon(path, items, "mine", ("2000-01-01", "2000-02-01"))
    with pytest.raises(UserError, match="outside the 5-core: 3.*smaller core"):
        read_amazon(path, items, "mine", YEAR, k_core=5)


@pytest.mark.fault("no space for temporary files", "reader")
def test_a_full_disk_is_told(write, monkeypatch):
    """One sentence that names TMPDIR."""
    monkeypatch.setattr("agenticrec_lite.data.amazon_reader.MEMORY", "5MB")
    path = write("r.jsonl", [review(f"u{k}") for k in range(200_000)])
    with pytest.raises(UserError, match="No space is left for reading .*TMPDIR") as error:
        read_reviews(path)
    told(error)


def test_the_papers_table_stands_beside_ours(write, capsys):
    reviews = [review(f"u{k}", f"i{k}", T + k) for k in (1, 2)]
    log = read_amazon(write("r.jsonl", reviews), write("m.jsonl", ITEM_ROWS), "amazon-2023/Office")
    table = compare_with_paper(log)
    assert table.loc["here"].tolist() == [2, 2, 2, 50] and table.loc["paper", "interactions"] == 47_333
    assert table.loc["difference", "users"] == 2 - 27_130
    assert "Ours" in (said := capsys.readouterr().out) and "5-core" in said and "99.985 %" in said
    with pytest.raises(UserError, match="no figures of mine"):
        compare_with_paper(read_amazon(write("r.jsonl", reviews), write("m.jsonl", ITEM_ROWS), "mine"))


def test_a_category_is_loaded_in_the_papers_setting(write, tmp_path, monkeypatch):
    """Fetching is replaced: the two files are there, five users took the same five items in the window."""
    pairs = [(f"u{u}", f"i{i}") for u in range(5) for i in (1, 2, 3, 5, 6)]
    write("Office_Products.jsonl", [review(*pair, T + k) for k, pair in enumerate(pairs)] + [review("u9", "i1")])
    write("meta_Office_Products.jsonl", ITEM_ROWS)
    (tmp_path / "sha256.json").write_text('{"Office_Products.jsonl": "", "meta_Office_Products.jsonl": ""}')
    monkeypatch.setattr(amazon, "fetch_amazon", lambda name: tmp_path)
    log = load_dataset("amazon-2023/Office")
    assert (log.name, len(log.interactions), log.reading["outside the 5-core"]) == ("amazon-2023/Office", 25, 1)


INTERACTIONS = pd.DataFrame({"user": ["u", "v", "u"], "item": [1, 1, 2], "timestamp": [30, 20, 10]})
ITEMS = pd.DataFrame({"item": [1, 2], "title": ["One", "Two"]})


def seconds_of(log):
    return log.interactions["timestamp"].tolist()


def test_frames_become_a_log():
    log = from_frames(INTERACTIONS, ITEMS)
    assert seconds_of(log) == [10, 20, 30] and log.interactions["rating"].isna().all()
    assert list(log.items["title"]) == ["One", "Two"] and log.items["categories"].tolist() == [(), ()]
    full = ITEMS.assign(categories=["a|b", None], price=["1.5", ""], year=[1999, None], colour="red")
    log = from_frames(INTERACTIONS.assign(rating=[1, 2, 3]).rename(columns={"user": "user_id"}), full, "shop")
    assert log.items["categories"].tolist() == [("a", "b"), ()] and log.items["price"][0] == 1.5 and log.name == "shop"
    assert log.interactions["rating"].tolist() == [3, 2, 1]


@pytest.mark.parametrize("timestamps", [
    [1_600_000_030_000, 1_600_000_020_999, 1_600_000_010_000],
    ["1600000030", "1600000020.7", "1600000010"],
    ["2020-09-13T12:27:10", "2020-09-13 12:27:00.5+00:00", "2020-09-13T14:26:50+02:00"],
    pd.to_datetime([1_600_000_030, 1_600_000_020, 1_600_000_010], unit="s"),
    pd.to_datetime([1_600_000_030, 1_600_000_020, 1_600_000_010], unit="s").tz_localize("UTC").tz_convert("Asia/Tokyo"),
])  # fmt: skip
def test_times_of_every_kind_become_seconds(timestamps):
    log = from_frames(INTERACTIONS.assign(timestamp=timestamps), ITEMS)
    assert seconds_of(log) == [1_600_000_010, 1_600_000_020, 1_600_000_030]


@pytest.mark.fault("wrong tables", "from_frames")
@pytest.mark.parametrize(("interactions", "items", "said"), [
    (INTERACTIONS.drop(columns="user"), ITEMS, "the interactions need one column 'user'; they have item, timestamp."),
    (INTERACTIONS.assign(user_id="u"), ITEMS, "need one column 'user'"),
    (INTERACTIONS, ITEMS.drop(columns="title"), "the items need one column 'title'"),
    (INTERACTIONS.assign(user=["u", None, "u"]), ITEMS, "user_id is empty in row 1 of the interactions"),
    (INTERACTIONS, ITEMS.assign(title=["One", " "]), "title is empty in row 1 of the items"),
    (INTERACTIONS.assign(item=[1, 1, 3]), ITEMS, "item '3' in row 2 of the interactions is not among the items"),
    (INTERACTIONS.assign(timestamp=["a", "b", "c"]), ITEMS, "timestamp 'a' in row 0 .* neither a number nor a date"),
    (INTERACTIONS.assign(timestamp=[1, "x", 3]), ITEMS, "timestamp 'x' in row 1"),
    (INTERACTIONS.assign(timestamp=[1, np.inf, 3]), ITEMS, "timestamp 'inf' in row 1"),
    (INTERACTIONS.assign(timestamp=[T, T // 1000, T]), ITEMS, "seconds and in milliseconds, see rows 1 and 0"),
    (INTERACTIONS.assign(rating="good"), ITEMS, "rating is not a number"),
    (INTERACTIONS, pd.concat([ITEMS, ITEMS]), "item '1' is in the item table twice"),
    (INTERACTIONS.iloc[:0], ITEMS, "the interactions table is empty"),
])  # fmt: skip
def test_wrong_frames_are_told_with_the_row(interactions, items, said):
    """Refused with the column and the row."""
    with pytest.raises(UserError, match=f"^shop: .*{said}") as error:
        from_frames(interactions, items, "shop")
    told(error)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("place", ["folder", "pair"])
def test_own_tables_are_a_dataset(tmp_path, kind, place):
    interactions, items = tmp_path / f"events.{kind}", tmp_path / f"items.{kind}"
    for path, table in ((interactions, INTERACTIONS), (items, ITEMS.assign(categories=["a|b", "c"]))):
        table.to_parquet(path) if kind == "parquet" else table.to_csv(path, index=False)
    (tmp_path / "README.md").write_text("not data")
    log = load_dataset(str(tmp_path) if place == "folder" else f"{items}, {interactions}")
    assert seconds_of(log) == [10, 20, 30] and log.items["categories"][0] == ("a", "b")


@pytest.mark.parametrize("reviews", ["Office.jsonl.gz", "Office.csv"])
def test_own_files_in_the_official_format_are_a_dataset(write, tmp_path, reviews):
    write(reviews, CSV if reviews.endswith("csv") else OFFICIAL)
    write("meta_Office.jsonl", ITEM_ROWS)
    log = load_dataset(str(tmp_path))
    assert (log.n_users, log.n_items, len(log.interactions)) == (2, 2, 3)


@pytest.mark.fault("files that cannot be told apart", "own folder")
@pytest.mark.parametrize(("names", "said"), [
    ([], "must be two files.*none of such a kind"),
    (["a.csv"], "must be two files.*it has a.csv"),
    (["items.csv", "a.csv", "b.csv"], "must be two files.*it has a.csv, b.csv, items.csv"),
    (["items.csv", "events.parquet"], "events.parquet cannot be read"),
    (["items.csv", "events.csv"], "events.csv cannot be read"),
])  # fmt: skip
def test_files_that_are_not_two_tables_are_told(tmp_path, names, said):
    """Refused with what the folder must hold."""
    for name in names:
        (tmp_path / name).write_bytes(b"")
    if "items.csv" in names:
        ITEMS.to_csv(tmp_path / "items.csv", index=False)
    with pytest.raises(UserError, match=said) as error:
        load_dataset(str(tmp_path))
    told(error)


def test_a_place_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="nor a folder of that name"):
        load_dataset(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="There is no file .*events.csv"):
        load_dataset(f"{tmp_path}/events.csv,{tmp_path}/items.csv")


@pytest.mark.fault("file changed between two runs", "own folder")
def test_a_changed_file_has_another_fingerprint(tmp_path):
    """An interaction or a title that changed changes it; the order of the rows does not."""
    base = from_frames(INTERACTIONS, ITEMS).fingerprint()
    assert from_frames(INTERACTIONS.iloc[::-1], ITEMS.iloc[::-1]).fingerprint() == base
    changed = [from_frames(INTERACTIONS.assign(timestamp=[31, 20, 10]), ITEMS),
               from_frames(INTERACTIONS, ITEMS.assign(title=["One", "2"])),
               from_frames(INTERACTIONS, ITEMS.assign(price=[1.0, 2.0]))]  # fmt: skip
    assert len({log.fingerprint() for log in changed} | {base}) == 4


class FixedSASRec:
    """Random embeddings and scores."""

    def fit(self, past, n_items, seed):
        self.item_embeddings = np.random.default_rng(seed).normal(size=(n_items, 8)).astype(np.float32)
        return self

    def score(self, histories, candidates):
        return np.random.default_rng(1).normal(size=np.shape(candidates)).astype(np.float32)


@pytest.fixture
def shop(monkeypatch):
    """(log, split, tasks, toolbox) of 300 items."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 60, 3000), (300 * rng.random(3000) ** 2).astype(int)
    log = from_frames(pd.DataFrame({"user": users, "item": items, "timestamp": range(3000)}),
                      pd.DataFrame({"item": range(300), "title": [f"T{i}" for i in range(300)]}))  # fmt: skip
    split = temporal_split(log)
    monkeypatch.setattr(toolbox, "SASRec", FixedSASRec)
    return log, split, build_tasks(log, split, "test", 60, 0), toolbox.Toolbox.fit(log, split.rows("train"))


def test_sparse_evidence_is_the_dense_one_to_the_bit(shop):
    """Catalogues of 50,000 items need sparse arrays; the figures of small ones must not move."""
    _, _, tasks, box = shop
    taken, similarity = box.taken, box.itemknn.similarity
    sizes, counts = np.sqrt(taken.sum(1)), np.sqrt(np.maximum(taken.sum(0), 1))
    scores = box.itemknn.score([task.history for task in tasks], [task.candidates for task in tasks])
    for task, context, score in zip(tasks, box.contexts(tasks), scores, strict=True):
        history, candidates = list(task.history), np.array(task.candidates)
        np.testing.assert_array_equal(score, similarity[np.ix_(candidates, history)].sum(1))
        overlap = taken[:, history].sum(1) / sizes
        near = np.argsort(-overlap, kind="stable")[: min(100, (overlap > 0).sum())]
        votes = overlap[near] @ taken[np.ix_(near, candidates)] / counts[candidates]
        for found, expected in zip(context.collaborative.votes(), (near, votes), strict=True):
            np.testing.assert_array_equal(found, expected)
        for place, items in ((None, history), (("h", 0), history[:1]), (("c", 3), [task.candidates[3]])):
            together = similarity[:, items].sum(1)
            nearest = np.argsort(-together, kind="stable")[: min(3 + len(history), (together > 0).sum())]
            shown = context.collaborative.similar_items(place)
            assert shown.neighbours == [box.cards[item].title for item in nearest if item not in history]
            np.testing.assert_array_equal(shown.scores, together[candidates])


@settings(max_examples=100)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), max_size=12), st.integers(0, 14))
def test_the_largest_values_are_those_of_a_stable_sort_above_zero(values, k):
    values = np.array(values)
    expected = [place for place in np.argsort(-values, kind="stable").tolist() if values[place] > 0][:k]
    assert toolbox.largest(values, k).tolist() == expected


@pytest.mark.parametrize("rows", [
    pytest.param(500_000, marks=pytest.mark.all), pytest.param(5_000_000, marks=pytest.mark.long)])  # fmt: skip
def test_memory_is_bounded_and_every_line_counts(tmp_path, rows):
    """Generated reviews of the official format; a broken one in each 100,000."""
    reader.measure("generate", tmp_path / f"{rows}.jsonl.gz")
    for work in ("ours", "load"):
        figures = reader.measure(work, tmp_path / f"{rows}.jsonl.gz")
        assert figures["peak_rss_mb"] < 1536
        if work == "ours":
            assert (figures["rows"], figures["broken"]) == (rows, rows // 100_000)
        else:
            assert figures["interactions"] > rows / 20
