import math

import numpy as np
import pytest
import torch

import convergent_utils as cu


def similar(a, b):
    return cu.linear_cka(cu.pair_moments(a, b))


def quick(a, b):
    """The same, of few samples in less time."""
    a, b = a - a.mean(0), b - b.mean(0)
    return (a.T @ b).square().sum() / (a.T @ a).norm() / (b.T @ b).norm()


def strangers(generator, samples=60, widths=(3, 8, 5)):
    return [torch.randn(samples, units, generator=generator) for units in widths]


def test_it_is_its_definition(generator):
    layers_a, layers_b = strangers(generator), strangers(generator, widths=(6, 4))
    layers_b[1] = layers_b[1] + layers_a[1][:, :4]
    for alpha, n_shuffles, limit in ((0.05, 19, 1.0), (0.2, 37, 2.0), (0.3, 1, 1.0)):
        options = {"alpha": alpha, "n_shuffles": n_shuffles, "seed": 3}
        found = cu.calibrated_map(similar, layers_a, layers_b, limit=limit, **options)
        one = np.array([[float(similar(a, b)) for b in layers_b] for a in layers_a])
        orders, largest = torch.Generator().manual_seed(3), []
        for _ in range(n_shuffles):
            order = torch.randperm(60, generator=orders)
            largest.append(max(float(similar(a, b[order])) for a in layers_a for b in layers_b))
        tau = sorted([one.max(), *largest])[math.ceil(round((1 - alpha) * (n_shuffles + 1), 9)) - 1]
        np.testing.assert_allclose(found.observed, one, atol=1e-12)
        np.testing.assert_allclose(found.null_max, largest, atol=1e-12)
        assert float(found.tau) == pytest.approx(tau, abs=1e-12)
        np.testing.assert_allclose(found.score, np.maximum(0, (one - tau) / (limit - tau)), atol=1e-12)
        reached = [[sum(value >= s for value in largest) for s in row] for row in one]
        np.testing.assert_allclose(found.p_value, (1 + np.array(reached)) / (1 + n_shuffles))


@pytest.mark.parametrize("limit", [1.0, 0.3, 1e-3])
def test_one_layer_of_each_is_chance_calibrated(generator, limit):
    a = torch.randn(80, 5, generator=generator)
    for b in (a + torch.randn(80, 5, generator=generator), torch.randn(80, 7, generator=generator)):
        for options in ({}, {"images": torch.arange(20).repeat_interleave(4)}, {"places": torch.arange(80) % 4}):
            options = {**options, "n_shuffles": 39, "seed": 5}
            chance = cu.chance_level(similar, a, b, **options)
            found = cu.calibrated_map(similar, {"a": a}, {"b": b}, limit=limit, alpha=0.1, **options)
            assert torch.equal(found.score[0, 0], chance.calibrated(limit, alpha=0.1))
            assert torch.equal(found.p_value[0, 0], chance.p_value)
            assert torch.equal(found.null_max, chance.null)


def test_in_strange_nets_no_score_is_above_0_but_in_one_of_twenty(generator):
    """While thresholds for each two layers are passed somewhere in the map far more often."""
    silent, one_by_one = 0, 0
    for seed in range(100):
        layers_a, layers_b = strangers(generator, 30), strangers(generator, 30)
        found = cu.calibrated_map(quick, layers_a, layers_b, n_shuffles=19, seed=seed)
        none = bool((found.score == 0).all())
        assert none == bool(found.p_value.min() > 0.05)
        silent += none
        levels = [cu.chance_level(quick, a, b, n_shuffles=19, seed=seed) for a in layers_a for b in layers_b]
        one_by_one += all(level.p_value > 0.05 for level in levels)
    assert 89 <= silent <= 100
    assert one_by_one < 80


@pytest.mark.parametrize("kind", ["by name", "in a list"])
def test_planted_layers_are_found_and_no_others(generator, kind):
    layers_a, layers_b = strangers(generator, 200), strangers(generator, 200, widths=(6, 9, 2, 12))
    layers_b[2] = layers_a[1] @ torch.randn(8, 2, generator=generator)
    layers_b[3][:, :3] = 3 * layers_a[0]
    if kind == "by name":
        layers_a, layers_b = dict(zip("abc", layers_a, strict=True)), dict(zip("zyxw", layers_b, strict=True))
    found = cu.calibrated_map(similar, layers_a, layers_b, n_shuffles=39)
    assert found.score.nonzero().tolist() == [[0, 3], [1, 2]]
    assert (found.p_value <= 0.05).nonzero().tolist() == [[0, 3], [1, 2]]
    assert found.p_value.min() == 1 / 40
    assert (found.score <= 1).all()
    itself = cu.calibrated_map(similar, layers_a, layers_a)
    assert torch.allclose(itself.score, torch.eye(3, dtype=torch.float64), atol=1e-9)


