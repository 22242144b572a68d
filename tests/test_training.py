import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import convergent_utils as cu
from convergent_utils.nets.declared import channels_last
from convergent_utils.nets.modes import layout_of


@pytest.fixture(scope="module")
def data():
    return cu.load_dataset("fashion-mnist", limit=640), cu.load_dataset("fashion-mnist", split="test", limit=300)


@pytest.fixture(scope="module")
def narrow():
    return cu.build_network("alexnet-narrow", seed=1)


def test_training_learns_and_leaves_the_network_given_alone(data, narrow):
    before = {name: value.clone() for name, value in narrow.state_dict().items()}
    trained = cu.train(narrow, data[0], cu.Recipe(epochs=8, batch=16, rate=2e-3), seed=1, test=data[1])
    assert all(torch.equal(before[name], value) for name, value in narrow.state_dict().items())
    assert trained.history.test_accuracy[-1] > 0.5 > trained.history.test_accuracy[0]
    assert trained.history.loss[-1] < trained.history.loss[1]
    assert len(trained.history.loss) == 9
    assert cu.accuracy(trained.network, data[1]) == pytest.approx(trained.history.test_accuracy[-1].item())
    assert list(trained.checkpoints) == [0.0, 0.35, 0.75, 1.0]
    scores = [cu.accuracy(trained.at(share), data[1]) for share in trained.checkpoints]
    assert scores[0] < scores[1] < scores[3]
    assert scores[0] == pytest.approx(trained.history.test_accuracy[0].item())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(data, narrow):
    recipe = cu.Recipe(epochs=1, batch=64)
    torch.manual_seed(11)
    one = cu.train(narrow, data[0], recipe, seed=1).network.state_dict()
    torch.manual_seed(12)
    two, other = (cu.train(narrow, data[0], recipe, seed=seed).network.state_dict() for seed in (1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["fc8.weight"], other["fc8.weight"])


def test_the_curve_is_of_some_images_and_ends_with_all(data, narrow):
    train, test = data
    options, kept = {"recipe": cu.Recipe(epochs=2, batch=64), "seed": 1, "test": test}, {}

    def keep(network, share):
        if share == 0.5:
            kept.update({name: value.clone() for name, value in network.state_dict().items()})

    whole, some = cu.train(narrow, train, **options), cu.train(narrow, train, curve=50, **options)
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), some.network.parameters(), strict=True))
    start, (first, between, last) = some.at(0.0), some.history.test_accuracy.tolist()
    assert first == pytest.approx(cu.accuracy(start, test.part(50)))
    assert last == pytest.approx(cu.accuracy(some.network, test))
    cu.train(narrow, train, intervene=keep, **options)
    middle = cu.build_network("alexnet-narrow", seed=1)
    middle.load_state_dict(kept)
    assert between == pytest.approx(cu.accuracy(middle.eval(), test.part(50)))
    assert some.history.loss[1:].tolist() == whole.history.loss[1:].tolist()
    untrained = cu.train(narrow, train, cu.Recipe(epochs=0), seed=1, test=test, curve=50)
    assert untrained.history.test_accuracy.tolist() == [pytest.approx(cu.accuracy(start, test))]


def test_no_epochs_leave_everything_as_it_was(data, narrow):
    trained = cu.train(narrow, data[0], cu.Recipe(epochs=0), seed=1, test=data[1])
    assert len(trained.history.loss) == 1
    for share in trained.checkpoints:
        assert torch.equal(trained.at(share).fc8.weight, narrow.fc8.weight)


