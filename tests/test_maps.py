"""What notebook 08 reads: maps of more and more freedom, shifted images, networks on their way, lines between them."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils.paper import maps, on_the_way, rungs, shifts


def acts_of(generator, n=4000, units=12):
    mixing = torch.randn(units, units, generator=generator, dtype=torch.float64)
    return (torch.randn(n, units, generator=generator, dtype=torch.float64) @ mixing).relu()


@pytest.fixture
def two(generator):
    """A network, and another that is a noisy linear map of it."""
    a = acts_of(generator)
    b = (a @ torch.randn(12, 12, generator=generator, dtype=torch.float64)).relu()
    return a, b + 0.5 * b.std() * torch.randn(b.shape, generator=generator, dtype=torch.float64)


def halves(a, b):
    return cu.pair_moments(a[::2], b[::2]), cu.pair_moments(a[1::2], b[1::2])


def test_the_score_is_the_correlation_of_units_with_what_is_predicted_of_them(two):
    a, b = two
    fit, held = halves(a, b)
    for name, mapping in rungs.rungs(fit).items():
        said = mapping.predict(a[1::2])[0]
        by_numpy = [
            np.corrcoef(said[:, k], b[1::2, k])[0, 1] if said[:, k].std() > 1e-9 else 0.0 for k in range(b.shape[1])
        ]
        assert rungs.predicted(mapping, held) == pytest.approx(np.mean(by_numpy), abs=1e-9), name


def test_more_freedom_predicts_more_on_the_images_of_the_fit(two):
    fit, _ = halves(*two)
    r2 = {name: float(mapping.r2.mean()) for name, mapping in rungs.rungs(fit).items()}
    order = ["natural order", "bipartite", "best unit", "five units", "linear"]
    assert all(r2[one] <= r2[other] + 1e-12 for one, other in pairwise(order))
    assert r2["best rotation"] <= r2["linear"] + 1e-12


def test_a_shuffled_network_is_found_by_every_rung_but_natural_order(generator):
    a = acts_of(generator)
    order = torch.randperm(12, generator=generator)
    found = rungs.ladder(*halves(a, 3 * a[:, order]), turns=2, seed=0)
    low = {"natural order", "bipartite, rotated", "best unit, rotated"}
    assert all(value == pytest.approx(1.0, abs=1e-6) for name, value in found.items() if name not in low)
    assert max(found[name] for name in low) < 0.95


def test_a_turned_network_is_its_own_null(generator):
    a = torch.linalg.qr(torch.randn(4000, 12, generator=generator, dtype=torch.float64))[0]
    b = a @ cu.random_rotation(12, seed=5)
    found = rungs.ladder(*halves(a, b), turns=20, seed=0)
    assert found["bipartite"] == pytest.approx(found["bipartite, rotated"], abs=0.1)
    assert found["best rotation"] == pytest.approx(1.0, abs=0.01)


def test_dead_units_are_nobodys(two):
    a, b = (side.clone() for side in two)
    a[:, 3], b[:, 5] = 0.0, 7.0
    found = rungs.ladder(*halves(a, b), turns=2, seed=0)
    assert all(0 <= value <= 1 for name, value in found.items() if name != "natural order")
    fit, _ = halves(a, b)
    drawn = rungs.drawn_in(cu.least_squares(fit), torch.full((12,), 0.5))
    assert torch.allclose(drawn.predict(a)[0][:, 5], torch.tensor(7.0).double())


# shifted images


def pictures(generator, n=30):
    return torch.randint(0, 256, (n, 28, 28, 1), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("shift", shifts.SHIFTS)
def test_shifted_images_are_images(generator, shift):
    images = pictures(generator)
    found = shifts.shifted(images, shift, seed=0)
    assert found.shape == images.shape
    assert found.dtype == torch.uint8
    assert torch.equal(found, shifts.shifted(images, shift, seed=0))
    assert torch.equal(found, images) == (shift == "as they are")


def test_what_shifts_do(generator):
    images = pictures(generator)

    def of(shift, given=images):
        return shifts.shifted(given, shift, seed=0)

    assert torch.equal(of("mirrored", of("mirrored")), images)
    assert torch.equal(of("inverted"), 255 - images)
    assert np.array_equal(of("on their side").numpy(), np.rot90(images.numpy(), axes=(1, 2)))
    for shift in ("pixels exchanged", "pixels exchanged nearby"):
        exchanged = of(shift).flatten(1)
        assert torch.equal(exchanged.sort(1).values, images.flatten(1).sort(1).values)
        where = torch.arange(28 * 28).view(1, 28, 28, 1) % 251
        order = of(shift, where.to(torch.uint8).expand(2, -1, -1, -1))
        assert torch.equal(order[0], order[1])  # the same exchange for all images
    near = of("pixels exchanged nearby", torch.eye(28, dtype=torch.uint8)[None, :, :, None] * 255)
    blocks = near.view(4, 7, 4, 7).sum((1, 3))
    assert torch.equal(blocks > 0, torch.eye(4, dtype=torch.bool))
    flat = torch.full_like(images, 90)
    assert torch.equal(of("blur of 5", flat), flat)
    assert (of("quarter contrast").float().mean((1, 2)) - images.float().mean((1, 2))).abs().max() < 0.5
    black = (of("occlusion of half", flat) == 0).flatten(1).sum(1)
    assert (black == 14 * 14).all()
    noise = of("noise of 25", torch.full_like(images, 128)).float() - 128
    assert float(noise.std()) == pytest.approx(25, rel=0.02)


# on their way


def test_directions_in_use_are_counted(generator):
    rows = torch.linalg.qr(torch.randn(500, 6, generator=generator, dtype=torch.float64))[0]
    rows = rows - rows.mean(0)
    alike = torch.linalg.qr(rows)[0]
    assert on_the_way.directions(cu.pair_moments(alike, alike)) == pytest.approx(6)
    one = alike * torch.tensor([1.0, 0, 0, 0, 0, 0])
    assert on_the_way.directions(cu.pair_moments(one, one)) == pytest.approx(1)
    assert on_the_way.directions(cu.pair_moments(0 * one, one)) == 0


def test_the_share_of_the_way():
    values = np.array([[0.2, 1.0], [0.6, 1.0], [1.0, 1.0]])
    assert np.allclose(on_the_way.share_of_way(values), [[0, 1], [0.5, 1], [1, 1]])


def test_weights_are_kept_after_the_shares_asked_for():
    data = cu.load_dataset("fashion-mnist", limit=256)
    network, seen = cu.build_network("alexnet-narrow", seed=0), {}

    def look(net, share):
        seen[round(share * 8)] = net.state_dict()["fc8.weight"].clone()

    options = {"recipe": cu.Recipe(epochs=2), "seed": 0, "intervene": look}
    found = cu.train(network, data, keep=(1 / 8, 0.625), **options)
    assert list(found.checkpoints) == [0.0, 1 / 8, 0.625, 1.0]
    for share in (1 / 8, 0.625):
        assert torch.equal(found.checkpoints[share]["fc8.weight"], seen[round(8 * share)])
    usual = cu.train(network, data, **options)
    assert list(usual.checkpoints) == [0.0, 0.35, 0.75, 1.0]
    assert torch.equal(usual.checkpoints[1.0]["fc8.weight"], found.checkpoints[1.0]["fc8.weight"])
    assert list(cu.train(network, data, keep=torch.tensor([0.5]), **options).checkpoints) == [0.0, 0.5, 1.0]
    for keep in (0.5, [1.5], ["x"], None):
        with pytest.raises(ValueError, match=r"^keep: expected shares"):
            cu.train(network, data, keep=keep, **options)


# lines


@pytest.fixture(scope="module")
def network():
    data = cu.load_dataset("fashion-mnist", limit=512)
    return cu.train(cu.build_network("alexnet-narrow", seed=1), data, cu.Recipe(epochs=2), seed=1).network.double()


def test_units_may_be_multiplied_if_those_that_read_them_divide(network, generator):
    scale = {
        layer: torch.rand(len(dict(network.named_children())[layer][0].weight), generator=generator) + 0.5
        for layer in network.layers[:-1]
    }
    images = torch.randn(20, 1, 28, 28, generator=generator, dtype=torch.float64)
    made = on_the_way.rescaled(network, scale)
    with torch.no_grad():
        assert torch.allclose(made(images), network(images), atol=1e-9)
        ours, theirs = (cu.split_after(net, "conv3")[0](images) for net in (made, network))
    assert torch.allclose(ours, theirs * scale["conv3"].double()[:, None, None], atol=1e-9)


def test_a_shuffled_and_rescaled_copy_lies_at_the_end_of_a_flat_line(network, generator):
    data = cu.load_dataset("fashion-mnist", split="test", limit=300)
    copy, _ = cu.permuted_copy(network, seed=3)
    sizes = {layer: len(dict(copy.named_children())[layer][0].weight) for layer in copy.layers[:-1]}
    copy = on_the_way.rescaled(copy, {k: torch.rand(n, generator=generator) + 0.5 for k, n in sizes.items()})
    measured = cu.measure({"a": network, "b": copy}, data.images, list(sizes), sample=16)
    pairs = {layer: measured.pair(f"a.{layer}", f"b.{layer}") for layer in sizes}
    order = {layer: on_the_way.partners(pair) for layer, pair in pairs.items()}
    assert all(len(index.unique()) == len(index) for index in order.values())
    matched = cu.with_units(copy, order, width=copy.configuration["width"])
    spread = {layer: on_the_way.spread_of(pair, order[layer]) for layer, pair in pairs.items()}
    same = on_the_way.rescaled(matched, spread)
    barriers = [on_the_way.barrier(on_the_way.losses_between(network, end, data)) for end in (copy, matched, same)]
    assert barriers[2] == pytest.approx(0, abs=1e-3)
    assert barriers[0] > 10 * max(barriers[1], 1e-3)


def test_a_barrier_is_the_rise_above_the_straight_line():
    assert on_the_way.barrier(torch.linspace(1, 2, 11, dtype=torch.float64)) == pytest.approx(0, abs=1e-12)
    assert on_the_way.barrier(torch.tensor([1.0, 5.0, 2.0]).double()) == pytest.approx(3.5)


# around the circle


def test_an_interval_around_the_circle_leaves_a_network_out_with_both_its_pairs():
    names = ["net1", "net2", "net3", "net4"]
    values = {pair: float(k) for k, pair in enumerate(zip(names, [*names[1:], "net1"], strict=True))}
    found = maps.over_circle(values, names)
    assert found.estimate == pytest.approx(1.5)
    without = sorted(found.without[0])
    assert without == pytest.approx(sorted([(1 + 2) / 2, (2 + 3) / 2, (3 + 0) / 2, (0 + 1) / 2]))
    assert list(maps.around(names[:3])) == [
        ("net1", "net2"), ("net2", "net1"), ("net2", "net3"), ("net3", "net2"), ("net3", "net1"), ("net1", "net3"),
    ]  # fmt: skip


def test_a_rank_correlation_of_what_does_not_vary_is_none():
    assert maps.rank_correlation([1, 2, 3], [5, 5, 5]) == 0
    assert maps.rank_correlation([1, 2, 3], [1, 4, 9]) == pytest.approx(1)


def test_from_the_layer_on_a_stitched_network_says_what_the_whole_one_says(network, generator):
    images = torch.randn(300, 1, 28, 28, generator=generator, dtype=torch.float64)
    seen = maps.after_each(network, network.layers, images)
    for layer in ("conv1", "conv4", "fc6"):
        with cu.record(network, layer, positions="all") as rows, torch.no_grad():
            network(images)
        acts = seen[layer]
        flat = acts.permute(0, 2, 3, 1).flatten(0, 2) if acts.ndim == 4 else acts
        assert torch.allclose(flat, rows[layer].to(flat), atol=1e-6)
        fitted = cu.best_subset_mapping(cu.pair_moments(flat, flat.flip(1)), 1)
        whole = cu.stitched(network, network, layer, fitted)
        with torch.no_grad():
            assert torch.equal(maps.said_from(whole, acts, images), whole(images).argmax(1))
