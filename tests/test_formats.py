"""Files as people have them: each is read as it is published; what could be read wrongly is said or refused."""

import gzip
import io
import json
import random
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenticrec_lite.data import from_frames, load_dataset
from agenticrec_lite.data.own import load_files
from agenticrec_lite.data.times import to_seconds
from agenticrec_lite.errors import UserError

SECOND = 978_300_760
FLAGS = "|".join("0" * 8 + "1" + "0" * 10)  # of u.item: Drama
# The same three interactions with the same two films, as each place publishes them.
RATINGS = [("7", "1193", 5, SECOND), ("7", "661", 3, SECOND + 9), ("12", "1193", 4, SECOND + 5)]
INTERACTIONS = pd.DataFrame(RATINGS, columns=["user", "item", "rating", "timestamp"])
FILMS = pd.DataFrame({"item": ["1193", "661"], "title": ["Café: Noir", "James, Jim"], "year": [1975, 1996],
                      "categories": [("Drama",), ("Drama", "War")]})  # fmt: skip


def lines(rows, separator):
    return "".join(f"{separator.join(map(str, row))}\n" for row in rows)


ML_LATEST = {
    "ratings.csv": "userId,movieId,rating,timestamp\n" + lines(RATINGS, ","),
    "movies.csv": 'movieId,title,genres\n1193,Café: Noir (1975),Drama\n661,"James, Jim (1996)",Drama|War\n',
    "tags.csv": "userId,movieId,tag,timestamp\n7,661,dull,1139045764\n",
    "links.csv": "movieId,imdbId,tmdbId\n661,0114709,862\n",
    "README.txt": "Summary\n=======\n\nThis dataset describes 5-star rating, and free-text, tagging activity.\n",
}
ML_1M = {
    "ratings.dat": lines(RATINGS, "::"),
    "movies.dat": "1193::Café: Noir (1975)::Drama\n661::James, Jim (1996)::Drama|War\n".encode("latin-1"),
    "users.dat": "7::F::1::10::48067\n12::M::56::16::70072\n",
    "README": "SUMMARY\n",
}
ML_10M = ML_1M | {
    "movies.dat": "1193::Café: Noir (1975)::Drama\n661::James, Jim (1996)::Drama|War\n",
    "tags.dat": "7::661::dull::1139045764\n",
}
ML_100K = {
    "u.data": lines(RATINGS, "\t"),
    "u.item": f"1193|Café: Noir (1975)|01-Jan-1975||http://x|{FLAGS}\n"
              f"661|James, Jim (1996)|01-Jan-1996||http://x|{FLAGS[:-4]}|1|0\n".encode("latin-1"),
    "u.user": "7|24|M|technician|85711\n",
    "u1.base": "7\t661\t5\t874965758\n",
}  # fmt: skip
RECBOLE = {
    "ml.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + lines(RATINGS, "\t"),
    "ml.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
               "1193\tCafé: Noir\t1975\tDrama\n661\tJames, Jim\t1996\tDrama War\n",
    "ml.user": "user_id:token\tage:token\n7\t24\n",
}  # fmt: skip


def write(folder, files):
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(folder)


def zipped(files, folder="ml/"):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(folder + name, content)
    return packed.getvalue()


def rows(log):
    """The interactions with their ids, in the log's order."""
    users, items = log.user_ids[log.interactions["user"]], log.items["item_id"].to_numpy()[log.interactions["item"]]
    return list(zip(users, items, log.interactions["rating"], log.interactions["timestamp"], strict=True))


