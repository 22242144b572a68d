"""Plain, residual and inception networks: their sizes, what can be recorded, shuffled copies, receptive fields."""

import pytest
import torch
from torch import nn

import convergent_utils as cu
from convergent_utils.nets.architectures import FAMILIES


def network(name, depth=8, seed=0, **options):
    """One whose batch norms are as after training: every unit has a mean, a scale and a shift of its own."""
    made = cu.build_network(name, depth=depth, seed=seed, **options).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values, low, high in (
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 2.0),
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.2, 0.6),
                ):
                    values.uniform_(low, high, generator=generator)
    return made


def images(count=6, channels=1, seed=5):
    return torch.randn(count, channels, 28, 28, generator=torch.Generator().manual_seed(seed))


def inner_layers(made):
    """What can be recorded within blocks: the two layers of each, or its branches."""
    parts = ((name, part) for name, block in made.named_children() if name[:5] == "block" for part in block._modules)
    return [f"{name}.{part}" for name, part in parts if part not in ("around", "relu")]


def output_of(made, layer, x):
    """The maps that a layer gives, with their gradients."""
    kept = []
    hook = made.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    made(x)
    hook.remove()
    return kept[0]


def n_weights(made):
    return sum(parameter.numel() for parameter in made.parameters())


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_sizes_at_equal_depth(depth):
    """Depth counts what has weights on the way; families have equally many weights, inception hardly more."""
    made = {name: cu.build_network(name, depth=depth) for name in FAMILIES}
    for chain in (made["plain"], made["residual"]):
        on_the_way = [m for m in chain.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        assert len(on_the_way) == depth
    longest = [m for name, m in made["inception"].named_modules() if isinstance(m, nn.Conv2d) and "x5" in name]
    assert len(longest) + 2 == depth
    assert n_weights(made["plain"]) == n_weights(made["residual"])
    assert 1 <= n_weights(made["inception"]) / n_weights(made["plain"]) < (1.2 if depth == 8 else 1.1)
    for name, one in made.items():
        assert one.layers == ("stem", *(f"block{k}" for k in range(1, (depth - 2) // 2 + 1)), "fc"), name
        shapes = cu.layers(one.eval(), images(2))
        units = [shapes[layer][1] for layer in one.layers[1:-1]]
        assert units == sorted(units)
        assert set(units) == {12, 24, 48}
        assert [shapes[layer][-1] for layer in ("stem", "block1", one.layers[-2])] == [14, 14, 4]


@pytest.mark.parametrize("name", FAMILIES)
def test_same_seed_same_network(name):
    one, same, other = (cu.build_network(name, depth=8, seed=k, width=0.5) for k in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.stem[0].weight, other.stem[0].weight)
    assert one.stem[0].out_channels == 4 * round(0.5 * 12 / 4)
    before = torch.random.get_rng_state()
    cu.build_network(name, depth=8)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("depth", [8, 14])
def test_shuffled_copy_is_found_out(name, depth):
    """The copy computes the same; where its units stand is what bipartite matching finds, in every layer and part."""
    one = network(name, depth)
    copied, permutations = cu.permuted_copy(one, seed=7)
    x = images(40)
    torch.testing.assert_close(copied(x), one(x), rtol=1e-4, atol=1e-4)
    asked = [*one.layers[:-1], *inner_layers(one)]
    assert set(asked) == set(permutations)
    with torch.no_grad(), cu.record(one, asked) as ours, cu.record(copied, asked) as theirs:
        one(x), copied(x)
    for layer, order in permutations.items():
        assert sorted(order.tolist()) == list(range(len(order)))
        a, b = (found[layer] for found in (ours, theirs))
        torch.testing.assert_close(a[:, order], b, rtol=1e-3, atol=1e-4)
    found = cu.measure({"a": one, "b": copied}, x, ["block2"], batch=20)
    matched = cu.bipartite_matching(cu.correlation(found.pair("a.block2", "b.block2")).matrix)
    live = [k for k, score in enumerate(matched.score.tolist()) if score > 0.999]
    assert len(live) >= 12
    assert all(permutations["block2"][matched.index[k]] == k for k in live)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_shuffled_copy_replaces_the_lower_blocks(name):
    """A match of the units of a block is all that the blocks above need."""
    one, x = network(name), images(200)
    copied, _ = cu.permuted_copy(one, seed=1)
    layers = ("stem", "block1", "block3")
    measured = cu.measure({"one": one, "copy": copied}, x, layers, batch=100)
    for layer in layers:
        pair = measured.pair(f"copy.{layer}", f"one.{layer}")
        found = cu.correlation(pair)
        match = cu.bipartite_matching(found.matrix, live_a=found.live_a, live_b=found.live_b)
        joined = cu.stitched(one, copied, layer, cu.matching_map(pair, match))
        with torch.no_grad():
            torch.testing.assert_close(joined(x), one(x), rtol=1e-4, atol=1e-4)


def test_units_of_a_stream_move_together():
    """A unit of the residual stream is the same unit in all blocks, over the strides as well."""
    _, order = cu.permuted_copy(network("residual", 14), seed=1)
    assert torch.equal(order["block1"], order["stem"])
    assert torch.equal(order["block4"][:12], order["block1"])
    assert torch.equal(order["block5"][:24], order["block3"])
    assert torch.equal(order["block5"], order["block6"])
    assert not torch.equal(order["block1"], torch.arange(12))
    _, order = cu.permuted_copy(network("inception", 8), seed=1)
    assert [sorted(part.tolist()) for part in order["block1"].split(3)] == [
        [3 * k + j for j in range(3)] for k in range(4)
    ]


def test_residual_block_adds_to_its_stream():
    one = network("residual", 8)
    block = one.block2  # at a stride, with twice the units
    maps = torch.rand(3, 12, 14, 14)
    expected = torch.zeros(3, 24, 7, 7)
    expected[:, :12] = maps[:, :, ::2, ::2]
    expected = (expected + block.added(block.inner(maps))).clamp_min(0)
    torch.testing.assert_close(block(maps), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_receptive_fields(name):
    """The pixels that move a unit, over many inputs, fill its receptive field and never leave it."""
    one = network(name, 8)
    within = [
        f"{part}.{k}"
        for part in inner_layers(one)
        if part.startswith("block2.")
        for k in range(min(2, len(one.get_submodule(part))))
    ]
    deeper = {"plain": [], "residual": ["block1.around", "block2.relu"], "inception": ["block2.3x3.1.0"]}[name]
    parts = [part for part in inner_layers(one) if part < "block3"]
    for layer in ("stem", "block1", "block2", *parts, *within, *deeper):
        field = cu.receptive_field(one, layer)
        x = images(60).requires_grad_()
        maps = output_of(one, layer, x)
        place = (2, maps.shape[-1] - 2)
        maps[:, :, place[0], place[1]].sum().backward()
        touched = x.grad.abs().sum((0, 1)) > 0
        rows, columns = (
            slice(max(0, field.start + k * field.step), max(0, field.start + k * field.step + field.size))
            for k in place
        )
        allowed = torch.zeros(28, 28, dtype=torch.bool)
        allowed[rows, columns] = True
        assert not (touched & ~allowed).any(), layer
        assert touched[rows, columns].double().mean() > 0.95, layer
    assert cu.receptive_field(one, "fc") is None
    with pytest.raises(ValueError, match="vary with the image"):
        cu.receptive_field(one, "pool")
    with pytest.raises(ValueError, match=r"^layer: expected one of"):
        cu.receptive_field(one, "block1.nowhere")


def test_store_keeps_them(tmp_path):
    one = network("residual", 8, channels=3, classes=4)
    store = cu.Store(tmp_path)
    store.keep("network", {"which": 1}, one)
    again = store.find("network", {"which": 1})
    x = images(channels=3)
    assert torch.equal(again(x), one(x))
    assert again.configuration["depth"] == 8


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("depth", lambda: cu.build_network("plain", depth=9)),
        ("depth", lambda: cu.build_network("plain", depth=2)),
        ("depth", lambda: cu.build_network("plain", depth="8")),
        ("depth", lambda: cu.build_network("alexnet", depth=8)),
        ("depth", lambda: cu.build_network("torchvision:resnet18", depth=8)),
        ("network", lambda: cu.with_units(network("plain"), {}, width=1)),
        ("network", lambda: cu.truncated(network("plain"), "block1", torch.eye(12)[:, :2], torch.zeros(12))),
    ],
)
def test_what_is_refused(argument, call):
    with pytest.raises(ValueError, match=f"^{argument}: ") as caught:
        call()
    assert len(str(caught.value)) <= 300
