"""What 09_architectures reads, on networks whose likeness is known."""

import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils.making.store import Store
from convergent_utils.making.things import Shelf
from convergent_utils.nets.declared import Images, Measured, Shuffled
from convergent_utils.paper import architectures as kin
from convergent_utils.paper.networks import Setting

LAYERS = kin.blocks(8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A residual network, a shuffled copy and an unrelated one, measured."""
    shelf = Shelf(Store(tmp_path_factory.mktemp("store")))
    first, other = (kin.Deep("residual", 8, 1, 10, seed) for seed in (1, 2))
    networks = {"one 8 1": first, "copy 8 1": Shuffled(first, 3), "other 8 1": other}
    images = Images.of("fashion-mnist", "test", 200)
    options = {"sample": 256, "top": 1, "folds": 2}
    whole = Measured(tuple(networks.items()), images, LAYERS, **options)
    meet = (("one 8 1", "one 8 1"), ("one 8 1", "copy 8 1"), ("one 8 1", "other 8 1"))
    pairs = tuple((f"{a}.{x}", f"{b}.{y}") for a, b in meet for x in LAYERS for y in LAYERS if a != b or x < y)
    inside = Measured(tuple(networks.items()), images, LAYERS, pairs, "mean", **options)
    compared = kin.Compared(whole, LAYERS, turns=3, shuffles=19)
    maps = kin.LayerMaps(inside, LAYERS, meet)
    return {"whole": shelf(whole), "compared": shelf(compared), "inside": shelf(inside), "maps": shelf(maps)}


def test_untrained_networks_are_settled():
    """Behind every batch norm units have mean 0 and spread 1 on the images, and no weight is another."""
    start, images = kin.Deep("inception", 8, 1, 10, 4), Images.of("fashion-mnist", "test", 150)
    found, before, seen = kin.Settled(start, images).network(), start.network(), {}
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), before.parameters(), strict=True))
    assert not found.training
    for name, module in found.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.momentum == 0.1
            module.register_forward_hook(lambda _m, _i, output, name=name: seen.update({name: output.clone()}))
    with torch.no_grad():
        found(cu.normalise(images.load().images))
    assert len(seen) == 19
    for values in seen.values():
        torch.testing.assert_close(values.mean((0, 2, 3)), torch.zeros(values.shape[1]), rtol=0, atol=1e-3)
        torch.testing.assert_close(values.std((0, 2, 3)), torch.ones(values.shape[1]), rtol=0, atol=0.02)


def test_a_shuffled_copy_is_as_alike_as_can_be(made):
    found = made["compared"]
    assert tuple(found) == kin.SIMILARITIES
    for name, values in found.items():
        assert values.shape == (3, 3, len(LAYERS))
        assert torch.equal(values, values.transpose(0, 1)), name
        if name != "turned":
            torch.testing.assert_close(values[0, 1], torch.ones(len(LAYERS)).double(), rtol=0, atol=2e-3, msg=name)
            assert (values[0, 2] < 0.999).all(), name
    assert (found["turned"][0, 1] < found["matched"][0, 1] - 0.05).all()


def test_each_number_is_that_of_its_definition(made):
    """Against the public kernels, and against NumPy, of two unrelated networks."""
    a, b, whole = "one 8 1.block2", "other 8 1.block2", made["whole"]
    found = {name: float(values[0, 2, LAYERS.index("block2")]) for name, values in made["compared"].items()}
    pair, rows = whole.pair(a, b), [whole.sample(block).double() for block in (a, b)]
    r = cu.correlation(pair).matrix
    assert found["matched"] == pytest.approx(float(r.amax(0).mean() + r.amax(1).mean()) / 2)
    assert found["PWCCA"] == pytest.approx(float(cu.pwcca(pair).similarity + cu.pwcca(pair.swap()).similarity) / 2)
    assert found["k-NN"] == pytest.approx(float(cu.mutual_knn(*rows)))
    turns = [
        cu.correlation(cu.rotated(one, seed=k)).matrix.amax(1).mean() for k in range(3) for one in (pair, pair.swap())
    ]
    assert found["turned"] == pytest.approx(float(np.mean(turns)))
    x, y = (rows[k].numpy() - rows[k].numpy().mean(0) for k in (0, 1))
    cka = np.square(x.T @ y).sum() / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert 0 < found["CKA"] < cka < 1
    chance = cu.chance_level(lambda p, q: cu.linear_cka(cu.pair_moments(p, q)), *rows, n_shuffles=19)
    assert float(chance.observed) == pytest.approx(cka)
    assert found["CKA"] == pytest.approx(float(chance.calibrated()))
    there = cu.least_squares(whole.pair(a, b, fold=0)).r2_on(whole.pair(a, b, fold=1)).mean()
    back = cu.least_squares(whole.pair(b, a, fold=0)).r2_on(whole.pair(b, a, fold=1)).mean()
    assert found["linear R2"] == pytest.approx(float(there + back) / 2)


def test_maps_of_layers(made):
    of, inside = made["maps"], made["inside"]
    for name, values in of.items():
        own, copy, other = values
        assert torch.equal(own, own.T), name
        torch.testing.assert_close(own.diagonal(), torch.ones(len(LAYERS)).double())
        torch.testing.assert_close(own, copy, rtol=0, atol=2e-3, msg=name)
        assert kin.found_again(copy.numpy()) == 1, name
        assert (other < 1 - 1e-4).all(), name
    pair = inside.pair("one 8 1.block1", "other 8 1.block3")
    assert float(of["CKA"][2, 1, 3]) == pytest.approx(float(cu.linear_cka(pair)))
    assert float(of["SVCCA"][2, 1, 3]) == pytest.approx(float(cu.svcca(pair).similarity))
    assert kin.same_unit(inside.pair("one 8 1.stem", "one 8 1.block1"))[0] > 0.3, "the stream goes on"


def test_unit_i_with_unit_i():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(400, 5, generator=generator).double()
    b = torch.cat([a + 0.5 * torch.randn(400, 5, generator=generator), torch.randn(400, 3, generator=generator)], 1)
    b[:, 4] = 1.0  # a dead unit of b: unit 4 counts in neither
    r = np.corrcoef(a[:, :4].numpy().T, b[:, :4].numpy().T)[:4, 4:]
    for pair, matrix in ((cu.pair_moments(a, b), r), (cu.pair_moments(b, a), r.T)):
        assert kin.same_unit(pair) == pytest.approx((np.diag(matrix).mean(), matrix.mean()))
    assert kin.same_unit(cu.pair_moments(torch.ones(9, 2), a[:9])) == (0.0, 0.0), "all are dead"


def test_found_again():
    one = np.array([[0.9, 0.1, 0.2], [0.3, 0.8, 0.4], [0.5, 0.85, 0.7]])
    assert kin.found_again(one) == pytest.approx(4 / 6), "rows 0 and 1, columns 0 and 2"
    assert kin.found_again(np.stack([one, np.eye(3)])) == pytest.approx(10 / 12)


@pytest.mark.parametrize("profile", kin.SIZES)
def test_no_two_networks_share_a_seed(profile):
    size = kin.SIZES[profile]
    assert size.compared in size.depths
    setting = Setting.of("fashion-mnist", seed=0, profile=profile)
    things = kin.things(setting)
    deep = [thing for name, thing in things.items() if name[0] == "deep"]
    assert len(deep) == len(kin.kinds(size)) * size.per_kind
    assert len({thing.start.seed for thing in deep}) == len({thing.key for thing in deep}) == len(deep)
    assert all(thing.start.seed == thing.order for thing in deep)
    assert kin.named("plain", 8, size)[0] == "plain 8 1"