@pytest.mark.parametrize("files", [
    pytest.param(ML_LATEST, id="ml-latest"), pytest.param(ML_1M, id="ml-1m"), pytest.param(ML_10M, id="ml-10m"),
    pytest.param(ML_100K, id="ml-100k"), pytest.param(RECBOLE, id="RecBole"),
])  # fmt: skip
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_published_folder_is_read_as_it_is_unzipped(tmp_path, capsys, files, packed):
    place = write(tmp_path, {"data.zip": zipped(files)} if packed else files)
    log, expected = load_dataset(place), from_frames(INTERACTIONS, FILMS)
    assert log.digest() == expected.digest()
    pd.testing.assert_frame_equal(log.items, expected.items)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "3 rows, 0 left out" in said and "2 items" in said
    assert ("uess" in said) == any(isinstance(text, bytes) for text in files.values())
    if packed:
        assert load_dataset(f"{place}/data.zip").digest() == expected.digest()


AMAZON_ROWS = [("A1", "B000000001", 4.0, 1_252_800_000), ("A2", "B000000002", 5.0, 1_252_800_001)]


def reviews(year):
    """Lines as the authors give them."""
    for user, item, rating, second in AMAZON_ROWS:
        if year == 2023:
            row = {"rating": rating, "title": "Fine", "asin": "V", "parent_asin": item, "user_id": user,
                   "timestamp": second * 1000}  # fmt: skip
        else:
            row = {"overall": rating, "reviewTime": "09 13, 2009", "reviewerID": user, "asin": item,
                   "reviewText": "good", "unixReviewTime": second}  # fmt: skip
            row |= {"helpful": [0, 1]} if year == 2014 else {"verified": True}
        yield json.dumps(row) + "\n"


META = {
    2023: json.dumps({"parent_asin": "B000000001", "title": "Girl's Pen", "categories": ["Office", "Pens"],
                      "price": "3.17", "details": {}}) + "\n"
          + json.dumps({"parent_asin": "B000000002", "title": "Ink", "categories": [], "price": None}) + "\n",
    2018: json.dumps({"asin": "B000000001", "title": "Girl's Pen", "category": ["Office", "Pens"], "price": "$3.17",
                      "also_buy": []}) + "\n"
          + json.dumps({"asin": "B000000002", "title": "Ink", "category": [], "price": "$1.00 - $2.00"}) + "\n",
    2014: "{'asin': 'B000000001', 'title': \"Girl's Pen\", 'price': 3.17, 'imUrl': 'http://x', 'categories': "
          "[['Office', 'Pens'], ['Toys']]}\n{'asin': 'B000000002', 'title': 'Ink', 'categories': [['Office']]}\n",
}  # fmt: skip


@pytest.mark.parametrize("year", [2014, 2018, 2023])
@pytest.mark.parametrize("ending", [".json", ".json.gz"])
def test_amazon_reviews_of_each_year(tmp_path, capsys, year, ending):
    place = write(tmp_path, {f"Office{ending}": "".join(reviews(year)), f"meta_Office{ending}": META[year]})
    log = load_dataset(place)
    assert rows(log) == AMAZON_ROWS
    assert log.items["title"].tolist() == ["Girl's Pen", "Ink"]
    assert log.items["categories"][0] == ("Pens",) and log.items["price"].tolist()[0] == 3.17
    assert np.isnan(log.items["price"][1])
    said = capsys.readouterr().out
    assert f"Amazon Reviews {year}" in said and "kept: 2" in said and "in seconds" not in said


def test_amazon_items_are_data_and_are_not_run(tmp_path):
    """Python's text of 2014 is read as a literal; a call in it is a broken line."""
    bomb = f"{{'asin': 'B000000002', 'title': open({str(tmp_path / 'ran')!r}, 'w'), 'imUrl': ''}}\n"
    meta = META[2014].splitlines()[0] + "\n" + bomb
    log = load_dataset(write(tmp_path, {"Office.json": "".join(reviews(2014)), "meta_Office.json": meta}))
    assert not (tmp_path / "ran").exists()
    assert log.reading["broken line of the items"] == 1 and log.reading["of an unknown item"] == 1


