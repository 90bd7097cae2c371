import pytest

from recinject.data.splitting import Part
from recinject.foundation.errors import RecinjectError
from recinject.tasks.registry import TASKS, task_type


def test_tasks_go_by_their_name():
    assert all(task_type(name).name == name for name in TASKS)
    assert [name for name, task in TASKS.items() if task.needs_ratings] == ["rating"]
    assert {name for name, task in TASKS.items() if Part.TEST in task.parts} == {
        "retrieval",
        "ranking",
        "rating",
    }


def test_an_unknown_task_is_refused_with_the_nearest():
    with pytest.raises(RecinjectError, match=r"samples.tasks: unknown.*\n.*mean 'retrieval'"):
        task_type("retreival")
