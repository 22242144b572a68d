import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils.paper.sparse_mapping import dense_mapping, predictions

LAYER = "conv3"


@pytest.fixture(scope="module")
def images():
    return cu.load_dataset("fashion-mnist", split="test", limit=120).images


@pytest.fixture(scope="module")
def networks():
    networks = {f"net{k}": cu.build_network("alexnet-narrow", seed=k) for k in (1, 2)}
    return {**networks, "net3": cu.permuted_copy(networks["net1"], seed=5)[0]}


@pytest.fixture(scope="module")
def measured(networks, images):
    return cu.measure(networks, images, LAYER, folds=4, sample=8)


def two_by_lasso(half, first, second):
    return cu.sparse_mapping(half, [0.3, 0.05])


def rows_of(network, images):
    with cu.record(network, LAYER) as rows:
        network(cu.normalise(images))
    return rows[LAYER].double()


def test_a_map_is_judged_on_the_activations_of_the_other_half(networks, measured, images):
    found = predictions(measured, LAYER, two_by_lasso)
    ways = []
    for mine, others in ((0, 1), (1, 0)):
        (fit_a, fit_b), (a, b) = (
            [rows_of(networks[net], images[start::2]) for net in ("net1", "net2")] for start in (mine, others)
        )
        path = cu.sparse_mapping(cu.pair_moments(fit_a, fit_b), [0.3, 0.05])
        missed = ((path.predict(a) - b) ** 2).mean(1) / b.var(0, correction=0).clamp(min=1e-30)
        ways.append((torch.where(b.var(0, correction=0) > 0, 1 - missed, 0.0), path.n_predictors))
    r2, n_predictors = (torch.stack([w.double() for w in way]).mean(0).numpy() for way in zip(*ways, strict=True))
    assert np.allclose(found.r2[0, 1], r2, atol=1e-5)
    assert np.abs(found.n_predictors[0, 1] - n_predictors).max() <= 0.5
    assert found.r2.shape == (3, 3, 2, found.r2.shape[3])
    assert np.isnan(found.r2[1, 1]).all()


def test_a_copy_is_predicted_whole_and_another_network_is_not(measured):
    found = predictions(measured, LAYER, dense_mapping).r2[:, :, 0]
    live = (measured.pair(f"net1.{LAYER}", f"net3.{LAYER}").cov_bb.diagonal() > 0).numpy()
    assert found[0, 2][live].min() > 0.999
    assert found[0, 1].mean() < 0.9


def test_each_fit_gets_half_of_the_images_and_its_two_quarters(measured):
    seen = []

    def fit(half, first, second):
        seen.append((half.n_samples, first.n_samples + second.n_samples))
        assert torch.allclose(half.mean_a, (first.mean_a + second.mean_a) / 2, atol=1e-9)
        return cu.least_squares(half)

    predictions(measured, LAYER, fit)
    assert len(seen) == 2 * 6
    assert all(whole == parts for whole, parts in seen)
    assert 2 * seen[0][0] == measured.pair(f"net1.{LAYER}", f"net2.{LAYER}").n_samples


def test_the_ridge_is_what_helps_on_other_rows(generator):
    """Sixty units, forty rows in each part: without a ridge the map learns noise by heart."""
    a = torch.randn(5000, 60, generator=generator)
    b = a[:, :5] + torch.randn(5000, 5, generator=generator)
    first, second, other = (cu.pair_moments(a[rows], b[rows]) for rows in (slice(40), slice(40, 80), slice(80, None)))
    half = cu.pair_moments(a[:80], b[:80])
    plain, chosen = cu.least_squares(half).r2_on(other).mean(), dense_mapping(half, first, second).r2_on(other).mean()
    assert plain < 0 < chosen
    many = cu.pair_moments(a, b)
    assert torch.allclose(dense_mapping(many, many, many).r2, cu.least_squares(many).r2, atol=1e-6)


def test_other_numbers_of_folds_are_refused(networks, images):
    with pytest.raises(ValueError, match="measured: expected four folds, got 2"):
        predictions(cu.measure(networks, images, LAYER, sample=8), LAYER, dense_mapping)