def test_a_title_with_code_of_the_page_is_none(tmp_path):
    meta = META[2018].replace('"Ink"', '"var aPageStart = (new Date()).getTime();"')
    log = load_dataset(write(tmp_path, {"Office.json": "".join(reviews(2018)), "meta_Office.json": meta}))
    assert log.items["title"].tolist() == ["Girl's Pen"] and log.reading["of an item without a title"] == 1


@pytest.mark.parametrize("item_first", [False, True], ids=["2014", "2018"])
@pytest.mark.parametrize("meta", [None, 2014, 2018])
def test_amazon_ratings_only_are_told_by_the_form_of_the_ids(tmp_path, capsys, item_first, meta):
    """2014 has the user first, 2018 the item, and neither says so."""
    table = [(item, user, *rest) if item_first else (user, item, *rest) for user, item, *rest in AMAZON_ROWS]
    files = {"ratings_Office.csv": lines(table, ",")} | ({"meta_Office.json.gz": META[meta]} if meta else {})
    log = load_dataset(write(tmp_path, files))
    assert rows(log) == AMAZON_ROWS
    assert log.items["title"].tolist() == (["Girl's Pen", "Ink"] if meta else ["B000000001", "B000000002"])
    assert "A guess: the columns of the interactions have no names" in capsys.readouterr().out


OTHER_ROWS = [("7", "a", 4.5, 1_600_000_500), ("12", "b", 3.0, 1_600_000_500 + 86_400)]


@pytest.mark.parametrize(("name", "content"), [
    ("log.csv", "user,item,rating,timestamp\n7,a,4.5,1600000500\n12,b,3,1600086900\n"),
    ("log.csv.gz", "user_id,item_id,rating,timestamp\n7,a,4.5,1600000500\n12,b,3,1600086900\n"),
    ("log.tsv", "userId\titemId\trating\ttime\n7\ta\t4.5\t1600000500\n12\tb\t3\t1600086900\n"),
    ("log.txt", "User|Item|Stars|Time\n7|a|4.5|1600000500\n12|b|3|1600086900\n"),
    ("log.dat", "uid::iid::rating::ts\n7::a::4.5::1600000500\n12::b::3::1600086900\n"),
    ("log.csv", "customer_id;StockCode;Score;InvoiceDate\n7;a;4,5;13/09/2020 12:35\n12;b;3;14/09/2020 12:35\n"),
    ("log.csv", ' User ID , Product , "Rating" , Date \n7 , a , 4.5, 2020-09-13 12:35\n12, b ,3, 2020-09-14 12:35\n'),
    ("log.csv", "\ufeffuser,item,rating,date\r\n7,a,4.5,9/13/2020 12:35 PM\r\n12,b,3,9/14/2020 12:35 pm\r\n"),
    ("log.csv", "user,item,rating,date\n7,a,4.5,13.09.2020 12:35\n12,b,3,14.09.2020 12:35:00\n"),
    ("log.csv", "user,item,rating,date\n7,a,4.5,20200913123500\n12,b,3,20200914123500\n"),
    ("log.jsonl", '{"user": 7, "item": "a", "rating": 4.5, "time": 1600000500}\n\n'
                  '{"time": 1600086900, "item": "b", "user": "12", "rating": 3, "more": [1]}\n'),
    ("log.jsonl.gz", '{"user": 7, "item": "a", "rating": 4.5, "ts": 1600000500000000}\n'
                     '{"user": 12, "item": "b", "rating": 3, "ts": 1600086900000000}\n'),
    ("log.csv", "user,item,rating,time\n7,a,4.5,1600000500\n12,b,3,1600086900\n".encode("utf-16")),
    ("log.csv", gzip.compress(mtime=0, data=b"user,item,rating,time\n7,a,4.5,1600000500\n12,b,3,1600086900\n")),
    ("log.zip", zipped({"log.csv": "user,item,rating,time\n7,a,4.5,1600000500\n12,b,3,1600086900\n"}, "")),
], ids=lambda value: value if str(value).startswith("log.") else "content")  # fmt: skip
def test_plain_interactions_of_every_kind(tmp_path, capsys, name, content):
    """Without a table of items: the ids are the titles, and the line says so."""
    write(tmp_path, {name: content})
    log = load_dataset(str(tmp_path / name))
    assert rows(log) == OTHER_ROWS and log.items["title"].tolist() == ["a", "b"]
    assert rows(load_dataset(str(tmp_path))) == OTHER_ROWS
    said = capsys.readouterr().out
    assert "ids are the titles (2 items)" in said and "2 rows, 0 left out" in said and "guess" not in said.lower()


