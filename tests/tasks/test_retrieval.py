import pytest

from recinject.data.splitting import Part
from recinject.tasks.task import Retrieval


@pytest.mark.parametrize(
    ("part", "samples"),
    [
        (Part.TRAIN, [([5], 3), ([5, 3], 8)]),
        (Part.VALIDATION, [([3, 8], 1)]),
        (Part.TEST, [([8, 1], 0)]),
    ],
)
def test_histories_and_targets_of_a_small_log(split_of, contexts, part, samples):
    view = split_of([[5, 3, 8, 1, 0]]).view(part)
    found = contexts(Retrieval(history_length=2), view)
    assert [(sample.slots["history"], sample.target) for sample in found] == samples
