"""What 11_shared_spaces reads, on embeddings and clients whose answer is known."""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats

import convergent_utils as cu
from convergent_utils.making.things import Thing
from convergent_utils.nets.declared import Images, Start
from convergent_utils.paper import agreement, consensus, embeddings, exchange, shared_spaces


@dataclass(frozen=True)
class Given(Thing):
    """Embeddings that a test has made, in place of those of networks."""

    acts: tuple = ()
    images: object = None


@pytest.fixture
def space(generator):
    """The same ten numbers for each of 300 images."""
    return torch.randn(300, 10, generator=generator, dtype=torch.float64)


def turned(space, seed, units=10):
    return space @ cu.random_rotation(units, seed=seed)[: space.shape[1]]


def test_neighbours_are_those_of_mutual_knn_in_any_order(space, generator):
    a, b = space, space + torch.randn(300, 10, generator=generator, dtype=torch.float64)
    order = torch.randperm(300, generator=generator)
    for k in (1, 10, 100):
        mask, index = embeddings.mask_of(embeddings.nearest(a, k), 300), embeddings.nearest(b, k)
        assert embeddings.shared(mask, index) == pytest.approx(float(cu.mutual_knn(a, b, k=k)), abs=1e-12)
        dealt = embeddings.shared(mask, embeddings.dealt_out(index, order))
        assert dealt == pytest.approx(float(cu.mutual_knn(a, b[order], k=k)), abs=1e-12)


def test_alike_is_one_for_a_turned_network_and_calibrated_nothing_for_others(space, generator):
    acts = {"a": space, "b": 3 * turned(space, 1) + 0.0, "c": torch.randn(300, 7, generator=generator).double()}
    found = embeddings.Alike(Given(), shuffles=19, seed=0).make(lambda thing: acts, lambda share: None)
    for measure in ("k-NN", "k-NN, calibrated", "CKA", "CKA, calibrated"):
        assert found[measure][0, 1] == found[measure][1, 0] == pytest.approx(1, abs=1e-9), measure
        assert found[measure].diagonal().tolist() == [1, 1, 1]
    assert found["k-NN, 10"].equal(found["k-NN"])
    pair = cu.pair_moments(acts["a"], acts["c"])
    assert found["CKA"][0, 2] == pytest.approx(float(cu.linear_cka(pair)), abs=1e-9)
    generator.manual_seed(0)
    orders = [torch.randperm(300, generator=generator) for _ in range(19)]
    for measure, similarity in (("CKA", lambda a, c: cu.linear_cka(cu.pair_moments(a, c))), ("k-NN", cu.mutual_knn)):
        null = [float(similarity(acts["a"], acts["c"][order])) for order in orders]
        one = float(similarity(acts["a"], acts["c"]))
        limit = sorted([one, *null])[18]
        assert found[f"{measure}, calibrated"][0, 2] == pytest.approx(max(0, (one - limit) / (1 - limit)), abs=1e-9)


def test_a_search_is_what_a_loop_finds(generator):
    queries, targets = torch.randn(2, 40, 5, generator=generator, dtype=torch.float64)
    labels = torch.arange(40) % 4
    cosine = np.array([[float(torch.cosine_similarity(q, t, dim=0)) for t in targets] for q in queries])
    image = np.mean(cosine.argmax(1) == np.arange(40))
    right, alike, unlike = [], [], []
    for i in range(40):
        others = [j for j in range(40) if j != i]
        right.append(labels[max(others, key=lambda j, i=i: cosine[i, j])] == labels[i])
        for j in others:
            (alike if labels[i] == labels[j] else unlike).append(cosine[i, j])
    threshold = sorted(unlike)[int(0.99 * len(unlike)) - 1]
    expected = [image, np.mean(right), np.mean(np.array(alike) > threshold)]
    assert exchange.searched(queries, targets, labels).tolist() == pytest.approx(expected)
    assert np.mean(np.array(unlike) > threshold) == pytest.approx(0.01, abs=1 / len(unlike))
    assert exchange.searched(queries, targets, torch.zeros(40))[2] == 1, "there is no pair of unlike classes"


def test_turned_networks_are_exchanged_by_a_rotation_and_by_no_permutation(space):
    a, b = turned(space, 1), 2 * turned(space, 2) + 5
    labels = torch.arange(150) % 5
    found = {
        name: exchange.searched(*searched, labels)[0]
        for name, searched in exchange.exchanges(a[:150], a[150:], b[:150], b[150:]).items()
    }
    assert set(found) == set(exchange.MAPS)
    assert {name for name, image in found.items() if image == 1} == {
        *("orthogonal", "affine", "ridge", "relative", "same network")
    }
    assert found["permutation"] < 0.5
    assert found["none"] < 0.1