def test_parquet_is_known_by_its_content(tmp_path):
    table = INTERACTIONS.rename(columns={"user": "UserID", "item": "product_id", "timestamp": "date"})
    table["date"] = pd.to_datetime(table["date"], unit="s")
    table.to_parquet(tmp_path / "orders.dat")
    FILMS.rename(columns={"item": "Product ID", "title": "name"}).to_parquet(tmp_path / "products.parquet")
    log, expected = load_dataset(str(tmp_path)), from_frames(INTERACTIONS, FILMS)
    assert log.digest() == expected.digest()
    pd.testing.assert_frame_equal(log.items, expected.items)


def test_frames_may_have_any_usual_names():
    renamed = INTERACTIONS.rename(columns={"user": "User ID", "item": "ASIN", "timestamp": "unixReviewTime"})
    films = FILMS.rename(columns={"item": "asin", "title": "Product_Title", "categories": "Genres"})
    log, expected = from_frames(renamed.assign(reviewTime="09 13, 2009"), films), from_frames(INTERACTIONS, FILMS)
    assert log.fingerprint() == expected.fingerprint()


def test_the_columns_and_not_the_names_tell_the_two_files_apart(tmp_path):
    files = {"items_bought.csv": "user,item,timestamp\n1,a,5\n", "catalogue.csv": "sku;name\na;Pen\n"}
    for place in (write(tmp_path, files), f"{tmp_path}/catalogue.csv, {tmp_path}/items_bought.csv"):
        log = load_dataset(place)
        assert log.items["title"].tolist() == ["Pen"] and log.user_ids.tolist() == ["1"]


@pytest.mark.parametrize(("text", "encoding", "said"), [
    ("Café", "utf-8", None), ("Café", "latin-1", "Latin-1"), ("Café’s", "cp1252", "Windows-1252"),
])  # fmt: skip
def test_an_encoding_that_is_no_utf8_is_said_to_be_a_guess(tmp_path, capsys, text, encoding, said):
    files = {"a.csv": "user,item,timestamp\n1,x,1600000000\n", "items.csv": f"item,title\nx,{text}\n".encode(encoding)}
    assert load_dataset(write(tmp_path, files)).items["title"].tolist() == [text]
    out = capsys.readouterr().out
    assert f"A guess: items.csv is not UTF-8 and taken as {said}" in out if said else "uess" not in out


def test_what_is_left_out_of_a_published_format_is_counted(tmp_path, capsys):
    files = RECBOLE | {"ml.item": RECBOLE["ml.item"].replace("James, Jim", "")}
    log = load_dataset(write(tmp_path, files))
    assert len(log.interactions) == 2 and log.reading["of an item that is unknown or has no title"] == 1
    assert "3 rows, 1 left out" in capsys.readouterr().out


def test_a_year_that_is_a_word_is_empty_and_said_where_it_is_so_published(tmp_path, capsys):
    """As RecBole's ml-100k has one; in a table of one's own it is an error."""
    items = RECBOLE["ml.item"].replace("1975", "unkonwn")
    log = load_dataset(write(tmp_path, RECBOLE | {"ml.item": items}))
    assert np.isnan(log.items["year"][0]) and log.items["year"][1] == 1996
    assert "A guess: year is no number for 1 items, such as 'unkonwn'" in capsys.readouterr().out
    (tmp_path / "ml.item").write_text(items.replace(":token_seq", "").replace(":token", ""))
    with pytest.raises(UserError, match="year is not a number"):
        load_dataset(str(tmp_path))


