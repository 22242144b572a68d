"""What names stand for: networks with the weights that were saved, data as it lies, and a sentence for a mistake."""

import pickle
import socket
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import convergent_utils as cu
from convergent_utils.compare.data import load_inputs
from convergent_utils.compare.networks import load_network
from convergent_utils.compare.preparing import IMAGENET, Bytes, Pictures
from convergent_utils.compare.saved import SavedActivations, saved_rows

LONGEST = 300

CODE = """
import torch
from torch import nn

def make(): return nn.Linear(3, 2)
def none(): return None
def wanting(width): return nn.Linear(width, 2)
def failing(): raise KeyError("a thing")
def meta(): return nn.Linear(3, 2, device="meta")
net = nn.Linear(3, 2)

PASSES = []
ONE = iter([torch.zeros(2, 3)])
def pictures(): return torch.arange(5 * 4 * 4, dtype=torch.uint8).reshape(5, 4, 4, 1)
def batches(): return [(torch.full((3, 2), float(k)), torch.zeros(3)) for k in range(4)]
def once():
    PASSES.append(1)
    yield from ({"input_ids": torch.full((2, 5), k), "n": 2} for k in range(3))
def texts(): return [["one", "two"], ["three"]]
def same(): return ONE
def empty(): return []
def number(): return 3
def numbers(): return [1, 2]
def dataset(): return torch.utils.data.TensorDataset(torch.arange(10.0)[:, None], torch.zeros(10))
def shuffled(): return torch.utils.data.DataLoader(dataset(), batch_size=4, shuffle=True)
"""


@pytest.fixture(autouse=True)
def no_request(monkeypatch):
    """Nothing is ever downloaded."""

    def refuse(*_, **__):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def pictures(n=2, size=8, channels=3):
    return torch.randint(0, 256, (n, size, size, channels), generator=torch.Generator().manual_seed(0)).byte()


def equal(one, other, inputs):
    with torch.no_grad():
        return torch.equal(one(inputs), other(inputs))


def same_weights(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def said_by(call):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        call()
    said = str(refused.value)
    assert len(said) <= LONGEST, f"{len(said)}: {said}"
    assert "\n" not in said
    return said


# networks


def test_importing_brings_no_library_of_networks():
    code = "import sys, convergent_utils.compare.networks, convergent_utils.compare.data; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    assert not {"torchvision", "timm", "transformers", "PIL"} & set(loaded)


def test_a_function_is_called_with_its_seed_and_leaves_the_generator_alone(code, monkeypatch):
    before = torch.get_rng_state()
    first, again, other = (load_network(f"{code}:make", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert same_weights(first.network, nn.Linear(3, 2))
    assert same_weights(first.network, again.network)
    assert not same_weights(first.network, other.network)
    assert not first.network.training
    assert first.prepare is first.untrained is None
    monkeypatch.chdir(code.parent)
    assert same_weights(load_network("mine:make", seed=1).network, first.network)
    assert str(code.parent) not in sys.path


def test_checkpoints_of_ours(tmp_path):
    network = cu.build_network("alexnet-narrow", channels=3, classes=4, width=0.5, seed=7).eval()
    history = cu.History(torch.zeros(1), torch.zeros(1))
    inputs = torch.randn(2, 3, 16, 16)
    for k, saved in enumerate((network, cu.Trained(network, history, {}), {"network": network, "history": history})):
        path = str(tmp_path / f"{k}.safetensors")
        cu.save(saved, path)
        loaded = load_network(path)
        assert equal(loaded.network, network, inputs)
        assert same_weights(loaded.untrained(7), network)
        assert not same_weights(loaded.untrained(8), network)
        assert loaded.prepare is None


def test_weights_of_our_architectures_tell_their_sizes(tmp_path):
    network = cu.build_network("alexnet", channels=3, classes=7, width=0.5, seed=3).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}}, tmp_path / "w.pt"
    )
    for file in ("w.safetensors", "w.pt"):
        loaded = load_network(f"alexnet@{tmp_path / file}")
        assert equal(loaded.network, network, torch.randn(2, 3, 16, 16))
        assert same_weights(loaded.untrained(3), network)
    double = {name: value.double() + 1e-12 for name, value in network.state_dict().items()}
    save_file(double, tmp_path / "d.safetensors")
    assert torch.equal(load_network(f"alexnet@{tmp_path}/d.safetensors").network.fc8.bias, double["fc8.bias"])
    assert same_weights(load_network("alexnet", seed=3).network, cu.build_network("alexnet", seed=3))