def test_all_layers_are_shuffled_alike_and_images_keep_their_places(generator):
    images, rows = torch.arange(30).repeat_interleave(2), torch.arange(60.0)[:, None]
    seen = []

    def noted(x, y):
        seen.append(y[:, 0].tolist())
        return 0.0

    cu.calibrated_map(noted, [rows, rows], [rows, rows.repeat(1, 2)], images=images, n_shuffles=6)
    assert len(seen) == 4 * 7
    for k in range(7):
        first, *others = seen[4 * k : 4 * k + 4]
        assert all(other == first for other in others)
        assert all(even % 2 == 0 and odd == even + 1 for even, odd in zip(first[::2], first[1::2], strict=True))
    assert len({tuple(order) for order in seen}) == 7


def test_a_layout_that_all_images_share_is_no_likeness(generator):
    layout, images = torch.randn(4, 6, generator=generator).repeat(50, 1), torch.arange(50).repeat_interleave(4)
    layers_a, layers_b = ([layout[:, :u] + torch.randn(200, u, generator=generator) for u in (4, 6)] for _ in "ab")
    assert (cu.calibrated_map(similar, layers_a, layers_b).score > 0).all()
    for kept in ({"images": images}, {"places": torch.arange(4).repeat(50)}):
        found = cu.calibrated_map(similar, layers_a, layers_b, n_shuffles=39, **kept)
        assert found.p_value.min() > 0.05
        assert (found.score == 0).all()


def test_what_no_shuffle_can_change_is_no_likeness(generator):
    a = strangers(generator)
    for value in (0.0, 1.0, -0.4, torch.tensor(0.25), np.float32(0.5)):
        found = cu.calibrated_map(lambda x, y, value=value: value, a, a)
        assert (found.p_value == 1).all()
        assert (found.score == 0).all()
    dead = [torch.ones(60, 3), torch.zeros(60, 2)]
    assert (cu.calibrated_map(similar, a, dead).score == 0).all()
    few = cu.calibrated_map(similar, a, a, n_shuffles=5)
    assert (few.score == 0).all(), "five shuffles cannot say one in twenty"


def test_numbers_of_any_scale(generator):
    a, b = strangers(generator), strangers(generator)
    b[0] = a[0]
    right = cu.calibrated_map(similar, a, b)
    for power in (2.0**-900, 2.0**900):
        found = cu.calibrated_map(lambda x, y, power=power: similar(x, y) * power, a, b, limit=power)
        assert torch.equal(found.score, right.score)
        assert torch.equal(found.tau, right.tau * power)
        assert torch.equal(found.p_value, right.p_value)


def test_mistakes_are_one_sentence(generator):
    a, b = strangers(generator), strangers(generator)
    for asked, said in [
        (lambda: cu.calibrated_map("cka", a, b), "similarity: expected a function"),
        (lambda: cu.calibrated_map(similar, a[0], b), "layers_a: expected layers by name or in a list, .*is .acts."),
        (lambda: cu.calibrated_map(similar, a, []), "layers_b: expected at least one layer"),
        (lambda: cu.calibrated_map(similar, {"one": a[0], "two": 3}, b), "layers_a: 'two': expected a float tensor"),
        (lambda: cu.calibrated_map(similar, a, [b[0], b[1][:9]]), "layers_b: expected 60 samples .*, got 9"),
        (lambda: cu.calibrated_map(similar, [a[0][:1]], [b[0][:1]]), "layers_a: expected at least 2 samples, got 1"),
        (lambda: cu.calibrated_map(similar, a, [b[0] * math.nan]), "layers_b: layer 0: expected finite"),
        (lambda: cu.calibrated_map(similar, {3: a[0]}, b), "layers_a: expected activations by name"),
        (lambda: cu.calibrated_map(lambda x, y: x[0], a, b), "similarity: expected one number for two layers"),
        (lambda: cu.calibrated_map(lambda x, y: math.nan, a, b), "similarity: expected finite"),
        (lambda: cu.calibrated_map(similar, a, b, alpha=1), "alpha: expected a share"),
        (lambda: cu.calibrated_map(similar, a, b, limit=math.inf), "limit: expected a finite number"),
        (lambda: cu.calibrated_map(similar, a, b, n_shuffles=0), "n_shuffles: expected"),
        (lambda: cu.calibrated_map(similar, a, b, images=[0] * 59 + [1]), "images: expected equally many"),
        (lambda: cu.calibrated_map(similar, a, b, images=range(60), places=range(60)), "places: expected images or"),
    ]:
        with pytest.raises(ValueError, match=f"^{said}") as error:
            asked()
        assert len(str(error.value)) <= 300