def test_atomic_items_without_titles_have_their_ids(tmp_path, capsys):
    files = RECBOLE | {"ml.item": 'item_id:token\tclass:token_seq\n1193\tDrama\n661\t"War\n'}
    log = load_dataset(write(tmp_path, files))
    assert log.items["title"].tolist() == ["1193", "661"] and log.items["categories"].tolist() == [
        ("Drama",),
        ('"War',),
    ]
    assert "ml.item has no titles" in capsys.readouterr().out


@pytest.mark.fault("malformed files", "own files")
@pytest.mark.parametrize(("files", "said"), [
    ({"a.csv": "1,2,3\n4,5,6\n"}, "first line holds numbers and no names of columns"),
    ({"a.csv": "user,item\n1,2\n"}, "the interactions need one column 'timestamp'; they have user, item."),
    ({"a.csv": "client,customer,member,item,time\n1,1,1,2,3\n"}, "they have .*, and customer and member may be it"),
    ({"a.csv": "user,item,time\n1,2,3,4\n1,2,3,4\n"}, "a.csv cannot be read .*more fields than the header"),
    ({"a.csv": "user,item,time\n1,2,3\n1,2,3,4\n"}, "a.csv cannot be read .*line 3"),
    ({"a.csv": "user,item,time\n1,2,\n"}, "timestamp is empty in row 0 of the interactions"),
    ({"a.csv": "user,item,time\n1,2,03/04/2020\n1,3,05/06/2020\n"}, "'03/04/2020' in row 0 .*day or with the month"),
    ({"a.csv": "user,item,time\n1,2,13/04/2020\n1,3,05/16/2020\n"}, "some with the month, see rows 0 and 1"),
    ({"a.csv": "user,item,time\n1,2,13/04/2020\n1,3,31/02/2020\n"}, "timestamp '31/02/2020' in row 1"),
    ({"a.csv": "user,item,time\n1,2,13/04/20\n"}, "timestamp '13/04/20' in row 0"),
    ({"a.csv": "user,item,time\n1,2,13/04/2020\n1,3,2020-04-15\n"}, "timestamp '2020-04-15' in row 1"),
    ({"a.csv": "user,item,time\n1,2,1600000000\n1,3,1600000000000000\n"}, "in seconds and in microseconds.*0 and 1"),
    ({"a.csv": "user;item;time;rating\n1;2;3;1,299\n"}, "rating is not a number"),
    ({"a.csv": b"user,item,time\n1,2,3\n\0"}, "a.csv cannot be read .*NUL"),
    ({"a.csv": 'user,item,time\n1,"2,3\n'}, "a.csv cannot be read .*EOF inside string"),
    ({"a.csv.gz": b"user", "b.csv": "x"}, "it has a.csv.gz, b.csv"),
    ({"a.jsonl": '{"user": 1, "item": 2, "time": 3}\n{"user": 1, "it\n'}, "a.jsonl cannot be read .line 2 is not one"),
    ({"a.jsonl": '{"user": 1, "item": [2], "time": 3}\n'}, "item_id in row 0 of a.jsonl is not one value"),
    ({"a.json": '[{"user": 1, "item": 2, "time": 3}]'}, "line 1 is not one JSON object"),
    ({"a.dat": "user::item::time\n1::2::3::4\n"}, "a.dat cannot be read .line 2 has 4 fields where 3"),
    ({"a.csv": "user,item,time\n1,x,5\n", "items.csv": 'item,title\nx,"A\ny,B\nz,"C"\n'}, "quotation mark before it"),
    ({"a.csv": "user,item,time\n1,x,5\n", "b.csv": "user,item,time\n1,y,5\n"}, "must be .*it has a.csv, b.csv"),
    ({"a.csv": "user,item,time\n1,x,5\n", "items.csv": "item,title\ny,B\n"}, "item 'x' in row 0 .* not among"),
    ({"a.zip": b"PK\3\4 cut"}, "a.zip cannot be read"),
    ({"a.zip": zipped({"paper.pdf": "x"})}, "none of such a kind"),
    ({"a.zip": zipped({"x/a.csv": "user,item,time\n1,x,5\n", "y/a.csv": "user,item,time\n"})}, "it has a.csv, a.csv"),
    ({"r.csv": "B000000001,B000000002,5.0,1600000000\n"}, "need one column 'user'"),
])  # fmt: skip
def test_what_cannot_be_read_is_told_in_one_sentence(tmp_path, files, said):
    """Refused with the file and the row or the column."""
    with pytest.raises(UserError, match=said) as error:
        load_files(write(tmp_path, files))
    assert "\n" not in str(error.value) and str(error.value).endswith(".") and str(tmp_path) in str(error.value)


