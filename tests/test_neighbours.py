import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils.kernels import neighbours


def by_definition(a, b, k):
    """From all differences of rows of length 1; of those as far but for rounding, the earlier."""
    near = []
    for acts in (a, b):
        rows = acts.numpy().astype(np.float64)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = (rows / np.where(length > 0, length, 1)).astype(np.longdouble)
        distance = np.stack([((rows - row) ** 2).sum(1) for row in rows])
        np.fill_diagonal(distance, np.inf)
        found = []
        for line in distance:
            furthest = np.sort(line)[k - 1]
            nearer = set(np.flatnonzero(line < furthest * (1 - 2.0**-40)))
            as_far = [j for j in np.flatnonzero(abs(line - furthest) <= furthest * 2.0**-40) if j not in nearer]
            found.append(nearer | set(as_far[: k - len(nearer)]))
        near.append(found)
    return np.mean([len(x & y) / k for x, y in zip(*near, strict=True)])


def changed(kind, acts):
    """Activations in which many samples are as far, are in one place, or seem so in float32."""
    acts = acts.clone()
    if kind == "binary":
        return (acts > 0).to(acts)
    if kind == "rounded":
        return (2 * acts).round()
    if kind == "half are zero":
        acts[::2] = 0
    if kind == "a third in one place":
        acts[::3] = acts[0]
    if kind == "in pairs":
        acts[1::2] = acts[::2]
    if kind == "one far away":
        acts[:, 0] += 50
        acts[5, 0] = -50
    if kind == "nearly in one place":
        return 1 + 1e-9 * acts.double()
    if kind == "two heaps":
        acts = acts.double() * 1e-6
        acts[::2, 0] += 1
        acts[1::2, 1] += 1
    if kind == "of any length":
        return acts * torch.exp2(torch.linspace(-90, 90, len(acts)).round())[:, None]
    return acts


KINDS = ["ordinary", "binary", "rounded", "half are zero", "a third in one place", "in pairs", "one far away",
         "nearly in one place", "two heaps", "of any length"]  # fmt: skip


@pytest.mark.parametrize("k", [1, 6, 40, 159])
@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_are_those_by_definition_also_where_float32_cannot_tell(kind, k, generator):
    a = torch.randn(160, 12, generator=generator)
    b = a[:, :8] + torch.randn(160, 8, generator=generator)
    a, b = changed(kind, a), changed(kind, b)
    assert float(cu.mutual_knn(a, b, k=k)) == pytest.approx(by_definition(a, b, k), abs=1e-12)


def test_two_samples_are_each_others_neighbours():
    assert cu.mutual_knn(torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[1.0], [-1]]), k=1) == 1


def test_each_way_to_decide_is_taken_and_gives_the_same(generator, monkeypatch):
    """In float32 for certain, by distances in float64 of those in doubt, and by those of all."""
    taken, a = {"_decided": 0, "_nearest_of_all": 0}, torch.randn(300, 64, generator=generator)
    b = a + torch.randn(300, 64, generator=generator)
    a[:60] = 0

    def counted(name, called):
        def decide(acts, index, *rest):
            taken[name] += len(index)
            return called(acts, index, *rest)

        return decide

    for name in taken:
        monkeypatch.setattr(neighbours, name, counted(name, getattr(neighbours, name)))
    right = cu.mutual_knn(a, b, k=10)
    assert 0 < taken["_decided"] < 300
    assert 200 < taken["_nearest_of_all"] <= 300
    rough = neighbours._rough
    monkeypatch.setattr(neighbours, "_rough", lambda acts: (*rough(acts)[:2], 0 * rough(acts)[2] + 1e9))  # all in doubt
    taken.update(_nearest_of_all=0)
    assert cu.mutual_knn(a, b, k=10) == right
    assert taken["_nearest_of_all"] == 600
    monkeypatch.setattr(neighbours, "_MORE", 300)
    assert cu.mutual_knn(a, b, k=10) == right
    assert taken["_nearest_of_all"] == 600, "all were candidates"
    assert float(right) == pytest.approx(by_definition(a, b, 10), abs=1e-12)


@pytest.mark.parametrize("units", [3, 64, 700])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-12])
def test_what_is_in_doubt_is_never_less_than_what_float32_gets_wrong(units, spread, generator):
    acts = 1 + spread * torch.randn(200, units, generator=generator, dtype=torch.float64)
    acts[3] = -1
    rows, half, doubt = neighbours._rough(acts)
    assert rows.dtype == torch.float32
    unit = acts / acts.norm(dim=1, keepdim=True)
    centred = unit - unit.mean(0)
    centred = centred / cu.kernels.precision.power_of_two(centred.abs().amax())
    exact = centred.square().sum(1) / 2 - centred @ centred.T
    wrong = ((half - rows @ rows.T).double() - exact).abs().amax(1)
    assert (2 * wrong < doubt).all()
    assert (doubt < 1e-5 * units**0.5 * (exact.abs().amax() + 1) * units).all(), "and not much more"


def test_settings_of_the_caller_do_not_matter(generator):
    a, b = torch.randn(120, 16, generator=generator), torch.randn(120, 16, generator=generator)
    right = cu.mutual_knn(a, b, k=5)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert cu.mutual_knn(a.requires_grad_(), b, k=5) == right
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_are_multiples_of_each_other_are_as_near_as_equal_ones(dtype):
    multiples = torch.tensor([[1.0, 1], [3, 3], [5, 5]], dtype=dtype)
    assert cu.mutual_knn(multiples, torch.tensor([[1.0, 0], [0, 1], [1, 1]], dtype=dtype), k=1) == 0
    rows = torch.tensor([[1.0, 1], [1, 1], [1, 1], [0, 1]], dtype=dtype)
    assert cu.mutual_knn(rows, rows * torch.tensor([[1.0], [3], [1], [1]], dtype=dtype), k=1) == 1
