"""Networks of all kinds, two to four inputs each: what is measured is what plain hooks find, by hand in float64."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import convergent_utils as cu

# from the axes of an output to (n, ..., units)
ORDERS = {
    "nd": (0, 1),
    "nchw": (0, 2, 3, 1),
    "nhwc": (0, 1, 2, 3),
    "ntd": (0, 1, 2),
    "ndt": (0, 2, 1),
    "tnd": (1, 0, 2),
}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(make, seed=0):
    torch.manual_seed(seed)
    return make().eval()


def by_hand(network, call, layers, mask=None, positions="all", as_tensor=None):
    """Of each layer (samples, units) in float64, captured with plain hooks.

    Args:
        network, call: what has the layers, and what calls it.
        layers: the axes of each layer's output, as they are known of the architecture.
        mask: (n, tokens), which rows count.
        positions: "all" or "mean".
        as_tensor: from what a module gives.
    """
    kept, hooks = {}, []
    for layer in layers:

        def hook(_module, _inputs, output, layer=layer):
            output = as_tensor(output) if as_tensor else output
            output = output[0] if isinstance(output, tuple) else output
            kept[layer] = output.detach().clone().double().numpy()

        hooks.append(network.get_submodule(layer).register_forward_hook(hook))
    torch.backends.mha.set_fastpath_enabled(False)  # which rounds otherwise
    with torch.no_grad():
        call()
    torch.backends.mha.set_fastpath_enabled(True)
    for hook in hooks:
        hook.remove()
    found = {}
    for layer, axes in layers.items():
        rows = kept[layer].transpose(ORDERS[axes])
        rows = rows.reshape(len(rows), -1, rows.shape[-1])
        of_tokens = mask is not None and rows.shape[1] > 1
        inside = mask.numpy().astype(bool) if of_tokens else np.ones(rows.shape[:2], dtype=bool)
        each = [row[counts] for row, counts in zip(rows, inside, strict=True)]
        found[layer] = np.concatenate([row.mean(0, keepdims=True) if positions == "mean" else row for row in each])
    return found


def assert_close(pair, one, other):
    """The moments are those of these rows, to 1e-6 in correlation."""
    assert pair.n_samples == len(one)
    found, rows = cu.correlation(pair), (one, other)
    centred, spread = [each - each.mean(0) for each in rows], [each.std(0) for each in rows]
    lives = found.live_a.numpy(), found.live_b.numpy()
    for live, each, varies in zip(lives, rows, spread, strict=True):
        assert (varies[~live] <= 1e-6 * np.abs(each).max(0)[~live]).all()
    live = np.outer(*lives)
    direct = np.divide(centred[0].T @ centred[1] / len(one), np.outer(*spread), where=live, out=np.zeros(live.shape))
    assert np.abs(found.matrix.numpy() - direct).max() < 1e-6
    for mean, each in zip((pair.mean_a, pair.mean_b), rows, strict=True):
        assert np.abs(mean.numpy() - each.mean(0)).max() <= 1e-6 * np.abs(each).max()


def doubled(networks):
    """In float64, where the mean over places is not rounded."""
    return {name: network.double() for name, network in networks.items()}


def check(
    networks, inputs, layers, *, call=None, axes=None, mask=None, key=None, as_tensor=None, positions=("all",), **more
):
    """Measured and captured by hand, at all places and in the mean.

    Args:
        networks: one, or two of one kind.
        inputs: as `measure` is given them, and the networks unless there is `call`.
        layers: the axes of each layer's output.
        call: from a network to a call of it by hand.
        axes, key, more: options of `measure`; `key` is that of the mask.
        mask, as_tensor, positions: see `by_hand`.
    """
    n = len(inputs) if isinstance(inputs, torch.Tensor) else len(next(iter(inputs.values())))
    options = {"axes": axes, "mask": key, "folds": 1, "top": 1, "sample": 8, "device": "cpu", **more}
    for where in positions:
        found = cu.measure(networks, inputs, list(layers), positions=where, batch=n, **options)
        rows = []
        for network in networks.values():
            inner = network.module if isinstance(network, nn.DataParallel) else getattr(network, "_orig_mod", network)
            calls = call(inner) if call else lambda inner=inner: inner(inputs)
            rows.append(by_hand(inner, calls, layers, mask, where, as_tensor))
        a, b = next(iter(networks)), [*networks][-1]
        for layer in layers:
            assert_close(found.pair(f"{a}.{layer}", f"{b}.{layer}"), rows[0][layer], rows[-1][layer])
    return found


# pictures

PICTURES = {
    "resnet18": (32, {"conv1": "nchw", "layer1": "nchw", "layer3.0": "nchw", "avgpool": "nchw", "fc": "nd"}),
    "resnet50": (32, {"layer1.0": "nchw", "layer3.0.conv2": "nchw", "layer4": "nchw"}),
    "vit_b_16": (32, {"encoder.layers.encoder_layer_1": "ntd", "encoder.ln": "ntd"}),
    "convnext_tiny": (32, {"features.0": "nchw", "features.1.0.block.2": "nhwc", "features.7": "nchw"}),
    "swin_t": (32, {"features.0": "nhwc", "features.1.0": "nhwc", "features.3": "nhwc"}),
    "inception_v3": (75, {"Mixed_5b": "nchw", "Mixed_7c": "nchw", "fc": "nd"}),
    "densenet121": (32, {"features.conv0": "nchw", "features.transition1": "nchw", "classifier": "nd"}),
    "efficientnet_b0": (32, {"features.0": "nchw", "features.4": "nchw", "features.8": "nchw", "classifier": "nd"}),
}
FEWER = {"vit_b_16": {"image_size": 32}, "inception_v3": {"init_weights": False}}


@pytest.mark.parametrize("name", PICTURES)
def test_networks_of_pictures(name):
    models = pytest.importorskip("torchvision.models")
    side, layers = PICTURES[name]
    network = {"net": seeded(lambda: getattr(models, name)(weights=None, **FEWER.get(name, {})))}
    pictures = drawn(2, 3, side, side)
    check(network, pictures, layers)
    if name in ("resnet18", "swin_t"):
        check(doubled(network), pictures.double(), layers, positions=("mean",))


@pytest.mark.networks
def test_networks_of_timm():
    timm = pytest.importorskip("timm")
    network = seeded(lambda: timm.create_model("resnet10t", pretrained=False))
    check({"a": network, "b": network}, drawn(2, 3, 32, 32), {"layer1": "nchw", "layer4": "nchw", "fc": "nd"})
    make = lambda: timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, depth=2)  # noqa: E731
    check({"a": seeded(make), "b": seeded(make, 1)}, drawn(3, 3, 32, 32), {"blocks.0": "ntd", "norm": "ntd"})


class UNet(nn.Module):
    """Down once, up once, and what was there before beside it."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.leave = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        before = self.enter(x)
        return self.leave(torch.cat((before, self.up(self.down(before))), dim=1))


