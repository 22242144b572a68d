import pytest
import torch

import convergent_utils as cu


@pytest.fixture
def acts(generator):
    """b is exactly linear in a."""
    a = torch.randn(3000, 10, generator=generator).relu()
    return a, a @ torch.randn(10, 6, generator=generator) + 2


def test_with_time_it_reaches_the_exact_answer(acts):
    noisy = acts[1] + torch.randn(acts[1].shape, generator=torch.Generator().manual_seed(1))
    exact = cu.least_squares(cu.pair_moments(acts[0], noisy))
    found = cu.sgd_mapping(acts[0], noisy, steps=20_000, schedule="constant", loss_units=6, batch=128)
    assert (exact.r2 - found.r2).abs().max() < 2e-3
    assert (exact.coefficients - found.coefficients).abs().max() < 0.05


def test_the_recipe_fails_at_the_width_of_the_paper_and_not_at_its_own(acts):
    """The planted case of the puzzle: the map exists, and a wide layer's share of the loss keeps SGD from it."""
    assert cu.least_squares(cu.pair_moments(*acts)).r2.min() > 0.999
    wide = cu.sgd_mapping(*acts, loss_units=384)
    own = cu.sgd_mapping(*acts)
    assert wide.r2.mean() < 0.9 < own.r2.mean()


def by_hand(a, b, weights, bias, *, decay, u, order, rates, momentum):
    """The recipe written with autograd."""
    x, y = ((v - v.mean(0)) / v.std(0, correction=0) for v in (a, b))
    weights, bias = weights.clone().requires_grad_(), bias.clone().requires_grad_()
    velocity = [torch.zeros_like(weights), torch.zeros_like(bias)]
    for rate, index in zip(rates, order, strict=True):
        loss = ((y[index] - x[index] @ weights - bias) ** 2).mean(0).sum() / (2 * u)
        slopes = torch.autograd.grad(loss + decay * weights.abs().sum(), (weights, bias))
        velocity = [momentum * v + rate * slope for v, slope in zip(velocity, slopes, strict=True)]
        weights, bias = ((p - v).detach().requires_grad_() for p, v in zip((weights, bias), velocity, strict=True))
    return weights.detach(), bias.detach()