def test_unequal_widths_are_exchanged_and_too_few_anchors_are_not_enough(space):
    a, b = turned(space, 1, 12), turned(space, 2, 17)
    few = torch.arange(0, 300, 60)
    labels = torch.arange(300) % 5
    for fit, found in ((slice(None), 1.0), (few, None)):
        for name in ("orthogonal", "affine"):
            image = exchange.searched(*exchange.exchanges(a[fit], a, b[fit], b)[name], labels)[0]
            assert image == 1 if found else image < 0.9


def test_exchanged_reads_classes_anchors_and_gallery_as_declared(space):
    labels = torch.arange(300) % 10
    acts = {"a": turned(space, 1), "b": turned(space, 2), "c": turned(space, 3)}
    images = Given()
    object.__setattr__(images, "load", lambda: replace(cu.load_dataset("fashion-mnist", limit=300), labels=labels))
    halves = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
    asked = exchange.Exchanged(
        Given(images=images), (("a", "b"), ("b", "a"), ("c", "a")), (halves, halves[::-1]), (12, 1000), 20
    )
    found = asked.make(lambda thing: acts, lambda share: None)
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(exchange.MAPS, (3, 2, 2, 3))
    assert (found["orthogonal"][:, :, :, 0] == 1).all()
    held = exchange.gallery(labels, halves[1], 20)
    few = exchange.anchors_of(labels, halves[0], 12, without=held)
    assert len(few) == 12
    assert set(labels[few].tolist()) == set(halves[0])
    met = exchange.anchors_of(labels, halves[1], 1000, without=held)
    assert len(met) == 50
    assert not set(met.tolist()) & set(held.tolist())
    assert labels[held].bincount().tolist() == [0] * 5 + [20] * 5
    one = exchange.OneSpace(asked).make(lambda thing: acts, lambda share: None)
    assert (one["one space"][:, :, 0] == 1).all()
    assert (one["one space, corrected"][:, :, 0] == 1).all()
    assert one["agreement"].tolist() == pytest.approx([1, 1])


@pytest.fixture(scope="module")
def images():
    return replace(Images.of("fashion-mnist", "train"), part=2000)


def pixels(data):
    return {tuple(image.flatten().tolist()) for image in data.images}


@pytest.mark.parametrize("skewed", [False, True])
def test_no_two_clients_have_an_image_in_common(images, skewed):
    parts = [consensus.Private(images, client, 5, skewed).load() for client in range(5)]
    assert sum(map(len, parts)) == 2000
    assert all(not pixels(a) & pixels(b) for a, b in combinations(parts, 2))
    assert max(len(part) for part in parts) < 1.2 * min(len(part) for part in parts)
    held = [set(part.labels.tolist()) for part in parts]
    assert [sum(k in of for of in held) for k in range(10)] == [2 if skewed else 5] * 10
    assert {len(of) for of in held} == {4 if skewed else 10}


@pytest.mark.parametrize("classes", [2, 3, 7, 10, 23])
def test_every_class_is_of_a_client_whatever_their_number(images, classes):
    data = images.load()
    few = replace(data, labels=torch.arange(2000) % classes, classes=tuple(map(str, range(classes))))
    of = Given()
    object.__setattr__(of, "load", lambda: few)
    object.__setattr__(of, "classes", classes)
    parts = [consensus.Private(of, client, 5, True).load() for client in range(5)]
    assert sum(map(len, parts)) == 2000
    assert all(not pixels(a) & pixels(b) for a, b in combinations(parts, 2))


def test_the_pool_has_no_image_that_a_client_has(images):
    whole = replace(images, part=None)
    pool = consensus.Pool(whole, 2000, 500).load()
    assert len(pool) == 500
    twice = pixels(pool) & pixels(images.load())
    assert len(twice) <= len(whole.load()) - len(pixels(whole.load())), "but for images that are there twice"


def test_votes_of_three_clients(generator):
    logits = [torch.tensor([[4.0, 0, 0], [0, 1, 0], [9, 0, 0]]), torch.tensor([[0, 1.0, 0], [0, 1, 0], [0, 1, 0]])]
    logits.append(torch.tensor([[0, 1.0, 0], [0, 0, 8], [0, 0, 1.0]]))
    found = consensus.votes(logits, torch.tensor([1, 1, 0]))
    assert found["majority"] == 1, "two of three; and of three that differ the most confident one"
    assert found["alone"] == pytest.approx((2 + 2 + 1) / 9)
    chances = torch.stack([some.softmax(1) for some in logits]).mean(0).argmax(1)
    assert found["ensemble"] == pytest.approx(float((chances == torch.tensor([1, 1, 0])).double().mean()))


