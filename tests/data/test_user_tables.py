"""Tables of users lie beside a log, stay with it through cleaning, and are stored with the data."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recinject as ri
from recinject.data.cleaning import clean
from recinject.data.readers import hash_log
from recinject.foundation.errors import RecinjectError
from recinject.identifiers.data import Groups

ITEMS = "".join(f"{n}|T{n}|01-Jan-1995||url|{'|'.join('0' * 19)}\n" for n in range(1, 4))
FORMS = {
    "100k": {
        "u.data": "7\t1\t5\t10\n7\t2\t4\t20\n9\t1\t3\t30\n",
        "u.item": ITEMS,
        "u.user": "9|24|M|technician|85711\n7|53|F|other|94043\n",
    },
    "1m": {
        "ratings.dat": "7::1::5::10\n7::2::4::20\n9::1::3::30\n",
        "movies.dat": "1::A::Drama\n2::B::Drama\n",
        "users.dat": "7::F::53::10::48067\n9::M::24::16::70072\n",
    },
    "recbole": {
        "recbole.inter": "user_id:token\titem_id:token\n7\t1\n7\t2\n9\t1\n",
        "recbole.user": "user_id:token\tage:token\tgender:token\n7\t53\tF\n9\t24\tM\n",
    },
}


@pytest.mark.parametrize("name", FORMS)
def test_a_table_of_users_is_found_beside_its_log(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for file, text in FORMS[name].items():
        (folder / file).write_text(text)
    log = ri.read_log(folder)
    assert log.users is not None
    assert log.users["user_id"].tolist() == ["7", "9"]
    assert log.users["gender"].tolist() == ["F", "M"]
    assert [int(age) for age in log.users["age"]] == [53, 24]
    assert any("known of users" in str(finding) for finding in log.findings)
    table = next(str(folder / file) for file in FORMS[name] if "user" in file)
    assert table in hash_log(folder, None, None, None, "")
    named = ri.read_log(folder / next(iter(FORMS[name])), users=table)
    assert named.users is not None and named.users["gender"].tolist() == ["F", "M"]


def test_users_stay_with_their_events_through_cleaning_and_splitting(tmp_path: Path) -> None:
    rows = [(user, item) for user in "abcd" for item in range(1 if user == "b" else 5)]
    users = pd.DataFrame({"user": ["d", "b", "a"], "plan": ["free", "paid", "paid"]})
    events = pd.DataFrame(rows, columns=["user", "item"])
    log = ri.Log.from_frame(events, users=users)
    cleaned, _ = clean(log, k_core=2)
    assert cleaned.users is not None and cleaned.users["user_id"].tolist() == ["a", "c", "d"]
    data = ri.prepare(log, k_core=2)
    assert data.attributes == ["plan"]
    groups = data.group_users("plan")
    assert list(groups.names) == ["free", "paid"] and groups.of_user.tolist() == [1, -1, 0]
    data.save(tmp_path / "data")
    pd.testing.assert_frame_equal(ri.Data.load(tmp_path / "data").users, data.users)
    with pytest.raises(RecinjectError, match="the log knows of users no 'plam'") as found:
        data.group_users("plam")
    assert "plan" in found.value.hint


def test_many_numbers_are_cut_into_quarters_and_few_are_groups() -> None:
    ages = Groups.of("age", np.arange(40).astype(object))
    assert list(ages.names) == ["0 to 9", "10 to 19", "20 to 29", "30 to 39"]
    assert np.bincount(ages.of_user).tolist() == [10, 10, 10, 10]
    few = Groups.of("age", np.array(["1", "56", "", None], object))
    assert list(few.names) == ["1", "56"] and few.of_user.tolist() == [0, 1, -1, -1]