def pair_of(make):
    return {"a": seeded(make), "b": seeded(make, 1)}


def test_a_u_net():
    layers = {"enter": "nchw", "down": "nchw", "up": "nchw", "leave": "nchw"}
    nets, pictures = pair_of(UNet), drawn(3, 3, 8, 12)
    found = check(nets, pictures, layers)
    assert found.blocks["a.down"] == 16
    check(doubled(nets), pictures.double(), layers, positions=("mean",))


def test_a_detector_takes_lists_of_pictures():
    models = pytest.importorskip("torchvision.models.detection")
    make = lambda: models.fasterrcnn_mobilenet_v3_large_320_fpn(  # noqa: E731
        weights=None, weights_backbone=None, min_size=32, max_size=32, num_classes=2, rpn_post_nms_top_n_test=4
    )
    nets, pictures = pair_of(make), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layers = {"backbone.body.4": "nchw", "backbone.fpn.layer_blocks.0": "nchw"}
    check(nets, pictures, layers, call=lambda net: lambda: net(list(pictures)), prepare=list)
    unlike = [(list(pictures), ["labels"] * 2), ((pictures[0], pictures[1]), ["labels"] * 2)]
    found = cu.measure(nets, unlike, list(layers), sample=8, top=1, device="cpu")
    assert found.n_images == 4


# texts

PADDED = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]])


def gpt2(transformers):
    return transformers.GPT2Model(
        transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2)
    )


def bert(transformers):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return transformers.BertModel(transformers.BertConfig(vocab_size=50, max_position_embeddings=16, **sizes))


def llama(transformers):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return transformers.LlamaModel(transformers.LlamaConfig(vocab_size=50, max_position_embeddings=16, **sizes))


TEXTS = {
    "gpt2": (gpt2, {"wte": "ntd", "h.0": "ntd", "h.0.attn": "ntd", "h.1.mlp": "ntd", "ln_f": "ntd", "": "ntd"}),
    "bert": (bert, {"embeddings": "ntd", "encoder.layer.0": "ntd", "encoder.layer.1.output": "ntd", "pooler": "nd"}),
    "llama": (llama, {"embed_tokens": "ntd", "layers.0.self_attn": "ntd", "layers.1": "ntd", "norm": "ntd"}),
}


@pytest.mark.networks
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", TEXTS)
def test_networks_of_texts(name, side):
    transformers = pytest.importorskip("transformers")
    make, layers = TEXTS[name]
    mask = PADDED if side == "right" else PADDED.flip(1)
    tokens = torch.randint(50, mask.shape, generator=torch.Generator().manual_seed(0))
    given = {"input_ids": tokens, "attention_mask": mask}
    as_tensor = lambda output: output["last_hidden_state"] if isinstance(output, dict) else output  # noqa: E731
    options = {"mask": mask, "key": "attention_mask", "call": lambda net: lambda: net(**given), "as_tensor": as_tensor}
    nets = pair_of(lambda: make(transformers))
    check(nets, given, layers, **options)
    check(doubled(nets), given, layers, positions=("mean",), **options)