@pytest.fixture
def made(space):
    """Three clients who see one space, each turned into units of its own; classes are where a place lies."""
    labels = (space[:, 0] > 0).long() + 2 * (space[:, 1] > 0).long()
    parts = {"pool": slice(100), "own": slice(100, 200), "test": slice(200, 300)}
    made = {
        name: {part: 3 * turned(space, k, 10 + k)[some] + k for part, some in parts.items()}
        for k, name in enumerate("abc")
    }
    own = {name: labels[parts["own"]] for name in made}
    return made, own, labels[parts["pool"]], labels[parts["test"]]


def test_in_one_space_a_head_of_all_clients_reads_each(made):
    made, own, taught, labels = made
    places = consensus.in_one_space(made, corrected=False, seed=None)
    for part in ("pool", "own", "test"):
        torch.testing.assert_close(places["a"][part], places["b"][part])
        torch.testing.assert_close(places["a"][part], places["c"][part])
    heads = consensus.with_heads(places, own, taught, labels)
    assert heads["alone, one head"] == heads["one head"] > 0.9
    assert min(heads.values()) > 0.85
    shuffled = consensus.in_one_space(made, corrected=False, seed=0)
    assert consensus.with_heads(shuffled, own, taught, labels)["alone, one head"] < 0.8
    corrected = consensus.in_one_space(made, corrected=True, seed=None)
    torch.testing.assert_close(corrected["a"]["test"], corrected["c"]["test"], atol=0.02, rtol=0)


def test_each_client_of_few_classes_answers_all_with_the_one_head(made):
    made, own, taught, labels = made
    kept = {name: torch.isin(own[name], torch.tensor([k, k + 1])) for k, name in enumerate("abc")}
    few = {name: {**parts, "own": parts["own"][kept[name]]} for name, parts in made.items()}
    own = {name: values[kept[name]] for name, values in own.items()}
    places = consensus.in_one_space(few, corrected=False, seed=None)
    heads = consensus.with_heads(places, own, taught, labels)
    alone = consensus.votes(consensus.heads_of_their_own(few, own), labels)["alone"]
    assert alone < 0.6 < 0.75 < heads["alone, one head"]


def test_a_client_of_one_class_says_that_class(made):
    made, own, *_ = made
    own = {name: torch.zeros_like(values) for name, values in own.items()}
    own["c"] = torch.full_like(own["c"], 3)
    heads = consensus.heads_of_their_own(made, own)
    assert [int(said.argmax(1).unique()) for said in heads] == [0, 0, 3]


def test_a_decoder_tells_what_is_there_and_no_more_than_the_best(generator):
    data = cu.load_dataset("fashion-mnist", split="test", limit=700)
    pool, test = data.part(500), replace(data, images=data.images[::5], labels=data.labels[::5])
    rows = {part: of.images.flatten(1).double() / 255 for part, of in (("pool", pool), ("test", test))}
    basis = torch.linalg.svd(rows["pool"] - rows["pool"].mean(0), full_matrices=False)[2][:8].T
    known = {part: (some - rows["pool"].mean(0)) @ basis for part, some in rows.items()}
    noise = {part: torch.randn(len(some), 8, generator=generator).double() for part, some in rows.items()}
    found = consensus.told_of_pixels({"a": noise}, {"a": known}, pool, test)
    assert found["pixels, space"] == pytest.approx(found["pixels, best"], abs=0.01)
    assert found["pixels, best"] > 0.4
    assert abs(found["pixels, embedding"]) < 0.05
    means = torch.stack([rows["pool"][pool.labels == k].mean(0) for k in range(10)])[test.labels]
    spread = (rows["test"] - rows["pool"].mean(0)).square().sum()
    assert found["pixels, class"] == pytest.approx(float(1 - (rows["test"] - means).square().sum() / spread))


def test_tau_is_scipys_and_none_where_nothing_differs(generator):
    x, y = torch.randn(2, 6, 3, generator=generator).numpy()
    assert agreement.tau(x.ravel(), y.ravel()) == stats.kendalltau(x.ravel(), y.ravel()).statistic
    assert agreement.tau([1, 1, 1], [1, 2, 3]) == 0
    expected = np.mean([stats.kendalltau(x[:, k], y[:, k]).statistic for k in range(3)])
    assert agreement.within_layers(x, y) == pytest.approx(expected)


def test_an_image_is_found_by_a_turned_network_alone(space, generator):
    assert agreement.image_found(space, turned(space, 4)) == 1
    assert agreement.image_found(space, torch.randn(300, 10, generator=generator).double()) < 0.1


def test_blind_networks_see_half_of_the_classes(images):
    some = shared_spaces.OfClasses(images, (0, 1, 2))
    assert set(some.load().labels.tolist()) == {0, 1, 2}
    assert len(some) == 600
    start = Start("alexnet-narrow", 1, 10, 1.0, 7, True)
    rows = embeddings.embedded(start.network(), "fc7", images.load().images[:300])
    assert rows.shape == (300, 64)
    assert embeddings.embedded(start.network(), "conv5", images.load().images[:300]).shape == (300, 24)