def test_control_characters_of_a_file_reach_no_sentence_and_no_line(tmp_path, capsys):
    bad, fine = "\x1b[31muser,item,\x1b]0;x\n1,2,3\n", "\x07user,item,time\n1,2,1600000000\n"
    write(tmp_path, {"a.csv": bad, "b.csv": fine})
    with pytest.raises(UserError, match="need one column 'user'") as error:
        load_files(str(tmp_path / "a.csv"))
    load_files(str(tmp_path / "b.csv"))
    assert (str(error.value) + capsys.readouterr().out.strip()).isprintable()


def test_short_rows_and_odd_times_are_said_to_be_guesses(tmp_path, capsys):
    load_dataset(write(tmp_path, {"a.csv": "user,item,time,rating\n1,2,3\n1,3,4,5\n"}))
    said = capsys.readouterr().out
    assert "Guesses: " in said and "the first in line 2" in said and "between 1970-01-01 and 1970-01-01" in said


def test_no_path_of_an_archive_becomes_a_path_here(tmp_path, monkeypatch):
    """Members that point outside are read as data, and nothing but the archive is there afterwards."""
    scratch, home = tmp_path / "scratch", tmp_path / "home"
    scratch.mkdir()
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    content = zipped({"../../evil.csv": "user,item,time\n1,x,1600000000\n", "/abs/items.csv": "item,title\nx,X\n"}, "")
    write(home, {"a.zip": content})
    assert load_dataset(str(home / "a.zip")).items["title"].tolist() == ["X"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip", "home", "scratch"]


def test_an_archive_that_does_not_fit_on_the_disk_is_refused(tmp_path, monkeypatch):
    write(tmp_path, {"a.zip": zipped({"a.csv": "user,item,time\n"})})
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 3})())
    with pytest.raises(UserError, match="GB free and .* are to come out of .*TMPDIR"):
        load_dataset(str(tmp_path))


TEXT = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), min_size=1, max_size=8).filter(
    lambda text: text.strip() == text)  # fmt: skip
LOGS = st.lists(st.tuples(TEXT, TEXT, st.sampled_from([1.0, 2.5, np.nan]), st.integers(10**9, 2 * 10**9)),
                min_size=1, max_size=12)  # fmt: skip


@settings(max_examples=60)
@given(LOGS, st.sampled_from(",;\t|"), st.sampled_from(["utf-8", "latin-1"]), st.sampled_from([1, 10**3, 10**6, 10**9]),
       st.randoms())  # fmt: skip
