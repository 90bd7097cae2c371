import pytest

from recinject.foundation.errors import RecinjectError, did_you_mean


def test_an_error_says_what_is_wrong_and_how_to_mend_it():
    error = RecinjectError("log.csv: no column 'user'", hint="set data.columns.user_id")
    assert str(error) == "log.csv: no column 'user'\n  fix: set data.columns.user_id"
    assert (error.message, error.hint) == error.args


@pytest.mark.parametrize(
    ("name", "legal", "answer"),
    [
        ("histroy", ["history", "target"], "did you mean 'history'? Legal: history, target"),
        (
            ["targt", "xyz", "hist"],
            ["history", "target"],
            "did you mean 'target' and 'history'? Legal: history, target",
        ),
        ("xyz", ["target", "history"], "Legal: history, target"),
        ("xyz", [], "Legal: none"),
        ("a", iter(["b", "a"]), "did you mean 'a'? Legal: a, b"),
    ],
)
def test_the_nearest_legal_name_is_offered(name, legal, answer):
    assert did_you_mean(name, legal) == answer