def test_torchvision_with_and_without_weights(tmp_path):
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(5)
    usual = models.squeezenet1_1(weights=None).eval()
    loaded = load_network("torchvision:squeezenet1_1", seed=5)
    assert same_weights(loaded.network, usual)
    assert same_weights(loaded.untrained(5), usual)
    assert not same_weights(loaded.untrained(6), usual)
    torch.manual_seed(1)
    tuned = models.resnet18(weights=None, num_classes=3).eval()
    weights = {name: value for name, value in tuned.state_dict().items() if "num_batches" not in name}
    save_file(weights, tmp_path / "w.safetensors")
    loaded = load_network(f"torchvision:resnet18@{tmp_path}/w.safetensors")
    batch = pictures(size=32)
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    prepared = (batch.permute(0, 3, 1, 2) / 255 - mean) / std
    torch.testing.assert_close(loaded.prepare(batch), prepared)
    assert equal(loaded.network, tuned, prepared)
    assert loaded.untrained(0).fc.out_features == 3
    assert "w.safetensors" in loaded.description


def test_torchvision_sizes_and_heads(tmp_path):
    models = pytest.importorskip("torchvision").models
    from convergent_utils.compare.networks import _of_torchvision

    with torch.device("meta"):  # of which nothing but the kind is asked
        vit = models.vit_b_16()
    assert _of_torchvision(vit, "vit_b_16")(pictures()).shape == (2, 3, 224, 224)
    assert _of_torchvision(nn.Linear(1, 1), "swin_t")(pictures()).shape == (2, 3, 8, 8)
    assert _of_torchvision(nn.Linear(1, 1), "inception_v3")(pictures()).shape == (2, 3, 75, 75)
    network = models.googlenet(weights=None, init_weights=False, num_classes=5)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    assert any(name.startswith("aux") for name in network.state_dict())
    loaded = load_network(f"torchvision:googlenet@{tmp_path}/w.safetensors")
    network.eval().transform_input = True
    assert equal(loaded.network, network, loaded.prepare(pictures(size=32)))


def test_build_network_of_torchvision():
    models = pytest.importorskip("torchvision").models
    network, before = cu.build_network("torchvision:resnet18", classes=4, seed=2), torch.get_rng_state()
    assert network.training == cu.build_network("alexnet").training
    torch.manual_seed(2)
    assert same_weights(network, models.resnet18(weights=None, num_classes=4))
    cu.build_network("torchvision:resnet18", channels=3, seed=2)
    torch.set_rng_state(before)
    with pytest.raises(ValueError, match="network: expected one made by build_network"):
        cu.permuted_copy(network, seed=0)
    with pytest.raises(ValueError, match="name: expected one of alexnet"):  # no file makes a network of others
        cu.Network.from_state({"configuration": {"name": "torchvision:resnet18"}, "weights": {}})


def test_pictures_are_prepared_as_they_are_described():
    batch = pictures(size=20, channels=1)
    shown = Pictures(size=(10, 12), key="pixel_values")(batch)["pixel_values"]
    assert shown.shape == (2, 3, 10, 12)
    flat = Pictures((0.5,) * 3, (0.5,) * 3)(batch)
    torch.testing.assert_close(flat, cu.normalise(batch).expand(2, 3, 20, 20))
    even = Pictures(at_least=30)(torch.full((1, 10, 20, 3), 255, dtype=torch.uint8))
    assert even.shape == (1, 3, 30, 60)
    torch.testing.assert_close(even[0, :, 0, 0], (1 - torch.tensor(IMAGENET[0])) / torch.tensor(IMAGENET[1]))
    ready = torch.randn(2, 3, 5, 5)
    assert Pictures()(ready) is ready
    assert pickle.loads(pickle.dumps(Pictures(size=(3, 3)))) == Pictures(size=(3, 3))
    for wrong in (["text"], pictures(channels=4), torch.zeros(2, 3, dtype=torch.uint8)):
        assert said_by(lambda wrong=wrong: Pictures()(wrong)).startswith("inputs: ")