def test_progress_is_reported_to_its_end(data, narrow):
    shares = []
    cu.train(narrow, data[0], cu.Recipe(epochs=1, batch=16), seed=1, report=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_too_few_images_and_unknown_checkpoints(data, narrow):
    with pytest.raises(ValueError, match="at least one batch of 1000"):
        cu.train(narrow, data[0], cu.Recipe(batch=1000), seed=1)
    with pytest.raises(ValueError, match=r"share: expected one of 0.0, 0.35"):
        cu.train(narrow, data[0], cu.Recipe(epochs=0), seed=1).at(0.5)
    for label in (-1, 10):
        with pytest.raises(ValueError, match=f"expected labels 0 to 9, .* got {label} to {label}"):
            cu.train(narrow, replace(data[0], labels=torch.full((len(data[0]),), label)), cu.Recipe(batch=16), seed=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", -1), ("epochs", math.inf), ("batch", 0), ("batch", 1.5), ("rate", -1e-3), ("weight_decay", math.nan)],
)
def test_recipes_that_cannot_be_followed(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        cu.Recipe(**{name: value})


def test_prediction_restores_the_mode(data, narrow):
    narrow.train()
    cu.predict(narrow, data[1])
    assert narrow.training
    narrow.eval()


def test_a_rate_of_ones_own(data, narrow):
    """At rate 0 nothing is learned; at a constant rate each step is as large, so the last epoch still moves weights."""
    recipe = cu.Recipe(epochs=2, batch=32, weight_decay=0.0)
    still = cu.train(narrow, data[0], recipe, seed=1, rate=lambda share: 0.0).network
    assert torch.equal(still.fc8.weight, narrow.fc8.weight)
    shares = []

    def rate(share):
        shares.append(share)
        return 1.0

    steady = cu.train(narrow, data[0], recipe, seed=1, rate=rate)
    assert shares == pytest.approx([k / (len(shares) - 1) for k in range(len(shares))])
    usual = cu.train(narrow, data[0], recipe, seed=1)

    def moved(trained):
        return float((trained.at(1.0).fc8.weight - trained.at(0.75).fc8.weight).detach().norm())

    assert moved(steady) > 2 * moved(usual)


class Frozen(nn.Module):
    """Its batch norm is frozen in eval mode, whatever the rest does."""

    def __init__(self, fails=False):
        super().__init__()
        self.norm, self.flat, self.out, self.fails = nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(784, 10), fails
        self.norm.eval()

    def forward(self, images):
        if self.fails:
            raise KeyError("a mistake in the network")
        return self.out(self.flat(self.norm(images)))


def modes(network):
    return {name: module.training for name, module in network.named_modules()}


@pytest.mark.parametrize("judge", [cu.accuracy, cu.predict])
def test_each_module_has_its_own_mode_again(judge):
    data = cu.load_dataset("fashion-mnist", limit=20)
    network = Frozen()
    before = modes(network)
    assert before == {"": True, "norm": False, "flat": True, "out": True}
    judge(network, data)
    assert modes(network) == before
    network.fails = True
    with pytest.raises(
        ValueError, match="^dataset: the network cannot take images of shape .*a mistake in the network"
    ):
        judge(network, data)
    assert modes(network) == before


def test_a_frozen_norm_stays_frozen_in_training():
    data = cu.load_dataset("fashion-mnist", limit=64)
    network = Frozen()
    trained = cu.train(network, data, cu.Recipe(epochs=1, batch=16), seed=0, test=data.part(16)).network
    assert torch.equal(trained.norm.running_mean, network.norm.running_mean)
    assert not torch.equal(trained.out.weight, network.out.weight)


def test_a_training_that_diverges_says_at_which_step():
    data = cu.load_dataset("fashion-mnist", limit=64)
    with pytest.raises(ValueError, match=r"^recipe: training diverged at step \d+; try a rate below 1e\+08$"):
        cu.train(Frozen(), data, cu.Recipe(epochs=3, batch=16, rate=1e8, weight_decay=1e6), seed=0)


@pytest.mark.parametrize("name", ["alexnet-narrow", "plain"])
def test_a_network_of_any_layout_trains_to_the_same_bits_and_keeps_its_layout(name):
    data, one = cu.load_dataset("fashion-mnist", limit=256), cu.build_network(name, width=1.0, seed=3)
    other = copy.deepcopy(one).to(memory_format=torch.channels_last)
    trained = [cu.train(network, data, cu.Recipe(epochs=1), seed=3).network for network in (one, other)]
    for a, b in zip(*(network.parameters() for network in trained), strict=True):
        assert torch.equal(a, b)
    assert [layout_of(network) for network in trained] == [torch.contiguous_format, torch.channels_last]
    assert layout_of(one) == torch.contiguous_format, "the start is left as it is"


def test_alexnets_are_read_with_channels_last_and_say_the_same():
    images = cu.normalise(cu.load_dataset("fashion-mnist", limit=32).images)
    for name in ("alexnet", "plain"):
        network = cu.build_network(name, seed=3).eval()
        laid = channels_last(copy.deepcopy(network))
        assert layout_of(laid) == (torch.channels_last if name == "alexnet" else torch.contiguous_format)
        with torch.no_grad():
            assert torch.allclose(laid(images), network(images), atol=1e-5)
