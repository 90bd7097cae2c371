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


def test_several_targets_follow_each_other_in_training_alone(split_of, contexts):
    split = split_of([[5, 3, 8, 4, 1, 0], [7, 2, 6]])
    task = Retrieval(history_length=2, targets=2)
    found = [
        (s.slots["history"], s.slots["target"]) for s in contexts(task, split.view(Part.TRAIN))
    ]
    assert found == [([5], [3, 8]), ([5, 3], [8, 4]), ([3, 8], [4])]
    [one, _] = contexts(task, split.view(Part.TEST))
    assert (one.slots["history"], one.slots["target"], one.target) == ([4, 1], [0], 0)