def test_texts_as_bytes():
    found = Bytes(256, longest=4)(["ab", "é", "longer"])
    assert found["input_ids"].tolist() == [[97, 98, 256, 256], [195, 169, 256, 256], [108, 111, 110, 103]]
    assert found["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert said_by(lambda: Bytes(256)([3])).startswith("inputs: ")


@pytest.mark.networks
def test_timm(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(4)
    network = timm.create_model("resnet10t", pretrained=False, num_classes=3).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    loaded = load_network(f"timm:resnet10t@{tmp_path}/w.safetensors")
    assert equal(loaded.network, network, loaded.prepare(pictures(size=32)))
    assert same_weights(loaded.untrained(4), network)
    vit = load_network("timm:vit_tiny_patch16_224", seed=1)
    assert vit.prepare(pictures()).shape == (2, 3, 224, 224)
    assert vit.prepare.mean == vit.network.pretrained_cfg["mean"]
    assert "name: expected one of" in said_by(lambda: load_network("timm:resnet10"))
    assert "name: " in said_by(lambda: load_network("timm:hf-hub:timm/resnet18"))


@pytest.fixture
def gpt2(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 12, "bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(3)
    network = transformers.GPT2Model(transformers.GPT2Config(vocab_size=300, **sizes)).eval()
    network.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2", network


@pytest.mark.networks
def test_a_folder_of_transformers(gpt2, capfd):
    folder, network = gpt2
    loaded = load_network(f"hf:{folder}")
    assert same_weights(loaded.network, network)
    prepared = loaded.prepare(["a text", "another one, far too long"])
    assert prepared["input_ids"].shape == (2, 12)
    with torch.no_grad():
        outputs = loaded.network(**prepared).last_hidden_state
        alone = loaded.network(**loaded.prepare(["a text"])).last_hidden_state
    torch.testing.assert_close(outputs[:1, :6], alone)
    assert same_weights(loaded.untrained(3), network)
    assert not same_weights(loaded.untrained(4), network)
    (folder / "model.safetensors").rename(folder / "apart")
    drawn = load_network(f"hf:{folder}", seed=3)
    assert same_weights(drawn.network, network)
    assert "seed 3" in drawn.description
    assert capfd.readouterr().err == ""


@pytest.mark.networks
def test_what_is_wrong_with_a_folder_of_transformers(gpt2):
    folder, network = gpt2
    weights = dict(network.state_dict())
    save_file({name: value for name, value in weights.items() if "h.1." not in name}, folder / "model.safetensors")
    assert "lack h.1.attn" in said_by(lambda: load_network(f"hf:{folder}"))
    save_file({**weights, "wte.weight": torch.zeros(5, 16)}, folder / "model.safetensors")
    assert said_by(lambda: load_network(f"hf:{folder}")).startswith("name: ")
    (folder / "model.safetensors").write_bytes(b"nothing")
    assert said_by(lambda: load_network(f"hf:{folder}")).startswith("name: ")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "is a pickle" in said_by(lambda: load_network(f"hf:{folder}"))
    (folder / "config.json").write_text('{"model_type": "unheard of"}')
    assert said_by(lambda: load_network(f"hf:{folder}")).startswith("name: transformers cannot read")
    assert "config.json" in said_by(lambda: load_network("hf:openai/gpt2"))


@pytest.mark.networks
def test_the_tokenizer_of_a_folder(gpt2):
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    words = {word: k for k, word in enumerate(["<unk>", "one", "two", "three"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", padding_side="left")
    tokenizer.save_pretrained(gpt2[0])
    prepared = load_network(f"hf:{gpt2[0]}").prepare(["one", "two three what", "one " * 40])
    assert prepared["input_ids"].shape == (3, 12)
    assert prepared["input_ids"][:2, :3].tolist() == [[1, 0, 0], [2, 3, 0]]
    assert prepared["attention_mask"][:2, :4].tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]


@pytest.mark.networks
def test_pictures_of_a_folder_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    network = transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=8, **sizes))
    network.save_pretrained(tmp_path)
    usual = load_network(f"hf:{tmp_path}")
    torch.testing.assert_close(usual.prepare(pictures(size=16))["pixel_values"], cu.normalise(pictures(size=16)))
    said = '{"size": {"height": 16, "width": 16}, "image_mean": [0, 0, 0], "image_std": [1, 1, 0.5]}'
    (tmp_path / "preprocessor_config.json").write_text(said)
    loaded = load_network(f"hf:{tmp_path}")
    batch = pictures(size=16)
    prepared = loaded.prepare(batch)["pixel_values"]
    torch.testing.assert_close(prepared[:, 2], batch[..., 2] / 255 / 0.5)
    assert loaded.network(**loaded.prepare(pictures(size=20))).last_hidden_state.shape == (2, 5, 16)


WRONG_NETWORKS = {
    "": "expected the name of a network",
    "a": "there is no file a; expected module:function",
    "alexnt": "did you mean 'alexnet'",
    "torchvison:resnet18": "did you mean torchvision:?",
    "torchvision:": "put a name or folder",
    "torchvision:resnet19": "did you mean 'resnet",
    "torchvision:squeezenet1_1@": "put the path",
    "torchvision:squeezenet1_1@nowhere.safetensors": "there is no file nowhere.safetensors",
    "torchvision:squeezenet1_1@w.safetensors": "does not fit: it lacks",
    "timm:": "put a name or folder",
    "hf:": "put a name or folder",
    "nowhere.py:make": "there is no file nowhere.py",
    "no-module:make": "expected module:function",
    "nomodule:make": "there is no module 'nomodule'",
    "json:dump": "needs arguments",
    "mine.py": "say which",
    "mine.py:": "has no function",
    "mine.py:maker": "it has make",
    "mine.py:none": "must return a torch.nn.Module, got None",
    "mine.py:wanting": "needs arguments (missing a required argument: 'width')",
    "mine.py:failing": "cannot be called (KeyError: 'a thing')",
    "mine.py:meta": "on the meta device",
    "mine.py:net": "is no function",
    "broken.py:make": "cannot import broken.py (SyntaxError",
    "lacking.py:make": "cannot import lacking.py (ModuleNotFoundError: No module named 'nothing_of_that_name')",
    "alexnet@nowhere": "there is no file nowhere",
    "alexnet@wrong.safetensors": "fc8.bias (3,) for (10,)",
    "alexnet@code.pt": 'convert it: safetensors.torch.save_file(model.state_dict(), "weights.safetensors")',
    "alexnet@whole.pt": "convert it",
    "alexnet@script.pt": "convert it",
    "alexnet@noise.pt": "is damaged",
    "alexnet@noise.safetensors": "cannot read noise.safetensors",
    "alexnet@number.pt": "holds no weights by name",
    "wrong.safetensors": "weights alone need their architecture",
    "rows.cu": "holds no Network and no Trained",
}


@pytest.fixture(scope="module")
def wrong_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "mine.py").write_text(CODE)
    (folder / "broken.py").write_text("def make(:")
    (folder / "lacking.py").write_text("import nothing_of_that_name")
    weights = dict(cu.build_network("alexnet").state_dict())
    save_file({**weights, "fc8.bias": torch.zeros(3)}, folder / "wrong.safetensors")
    save_file({"a": torch.zeros(2), "b": torch.zeros(2)}, folder / "w.safetensors")
    torch.save({"weights": weights, "code": said_by}, folder / "code.pt")
    torch.save(cu.build_network("alexnet"), folder / "whole.pt")
    with warnings.catch_warnings():  # torch would rather have none
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(folder / "script.pt")
    torch.save(3, folder / "number.pt")
    for name in ("noise.pt", "noise.safetensors"):
        (folder / name).write_bytes(b"noise" * 20)
    cu.save({"network": torch.zeros(2)}, folder / "rows.cu")
    return folder


@pytest.mark.parametrize(("name", "says"), WRONG_NETWORKS.items())
def test_a_wrong_network_is_refused_in_a_sentence(name, says, wrong_files, monkeypatch):
    if name.startswith("torchvision:"):
        pytest.importorskip("torchvision")
    monkeypatch.chdir(wrong_files)
    said = said_by(lambda: load_network(name))
    assert said.startswith("name: ")
    assert says in said


@pytest.mark.networks
@pytest.mark.parametrize("kind", ["", "alexnet@", "torchvision:", "timm:", "hf:", "json:", "a.py:", "npz:", "acts:"])
def test_long_names_are_cut(kind):
    for library, name in (("torchvision", "torchvision:"), ("timm", "timm:"), ("transformers", "hf:")):
        if kind == name:
            pytest.importorskip(library)
    for end in ("x" * 1000, "x" * 1000 + ".safetensors", "\n" * 400, "é/" * 300 + "a.py:make", "\udcff" * 200):
        assert said_by(lambda end=end: load_network(kind + end)).startswith("name: ")
        assert said_by(lambda end=end: load_inputs(kind + end)).startswith("name: ")


def test_other_arguments_and_lacking_libraries(monkeypatch, tmp_path):
    for wrong in (None, 3, nn.Linear(2, 2)):
        assert said_by(lambda wrong=wrong: load_network(wrong)).startswith("name: ")
    assert said_by(lambda: load_network("alexnet", seed=0.5)).startswith("seed: ")
    for library, name in (("torchvision", "torchvision:a"), ("timm", "timm:a"), ("transformers", f"hf:{tmp_path}")):
        monkeypatch.setitem(sys.modules, library, None)
        assert f"`pip install {library}`" in said_by(lambda name=name: load_network(name))


# inputs


def write(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Seven grey pictures, nested, of one brightness each, in the order of their paths; and what does not count."""
    names = ("a/0.png", "a/b/c/1.png", "a/d.png", "b.png", "c/2.png", "c/x.png", "z.png")
    for k, name in enumerate(names):
        write(tmp_path / name, np.full((6, 8), k, np.uint8))
    for name in (".hidden.png", ".folder/x.png", "__MACOSX/y.png"):
        write(tmp_path / name, np.full((6, 8), 99, np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def values(inputs):
    return [batch[:, 0, 0, 0].tolist() for batch in inputs.batches]


def test_a_folder_is_read_in_order_and_again(folder):
    inputs = load_inputs(f"folder:{folder}", batch=3)
    assert values(inputs) == values(inputs) == [[0, 1, 2], [3, 4, 5], [6]]
    assert (inputs.kind, inputs.length, len(inputs.batches)) == ("pictures", 7, 3)
    assert next(iter(inputs.batches)).shape == (3, 6, 8, 1)
    assert values(load_inputs(f"folder:{folder}", limit=3)) == [[0, 3, 6]]
    assert values(load_inputs(f"folder:{folder}", limit=99)) == [list(range(7))]
    assert "7 of 7 grey pictures" in inputs.description


def test_what_is_shown_is_all_that_is_read(folder):
    inputs = load_inputs(f"folder:{folder}", limit=3)
    for path in folder.rglob("*.png"):
        if path.name != "b.png":
            path.unlink()
    shown = inputs.shown([1])
    assert list(shown) == [1]
    assert shown[1].dtype == np.uint8
    assert shown[1].shape == (6, 8, 1)
    assert (shown[1] == 3).all()
    for wrong in (3, -1, "a"):
        assert said_by(lambda wrong=wrong: inputs.shown([wrong])).startswith("numbers: ")


def test_grey_and_colour_become_colour(folder):
    write(folder / "z2.png", np.full((6, 8, 3), (1, 2, 3), np.uint8))
    batch = next(iter(load_inputs(f"folder:{folder}").batches))
    assert batch.shape == (8, 6, 8, 3)
    assert batch[6].unique().tolist() == [6]
    assert batch[7, 0, 0].tolist() == [1, 2, 3]


def test_pictures_of_many_sizes_are_brought_to_one(folder):
    write(folder / "y.png", half(40, 20))
    said = said_by(lambda: load_inputs(f"folder:{folder}"))
    assert "y.png is of another size" in said
    assert "give a size" in said
    inputs = load_inputs(f"folder:{folder}", size=10)
    found = inputs.shown([6])[6]
    assert found.shape == (10, 10, 1)
    assert (found[:4] == 0).all()
    assert (found[6:] == 255).all()


def half(height, width):
    """The upper half black, the lower white."""
    return np.repeat(np.where(np.arange(height) < height // 2, 0, 255).astype(np.uint8)[:, None], width, 1)


def test_a_damaged_picture_is_named(folder):
    (folder / "broken.png").write_bytes(b"no picture at all")
    said = said_by(lambda: load_inputs(f"folder:{folder}"))
    assert "broken.png cannot be read" in said
    whole = (folder / "a/d.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[:-30])  # its header is right
    inputs = load_inputs(f"folder:{folder}")
    assert "broken.png cannot be read" in said_by(lambda: list(inputs.batches))


def test_arrays_and_data_sets(tmp_path):
    images = pictures(9, channels=2).numpy()
    np.savez(tmp_path / "a.npz", test_images=images, images=images[:2])
    inputs = load_inputs(f"npz:{tmp_path}/a.npz", batch=4)
    assert torch.equal(torch.cat(list(inputs.batches)), torch.from_numpy(images))
    assert (inputs.shown([5])[5] == images[5]).all()
    np.savez_compressed(tmp_path / "b.npz", images=images)
    assert next(iter(load_inputs(f"npz:{tmp_path}/b.npz", limit=2, size=4).batches)).shape == (2, 4, 4, 2)
    data = cu.load_dataset("fashion-mnist", split="test", limit=5)
    inputs = load_inputs("fashion-mnist", limit=5)
    assert torch.equal(next(iter(inputs.batches)), data.images)
    assert data.source in inputs.description


def test_texts(tmp_path):
    (tmp_path / "t.txt").write_text("\ufeffone\n\n  \ntwo é\r\nthree \u2028 more\n", encoding="utf-8")
    inputs = load_inputs(f"text:{tmp_path}/t.txt", batch=2)
    assert list(inputs.batches) == [["one", "two é"], ["three \u2028 more"]]
    assert (inputs.kind, inputs.length) == ("texts", 3)
    assert inputs.shown([2, 0]) == {2: "three \u2028 more", 0: "one"}
    assert list(load_inputs(f"text:{tmp_path}/t.txt", limit=2).batches) == [["one", "three \u2028 more"]]


def test_batches_of_a_function(code):
    def sizes(name, **options):
        inputs = load_inputs(f"{code}:{name}", **options)
        for _ in range(2):
            found = [batch[0] if isinstance(batch, (tuple, list)) else batch for batch in inputs.batches]
        return inputs.kind, inputs.length, [len(each) for each in found]

    assert sizes("pictures", batch=2) == ("pictures", 5, [2, 2, 1])
    assert sizes("pictures", batch=2, limit=3) == ("pictures", 3, [2, 1])
    assert sizes("batches") == ("other", 12, [3, 3, 3, 3])
    assert sizes("batches", limit=7) == ("other", 7, [3, 3, 1])
    assert sizes("dataset", batch=4) == ("other", 10, [4, 4, 2])
    texts = load_inputs(f"{code}:texts", limit=2)
    assert (texts.kind, texts.length, list(texts.batches)) == ("texts", 2, [["one", "two"]])
    assert texts.shown([1]) == {1: "two"}
    once = load_inputs(f"{code}:once", limit=5)
    assert once.length is None
    for _ in range(2):
        batches = list(once.batches)
        assert [len(batch["input_ids"]) for batch in batches] == [2, 2, 1]
        assert batches[2]["n"] == 2
    assert once.shown([4])[4]["input_ids"].tolist() == [2] * 5
    assert said_by(lambda: once.shown([6])).startswith("numbers: ")
    image = load_inputs(f"{code}:pictures").shown([4])[4]
    assert image.dtype == np.uint8
    assert image[0, 0, 0] == 64


WRONG_INPUTS = {
    "": "expected the name of data",
    "fashion-mnst": "did you mean 'fashion-mnist'",
    "folder": "did you mean 'folder:PATH'",
    "folder:": "put a path",
    "folder:nowhere": "there is no folder nowhere",
    "folder:nothing": "holds no picture",
    "npz:nowhere": "there is no file nowhere",
    "npz:noise.npz": "noise.npz is no file .npz",
    "npz:others.npz": "holds no array test_images or images, but labels, other",
    "npz:grey.npz": "expected pictures (n, height, width, channels) uint8, got (3, 4, 4) uint8",
    "text:nowhere": "there is no file",
    "text:empty.txt": "holds no text",
    "text:latin.txt": "as text in UTF-8",
    "mine.py:failing": "cannot be called",
    "mine.py:same": "one and the same iterator",
    "mine.py:empty": "without any batch",
    "mine.py:number": "must return an iterable of batches",
    "mine.py:numbers": "expected batches of tensors",
    "mine.py:shuffled": "shuffle=False",
    "mine.py:nothing": "has no function",
    "fodler:x": "did you mean folder:?",
    "acts:nowhere": "there is no file or folder",
    "acts:nothing": "holds no file that ends in",
    "acts:mine.py": "expected a file that ends in",
    "acts:noise.npz": "cannot read noise.npz",
    "acts:objects.npy": "cannot read objects.npy",
    "acts:objects.npz": "objects of Python",
    "acts:whole.npy": "floats of 16 to 64 bits",
    "acts:row.npy": "(samples, units)",
    "acts:unlike.npz": "as many samples each, got 3 in a, 4 in b",
    "acts:mixed": "parts of one kind",
    "acts:parts": "'activations' is (3,) float32 and in 0.npy (2,) float32",
}


@pytest.fixture(scope="module")
def wrong_data(wrong_files):
    folder = wrong_files
    for name in ("nothing", "mixed", "parts"):
        (folder / name).mkdir()
    (folder / "noise.npz").write_bytes(b"noise")
    np.savez(folder / "others.npz", labels=np.zeros(3), other=np.zeros(3))
    np.savez(folder / "grey.npz", images=np.zeros((3, 4, 4), np.uint8))
    (folder / "empty.txt").write_text("\n \n")
    (folder / "latin.txt").write_bytes(b"\xe9t\xe9")
    objects = np.array([[{}, {}]], dtype=object)
    np.save(folder / "objects.npy", objects)
    np.savez(folder / "objects.npz", a=objects)
    np.save(folder / "whole.npy", np.zeros((3, 2), int))
    np.save(folder / "row.npy", np.zeros(3))
    np.savez(folder / "unlike.npz", a=np.zeros((3, 2)), b=np.zeros((4, 2)))
    np.save(folder / "mixed/0.npy", np.zeros((3, 2)))
    save_file({"a": torch.zeros(3, 2)}, folder / "mixed/1.safetensors")
    np.save(folder / "parts/0.npy", np.zeros((3, 2), np.float32))
    np.save(folder / "parts/1.npy", np.zeros((3, 3), np.float32))
    return folder


@pytest.mark.parametrize(("name", "says"), WRONG_INPUTS.items())
def test_wrong_inputs_are_refused_in_a_sentence(name, says, wrong_data, monkeypatch):
    monkeypatch.chdir(wrong_data)
    said = said_by(lambda: load_inputs(name))
    assert said.startswith("name: ")
    assert says in said


@pytest.mark.parametrize("argument", ["limit", "size", "batch"])
@pytest.mark.parametrize("wrong", [0, -1, 0.5, "x", True])
def test_wrong_options_are_named(argument, wrong, folder):
    assert said_by(lambda: load_inputs(f"folder:{folder}", **{argument: wrong})).startswith(f"{argument}: ")
    assert said_by(lambda: load_inputs("text:a", size=3)).startswith("size: ")


# activations


def rows_of(path, **options):
    batches = list(load_inputs(f"acts:{path}", **options).batches)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_activations_of_numpy(tmp_path, save, order):
    rng = np.random.default_rng(0)
    arrays = {f"a.{dtype}": np.asarray(rng.normal(size=(7, 3)), dtype, order) for dtype in ("f2", "f4", "f8", ">f4")}
    arrays["maps"] = rng.normal(size=(7, 2, 3, 3))
    save(tmp_path / "a.npz", **arrays)
    np.save(tmp_path / "a.npy", arrays["a.f4"])
    found = rows_of(tmp_path / "a.npz", batch=3)
    for name, array in arrays.items():
        assert found[name].numpy().dtype == array.dtype.newbyteorder("=")
        assert (found[name].numpy() == array).all()
    assert (rows_of(tmp_path / "a.npy", batch=2)["activations"].numpy() == arrays["a.f4"]).all()
    assert rows_of(tmp_path / "a.npz", limit=4, batch=3)["maps"].shape == (4, 2, 3, 3)
    inputs = load_inputs(f"acts:{tmp_path}/a.npz")
    assert (inputs.kind, inputs.length) == ("activations", 7)
    assert (inputs.shown([5])[5]["maps"].numpy() == arrays["maps"][5]).all()
    pickle.loads(pickle.dumps(inputs))


def test_activations_of_safetensors_keep_their_types(tmp_path):
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    tensors = {f"x.{k}": torch.randn(5, 2).to(dtype) for k, dtype in enumerate(dtypes)}
    save_file(tensors, tmp_path / "a.safetensors")
    found = rows_of(tmp_path / "a.safetensors", batch=2)
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors"])
def test_parts_are_joined_in_the_order_of_their_numbers(tmp_path, kind):
    pieces = [np.full((k % 3 + 1, 2), k, np.float32) for k in range(12)]
    for k, piece in enumerate(pieces):
        path = tmp_path / f"part-{k}.{kind}"
        if kind == "npy":
            np.save(path, piece)
        elif kind == "npz":
            np.savez(path, activations=piece)
        else:
            save_file({"activations": torch.from_numpy(piece)}, path)
    (tmp_path / ".part-13.npy").write_bytes(b"hidden")
    whole = np.concatenate(pieces)
    for batch in (1, 5, 100):
        assert (rows_of(tmp_path, batch=batch)["activations"].numpy() == whole).all()
    assert len(saved_rows(str(tmp_path))) == len(whole)


def test_files_are_mapped_and_not_read(tmp_path):
    """A file of 16 GB, of which there is nothing on the disk but what is written."""
    big = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (2**22, 1000))
    big[:2], big[-1] = 1, 2
    big.flush()
    del big
    inputs = load_inputs(f"acts:{tmp_path}/a.npy", batch=2)
    assert next(iter(inputs.batches))["activations"].unique().tolist() == [1]
    assert inputs.shown([2**22 - 1])[2**22 - 1]["activations"].unique().tolist() == [2]
    (tmp_path / "a.npy").unlink()


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_what_lies_in_files_is_seen_when_it_is_read(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    save = np.save if kind == "npy" else np.savez
    save(path, np.zeros((4, 3)))
    inputs = load_inputs(f"acts:{path}")
    save(path, np.ones((4, 3)))
    (rows,) = next(iter(inputs.batches)).values()
    assert (rows == 1).all()


def test_saved_activations_are_recorded_as_any_others():
    names = ["conv1", "block.0", "block.0.norm", "block", "type", "training.forward"]
    rows = {name: torch.randn(5, k + 1) for k, name in enumerate(names)}
    network = SavedActivations(names)
    assert set(names) <= {name for name, _ in network.named_modules()}
    found = {}
    for name, module in network.named_modules():
        if name in rows:
            module.register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
    network(**rows)
    assert all(found[name] is rows[name] for name in names)
    assert said_by(lambda: network(other=torch.zeros(2, 2))).startswith("inputs: ")
    assert said_by(lambda: SavedActivations(["a..b"])).startswith("layers: ")
    types = SavedActivations({"a": torch.float64, "b": torch.bfloat16})
    assert next(types.buffers()).dtype == torch.float64


def test_inputs_that_were_saved_say_the_type_of_each_layer(tmp_path):
    np.savez(tmp_path / "mine.npz", one=np.zeros((3, 2), "f2"), two=np.zeros((3, 4), "f4"))
    (tmp_path / "lines.txt").write_text("one\ntwo\n", encoding="utf-8")
    assert load_inputs(f"acts:{tmp_path}/mine.npz").layers == {"one": torch.float16, "two": torch.float32}
    assert load_inputs(f"text:{tmp_path}/lines.txt").layers == {}


def test_a_loader_that_a_function_makes_can_be_sent_to_other_processes(tmp_path, monkeypatch):
    text = "import torch\nfrom torch.utils.data import DataLoader\n"
    text += "def loader(): return DataLoader(torch.arange(12.0).reshape(6, 2), batch_size=4)\n"
    (tmp_path / "loaders_of_mine.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    inputs = load_inputs("loaders_of_mine:loader", limit=5)
    sent = pickle.loads(pickle.dumps(inputs.batches))
    assert torch.equal(torch.cat(list(sent)), torch.arange(10.0).reshape(5, 2))