def test_a_log_is_the_same_through_any_separator_encoding_unit_and_order(drawn, separator, encoding, unit, rng):
    frame = pd.DataFrame(drawn, columns=["user", "item", "rating", "timestamp"])
    items = pd.DataFrame({"item": sorted(set(frame["item"]))}).assign(title=lambda table: "t" + table["item"])
    expected = from_frames(frame, items)
    order = rng.sample(range(len(frame)), len(frame))
    with tempfile.TemporaryDirectory() as folder:
        for name, table in (("a.csv", frame.assign(timestamp=frame["timestamp"] * unit).iloc[order]),
                            ("b.csv", items.iloc[::-1])):  # fmt: skip
            table.to_csv(Path(folder, name), sep=separator, index=False, encoding=encoding)
            content = Path(folder, name).read_bytes()
            if encoding == "latin-1" and not content.isascii() and _is_utf8(content):
                return  # nobody can tell
        log = load_dataset(folder)
    assert log.digest() == expected.digest()
    pd.testing.assert_frame_equal(log.items, expected.items)


def _is_utf8(content):
    try:
        return bool(content.decode())
    except UnicodeDecodeError:
        return False


@settings(max_examples=80)
@given(
    st.lists(st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)), min_size=1, max_size=6),
    st.sampled_from(["%d/%m/%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p", "%d.%m.%Y", "%m-%d-%Y %H:%M", "%Y/%m/%d %H:%M"]),
)
def test_dates_are_read_in_the_one_order_that_is_possible_or_refused(moments, form):
    """The other order is tried by the standard library: where it gives other moments, there must be a refusal."""
    texts = [moment.strftime(form) for moment in moments]
    other = form.replace("%d", "%_").replace("%m", "%d").replace("%_", "%m")

    def parsed(form):
        try:
            return [int(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()) for text in texts]
        except ValueError:
            return None

    expected, swapped = parsed(form), None if form.startswith("%Y") else parsed(other)
    if swapped in (None, expected):
        assert to_seconds("x", pd.Series(texts))[0].tolist() == expected
    else:
        with pytest.raises(UserError, match="may begin with the day"):
            to_seconds("x", pd.Series(texts))


@settings(max_examples=60)
@given(st.lists(st.integers(10**8, 4 * 10**9), min_size=1, max_size=5), st.integers(0, 3), st.booleans())
def test_the_unit_follows_from_the_size_and_must_be_one(seconds, power, mixed):
    unit = 1000**power
    numbers = [second * unit + unit - 1 for second in seconds]
    if mixed:
        numbers.append(seconds[0] * (1000 if power != 1 else 1))
        with pytest.raises(UserError, match="seconds, see rows \\d+ and \\d+") as error:
            to_seconds("x", pd.Series(numbers))
        assert str(len(seconds)) in str(error.value)
    else:
        found, how = to_seconds("x", pd.Series(numbers))
        assert found.tolist() == seconds
        assert how == ["seconds", "milliseconds", "microseconds", "nanoseconds"][power]


@pytest.mark.parametrize("values", [[10**400, 5], ["1e30"], ["2020-13-01"], ["soon"]])
def test_numbers_and_words_that_are_no_time_are_refused_with_the_row(values):
    with pytest.raises(UserError, match="in row 0 of the interactions is neither"):
        to_seconds("x", pd.Series(values, dtype=object))


def test_other_ids_for_the_items_change_nothing_but_the_ids(tmp_path):
    rng = random.Random(0)
    drawn = [(f"u{rng.randrange(9)}", rng.randrange(30), SECOND + k) for k in range(200)]
    names = rng.sample(range(1000, 2000), 30)
    found = []
    for name, ids in (("a", range(30)), ("b", names)):
        (tmp_path / name).mkdir()
        table = [(user, ids[item], second) for user, item, second in drawn]
        log = load_dataset(write(tmp_path / name, {
            "log.csv": "user,item,time\n" + lines(table, ","),
            "items.csv": "item,title\n" + lines([(ids[k], f"T{k}") for k in range(30)], ","),
        }))  # fmt: skip
        titles = log.items["title"].to_numpy()[log.interactions["item"]]
        found.append((log.user_ids[log.interactions["user"]].tolist(), titles.tolist()))
    assert found[0] == found[1]
