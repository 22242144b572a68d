import os

import torch

from convergent_utils.paper.pool import workers


def seen(name):
    return os.environ[name], os.environ["OMP_NUM_THREADS"], torch.get_num_threads()


def test_workers_have_one_thread_and_the_environment_of_the_moment(monkeypatch):
    """They may be forked from a process that is older than the environment."""
    for value in ("first", "second"):
        monkeypatch.setenv("CONVERGENT_PROBE", value)
        with workers(1) as pool:
            assert pool.submit(seen, "CONVERGENT_PROBE").result(120) == (value, "1", 1)


_given: list[object] = []


def take(*values):
    _given.extend(values)


def given():
    return _given


def test_workers_are_set_up_before_their_first_job():
    with workers(1, start=take, arguments=("a", 2)) as pool:
        assert pool.submit(given).result(120) == ["a", 2]
    assert _given == [], "in a process of its own"
