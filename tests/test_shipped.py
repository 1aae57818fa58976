"""Borrowing a finished run: the folder itself stays as it is."""

import pytest

from agenticrec_lite.errors import UserError
from agenticrec_lite.experiment.shipped import SHIPPED, borrow


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="config.yaml"):
        borrow(tmp_path)


def test_a_run_whose_data_are_gone_leaves_no_copy(monkeypatch, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("dataset: nowhere\nprofile: nano\nseed: 0\n")
    (tmp_path / "run/result.json").write_text("{}")
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "copies"))
    with pytest.raises(UserError, match="nowhere"):
        borrow(tmp_path / "run")
    assert not list((tmp_path / "copies").iterdir())


@pytest.mark.skipif(not SHIPPED.exists(), reason="no run ships with this checkout")
def test_a_borrowed_run_leaves_the_folder_alone():
    before = {path: path.stat().st_mtime_ns for path in SHIPPED.rglob("*")}
    experiment = borrow()
    assert experiment.run.done("rta") and experiment.run.folder != SHIPPED
    experiment.run.mark("something")
    copy = experiment.run.folder
    experiment.run.write_result(n_test=1)
    del experiment
    assert {path: path.stat().st_mtime_ns for path in SHIPPED.rglob("*")} == before
    assert not copy.exists()
