"""Work over shards, here, in processes and on Ray."""

import sys

import pytest

from recinject.engines import Engine, map_shards
from recinject.foundation.errors import RecinjectError


@pytest.mark.parametrize("workers", [1, 3])
def test_every_job_is_done_once_and_comes_with_its_result(workers):
    found = list(map_shards(pow, 3, range(5), Engine(workers=workers)))
    assert found == [(n, 3**n) for n in range(5)]
    assert list(map_shards(pow, 3, [], Engine(workers=workers))) == []


def test_ray_does_every_job_once_in_any_order(ray):
    assert sorted(map_shards(pow, 3, range(9), Engine("ray", 2))) == [(n, 3**n) for n in range(9)]
    assert list(map_shards(pow, 3, [], Engine("ray", 2))) == []


@pytest.mark.parametrize("engine", [Engine(), Engine(workers=2), Engine("ray", 2)])
def test_an_error_of_a_job_is_the_callers(engine, request):
    if engine.name == "ray":
        request.getfixturevalue("ray")
    with pytest.raises(ZeroDivisionError):
        list(map_shards(divmod, 3, [1, 2, 0], engine))


def test_gpus_that_a_cluster_lacks_are_refused(ray):
    with pytest.raises(RecinjectError, match="each worker should have 900 GPUs"):
        list(map_shards(pow, 3, [1], Engine("ray", 1, gpus=900)))


def test_without_ray_one_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RecinjectError, match=r"ray is not installed(.|\n)*recinject\[ray\]"):
        list(map_shards(pow, 3, [1], Engine("ray")))