def test_against_the_recipe_by_hand(acts):
    a, b = (value[:64].double() for value in acts)
    start = cu.sgd_mapping(a, b, steps=0, seed=5)
    every = torch.arange(64)
    rates = [1e-3 * 0.5 ** (step // 4) for step in range(10)]
    expected = by_hand(
        a, b, start.coefficients[0], start.bias[0], decay=0.01, u=96, order=[every] * 10, rates=rates, momentum=0.98
    )
    found = cu.sgd_mapping(a, b, steps=10, batch=64, halve_every=4, decay=0.01, loss_units=96, seed=5)
    assert torch.allclose(found.coefficients[0], expected[0], atol=1e-12)
    assert torch.allclose(found.bias[0], expected[1], atol=1e-12)
    assert found.penalties.tolist() == pytest.approx([0.96])


def test_r2_is_that_of_the_activations(acts):
    found = cu.sgd_mapping(*acts, steps=300, batch=8)
    predicted = found.predict(acts[0])[0]
    computed = 1 - ((acts[1] - predicted) ** 2).mean(0) / acts[1].var(0, correction=0)
    assert torch.allclose(found.r2[0], computed.double(), atol=1e-5)
    assert torch.allclose(found.r2_on(cu.pair_moments(*acts)), found.r2, atol=1e-9)


def test_starts(acts):
    random, zero = (cu.sgd_mapping(*acts, steps=0, start=start) for start in ("random", "zero"))
    x = (acts[0] - acts[0].mean(0)) / acts[0].std(0, correction=0)
    assert (x.double() @ random.coefficients[0]).var(0, correction=0).mean() == pytest.approx(1, abs=1e-5)
    assert (zero.coefficients == 0).all()
    assert (zero.r2 == 0).all()
    assert random.r2.mean() < -0.5
    other = cu.sgd_mapping(*acts, steps=0, seed=1)
    assert not torch.equal(other.coefficients, random.coefficients)


def test_several_numbers_of_steps_are_one_run(acts):
    together = cu.sgd_mapping(*acts, steps=[10, 200])
    for k, steps in enumerate((10, 200)):
        assert torch.equal(together.coefficients[k], cu.sgd_mapping(*acts, steps=steps).coefficients[0])


def test_batches_are_of_whole_images(acts):
    images = torch.arange(1000).repeat_interleave(3)
    whole = cu.sgd_mapping(*acts, images=images, steps=400)
    shuffled = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    again = cu.sgd_mapping(acts[0][shuffled], acts[1][shuffled], images=images[shuffled], steps=400)
    assert torch.allclose(whole.coefficients, again.coefficients, atol=1e-5)
    assert not torch.allclose(whole.coefficients, cu.sgd_mapping(*acts, steps=400).coefficients, atol=1e-4)
    with pytest.raises(ValueError, match="equally many rows"):
        cu.sgd_mapping(*acts, images=images.clamp(min=1))


def test_decay_shrinks_and_leaves_no_exact_zeros(acts):
    free, decayed = (cu.sgd_mapping(*acts, decay=decay, steps=2000) for decay in (0.0, 0.05))
    assert decayed.coefficients.abs().sum() < 0.9 * free.coefficients.abs().sum()
    assert (decayed.coefficients != 0).all()


def test_dead_units(acts):
    a, b = acts[0].clone(), acts[1].clone()
    a[:, 0], b[:, 0] = 0, 3
    found = cu.sgd_mapping(a, b, steps=50)
    assert found.coefficients.isfinite().all()
    assert (found.r2[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch", 0), ("batch", 3001), ("decay", -1), ("momentum", 1.5), ("loss_units", 0), ("steps", [5, 5]),
     ("steps", 1.5), ("batch", 32.0), ("schedule", "orginal"), ("start", "one"), ("rate", 1e3)],
)  # fmt: skip
def test_bad_arguments(acts, name, value):
    with pytest.raises(ValueError, match=f"{name}: "):
        cu.sgd_mapping(*acts, **{"steps": 200, "schedule": "constant", name: value})


def test_runs_beside_each_other_are_what_each_is_alone(acts):
    runs = [
        cu.SgdRun("random", "original", None, 0.0),
        cu.SgdRun("zero", "constant", 96, 0.01),
        cu.SgdRun("random", "constant", 6, 0.05),
        cu.SgdRun("zero", "original", 384, 0.0),
    ]
    options = {"steps": [3, 400], "halve_every": 150, "batch": 64, "images": torch.arange(1000).repeat_interleave(3)}
    acts = [part.double() for part in acts]
    for run, beside in zip(runs, cu.sgd_mappings(*acts, runs, **options), strict=True):
        alone = cu.sgd_mapping(*acts, **run._asdict(), **options)
        assert torch.allclose(beside.coefficients, alone.coefficients, atol=1e-12)
        assert torch.allclose(beside.bias, alone.bias, atol=1e-12)
        assert torch.equal(beside.penalties, alone.penalties)
    with pytest.raises(ValueError, match="runs: expected at least one"):
        cu.sgd_mappings(*acts, [])
    with pytest.raises(ValueError, match="did you mean 'original'"):
        cu.sgd_mappings(*acts, [runs[0], cu.SgdRun(schedule="orginal")])


def test_autocast_changes_nothing_and_the_finer_precision_of_both_is_used(generator):
    a, b = torch.randn(60, 5, generator=generator), torch.randn(60, 4, generator=generator)
    options = {"steps": 3, "batch": 10}
    right = cu.sgd_mapping(a, b, **options).coefficients
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cu.sgd_mapping(a, b, **options).coefficients, right)
    fine = cu.sgd_mapping(a.double(), b.double(), **options).coefficients
    assert torch.equal(cu.sgd_mapping(a, b.double(), **options).coefficients, fine)
    assert torch.equal(cu.sgd_mapping(a.double(), b, **options).coefficients, fine)