@pytest.mark.networks
def test_layers_of_texts_are_listed():
    transformers = pytest.importorskip("transformers")
    found = cu.layers(seeded(lambda: gpt2(transformers)), {"input_ids": torch.zeros(2, 5, dtype=torch.int64)})
    assert found["h.1"] == (2, 5, 32)
    assert next(iter(found)) == "wte"


# sequences


class Recurrent(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.batch_first = batch_first
        self.lstm = nn.LSTM(5, 8, num_layers=2, batch_first=batch_first, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        out, _ = self.lstm(x if self.batch_first else x.transpose(0, 1))
        return self.head(out[:, -1] if self.batch_first else out[-1])


@pytest.mark.parametrize("batch_first", [True, False])
def test_an_lstm(batch_first):
    layers = {"lstm": "ntd" if batch_first else "tnd", "head": "nd"}
    nets, rows = pair_of(lambda: Recurrent(batch_first)), drawn(4, 7, 5)
    check(nets, rows, layers)
    check(doubled(nets), rows.double(), layers, positions=("mean",))


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.after = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, x, padding=None):
        out, _ = self.attention(x, x, x, key_padding_mask=padding)
        return self.after(out)


def test_attention():
    nets, rows, layers = pair_of(Attends), drawn(4, 6, 8), {"attention": "ntd", "after": "ntd"}
    check(nets, rows, layers)
    given, padding = {"x": rows, "padding": PADDED == 0}, {"mask": PADDED, "key": lambda batch: ~batch["padding"]}
    check(nets, given, layers, call=lambda net: lambda: net(**given), **padding)


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_transformer_of_torch(batch_first):
    make = lambda: nn.TransformerEncoder(  # noqa: E731
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first), 2, enable_nested_tensor=False
    )
    rows, mask, order = drawn(4, 6, 8), PADDED, "ntd" if batch_first else "tnd"
    given = {"src": rows, "src_key_padding_mask": mask == 0}
    prepare = None if batch_first else lambda batch: {**batch, "src": batch["src"].transpose(0, 1)}
    called = given if batch_first else {**given, "src": rows.transpose(0, 1)}
    hidden = {"mask": mask, "key": lambda batch: batch["src_key_padding_mask"] == 0, "prepare": prepare}
    call = lambda net: lambda: net(**called)  # noqa: E731
    with torch.inference_mode():
        check(pair_of(make), given, {"layers.0.linear1": order, "layers.1": order}, call=call, **hidden)


class Siamese(nn.Module):
    """One encoder for both pictures, and a head for what differs."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 8))
        self.head = nn.Linear(8, 2)

    def forward(self, left, right):
        return self.head((self.encoder(left) - self.encoder(right)).abs())


def test_a_siamese_network():
    nets, left, right = pair_of(Siamese), drawn(4, 1, 8, 8), drawn(4, 1, 8, 8, seed=1)
    call, layers = lambda net: lambda: net(left, right), {"encoder": "nd", "encoder.0": "nchw", "head": "nd"}
    check(nets, {"left": left, "right": right}, layers, call=call)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(left, right), batch_size=4)
    options = {"folds": 1, "top": 1, "sample": 8, "device": "cpu"}
    by_tuple = cu.measure(nets, loader, "head", prepare=lambda one, two: (one, two), **options)
    by_name = cu.measure(nets, {"left": left, "right": right}, "head", **options)
    assert torch.equal(by_tuple.pair("a.head", "b.head").cov_ab, by_name.pair("a.head", "b.head").cov_ab)


# wrappers, precisions


class LightningLike(UNet):
    """As those that train themselves."""

    @property
    def trainer(self):
        raise RuntimeError("it is not attached to a `Trainer`")

    def training_step(self, batch, _number):
        return self(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_network_that_trains_itself(tmp_path):
    nets, pictures = pair_of(LightningLike), drawn(3, 3, 8, 8)
    check(nets, pictures, {"down": "nchw", "leave": "nchw"}, store=tmp_path, untrained=True)
    assert set(cu.layers(nets["a"], pictures)) >= {"enter", "down", "up", "leave"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precisions(dtype):
    nets, pictures = {name: net.to(dtype) for name, net in pair_of(UNet).items()}, drawn(3, 3, 8, 8)
    found = check(
        nets, pictures, {"enter": "nchw", "down": "nchw", "leave": "nchw"},
        call=lambda net: lambda: net(pictures.to(dtype)),
    )  # fmt: skip
    assert found.sample("a.down").dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.filterwarnings("ignore")
def test_eight_bits():
    def make():
        net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 5))
        return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)

    check(pair_of(make), drawn(4, 6), {"0": "nd", "1": "nd", "2": "nd"})


def test_wrapped_networks():
    layers, pictures = {"enter": "nchw", "leave": "nchw"}, drawn(3, 3, 8, 8)
    check({name: nn.DataParallel(net) for name, net in pair_of(UNet).items()}, pictures, layers)
    nets = {name: torch.compile(net, backend="eager") for name, net in pair_of(UNet).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for net in nets.values():
            net(pictures)
    check(nets, pictures, layers)
    mixed = {"a": nets["a"], "b": nn.DataParallel(seeded(UNet, 1))}
    check(mixed, pictures, layers, flattened=["leave"])
