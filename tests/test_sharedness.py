import numpy as np
import pytest
import torch

import convergent_utils as cu


def activations(samples=600, units=6, nets=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(samples, units, generator=generator, dtype=torch.float64)
    return [common + 0.5 * torch.randn(common.shape, generator=generator, dtype=torch.float64) for _ in range(nets)]


def by_definition(a, others, half):
    """Correlations with the best partner, chosen on the first half, with NumPy."""
    found = []
    for b in others:
        fit, held = (np.corrcoef(a[part].T, b[part].T)[: a.shape[1], a.shape[1] :] for part in half)
        found.append(held[np.arange(a.shape[1]), fit.argmax(1)])
    return np.array(found)


def test_it_is_the_definition_held_out_and_not():
    a, *others = activations()
    others[1] = others[1][:, :4]  # another width
    first, second = slice(0, 300), slice(300, 600)
    pairs, held = ([cu.pair_moments(a[part], b[part]) for b in others] for part in (first, second))
    arrays = a.numpy(), [b.numpy() for b in others]
    np.testing.assert_allclose(cu.sharedness(pairs, held).r, by_definition(*arrays, (first, second)), atol=1e-12)
    np.testing.assert_allclose(cu.sharedness(pairs).r, by_definition(*arrays, (first, first)), atol=1e-12)
    found = cu.sharedness(pairs, held)
    torch.testing.assert_close(found.uniqueness, 1 - found.r.mean(0))
    torch.testing.assert_close(found.largest, found.r.amax(0))


def test_planted_units_are_unique_and_the_others_shared():
    a, b, c = activations()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    b, c = 3 * a[:, order] + 1, 0.1 * a[:, order.flip(0)]
    a = a.clone()
    a[:, 2] = torch.randn(len(a), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    pairs = [[cu.pair_moments(a[part], other[part]) for other in (b, c)] for part in (slice(300), slice(300, 600))]
    found = cu.sharedness(*pairs)
    shared = torch.arange(6) != 2
    assert (found.mean[shared] > 1 - 1e-12).all()
    assert abs(found.mean[2]) < 0.25
    assert found.uniqueness.argmax() == 2
    assert (order[found.partner[0]] == torch.arange(6))[shared].all()


@pytest.mark.parametrize("change", ["order of the nets", "order and scale of units", "shift"])
def test_what_it_does_not_depend_on(change):
    a, b, c = activations()
    expected = cu.sharedness([cu.pair_moments(a, b), cu.pair_moments(a, c)])
    if change == "order of the nets":
        found = cu.sharedness([cu.pair_moments(a, c), cu.pair_moments(a, b)])
        torch.testing.assert_close(found.r.flip(0), expected.r)
    else:
        b = b[:, [2, 1, 0, 5, 3, 4]] * torch.tensor([1, 4, 0.5, 2, 1, 8]) if change != "shift" else b + 100
        found = cu.sharedness([cu.pair_moments(a, b), cu.pair_moments(a, c)])
        torch.testing.assert_close(found.r, expected.r, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.uniqueness, expected.uniqueness, atol=1e-9, rtol=0)


def test_dead_units_have_no_partner_and_are_nobodys():
    a, b, _ = activations()
    a, b = a.clone(), b.clone()
    a[:, 1], b[:, 0] = 0.0, 7.0
    found = cu.sharedness([cu.pair_moments(a, b)])
    assert found.live.tolist() == [True, False, True, True, True, True]
    assert (found.r[0, 1], found.partner[0, 1], found.uniqueness[1]) == (0, -1, 1)
    assert (found.partner[0] != 0).all()
    of_dead = cu.sharedness([cu.pair_moments(a, torch.zeros_like(b))])
    assert (of_dead.r == 0).all()
    assert (of_dead.partner == -1).all()


def test_on_other_samples_nothing_is_shared_by_chance():
    generator = torch.Generator().manual_seed(1)
    a, *others = (torch.randn(400, 40, generator=generator) for _ in range(6))
    fit, held = ([cu.pair_moments(a[part], b[part]) for b in others] for part in (slice(200), slice(200, 400)))
    assert cu.sharedness(fit).mean.mean() > 0.1  # where partners are chosen they look alike
    spread = cu.sharedness(fit, held).r
    assert abs(spread.mean()) < 4 / np.sqrt(200 * spread.numel())


def test_mistakes_are_one_sentence():
    a, b, c = activations()
    pair, other = cu.pair_moments(a, b), cu.pair_moments(a[:, :4], c)
    for asked, said in [
        (lambda: cu.sharedness(pair), "pairs: expected moments with several"),
        (lambda: cu.sharedness([]), "pairs: expected moments with at least one"),
        (lambda: cu.sharedness([a]), "pairs: expected PairMoments"),
        (lambda: cu.sharedness([pair, other]), "pairs: expected one network as the first"),
        (lambda: cu.sharedness([pair], [pair, pair]), "held: expected 1 moments"),
        (lambda: cu.sharedness([pair], [other]), "held: expected 1 moments"),
        (lambda: cu.sharedness("ab"), "pairs: "),
    ]:
        with pytest.raises(ValueError, match=f"^{said}") as error:
            asked()
        assert len(str(error.value)) <= 300
