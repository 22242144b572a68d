import os
from pathlib import Path

import numpy as np
import pytest
import torch

import convergent_utils as cu
from convergent_utils.nets import datasets


@pytest.mark.parametrize(("split", "per_class"), [("train", 2000), ("test", 1000)])
def test_fashion_mnist_is_complete_and_balanced(split, per_class):
    data = cu.load_dataset("fashion-mnist", split=split)
    assert data.images.shape == (10 * per_class, 28, 28, 1)
    assert data.images.dtype == torch.uint8
    assert data.labels.dtype == torch.int64
    assert data.labels.bincount().tolist() == [per_class] * 10
    assert len(data.classes) == 10


def test_altered_data_are_noticed(tmp_path, monkeypatch):
    with np.load(datasets._DATA / "fashion-mnist.npz") as file:
        arrays = dict(file)
    arrays["test_images"][0, 14, 14] ^= 1
    np.savez_compressed(tmp_path / "fashion-mnist.npz", **arrays)
    monkeypatch.setattr(datasets, "_DATA", tmp_path)
    with pytest.raises(ValueError, match="altered"):
        cu.load_dataset("fashion-mnist", split="test")


def test_a_limit_keeps_every_class_of_a_sorted_file(own_file):
    data = cu.load_dataset(f"npz:{own_file}", limit=6)
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(cu.load_dataset(f"npz:{own_file}", limit=10_000)) == 40


@pytest.fixture
def own_file(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), dtype=np.uint8)
    labels = np.repeat([0, 1], 20)
    path = tmp_path / "own.npz"
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels, classes=["a", "b"])
    return path


def test_own_file_and_relative_paths(own_file, monkeypatch):
    monkeypatch.chdir(own_file.parent)
    data = cu.load_dataset("npz:own.npz", split="test")
    assert data.classes == ("a", "b")
    assert data.images.shape == (40, 12, 12, 3)
    absolute = datasets.absolute_name("npz:own.npz")
    monkeypatch.chdir("/")
    assert cu.load_dataset(absolute).source.startswith("npz@")
    assert datasets.absolute_name("cifar10") == "cifar10"


def test_source_follows_the_contents(own_file):
    first = cu.load_dataset(f"npz:{own_file}").source
    with np.load(own_file) as file:
        arrays = dict(file)
    np.savez_compressed(own_file, **arrays)
    assert cu.load_dataset(f"npz:{own_file}").source == first
    arrays["train_labels"] = arrays["train_labels"][::-1]
    np.savez(own_file, **arrays)
    assert cu.load_dataset(f"npz:{own_file}").source != first


def test_a_folder_of_images(tmp_path):
    pytest.importorskip("torchvision", reason="reading folders of images needs torchvision")
    from PIL import Image

    for split in ("train", "test"):
        for k, label in enumerate(("cat", "dog")):
            (tmp_path / split / label).mkdir(parents=True)
            for n in range(3):
                Image.new("RGB", (16, 16), (100 * k, 0, n)).save(tmp_path / split / label / f"{n}.png")
    data = cu.load_dataset(f"folder:{tmp_path}", limit=4)
    assert data.classes == ("cat", "dog")
    assert data.images.shape == (4, 16, 16, 3)
    assert (data.images[:, 0, 0, 0] // 100).tolist() == data.labels.tolist() == [0, 0, 1, 1]
    Image.new("RGB", (17, 16)).save(tmp_path / "train" / "cat" / "odd.png")
    with pytest.raises(ValueError, match="one size"):
        cu.load_dataset(f"folder:{tmp_path}")
    (tmp_path / "train" / "cat" / "odd.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"odd\.png cannot be read"):
        cu.load_dataset(f"folder:{tmp_path}")
    (tmp_path / "train" / "bird").mkdir()
    with pytest.raises(ValueError, match="bird"):
        cu.load_dataset(f"folder:{tmp_path}")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match="find any class"):
        cu.load_dataset(f"folder:{tmp_path / 'empty'}")


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_missing_downloads_say_where_to_put_them(name, tmp_path, monkeypatch):
    pytest.importorskip("torchvision", reason="these data sets are read through torchvision")
    monkeypatch.setenv("CONVERGENT_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="CONVERGENT_DATA"):
        cu.load_dataset(name)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("fashion-mnst", {}, "did you mean 'fashion-mnist'"),
        ("npz:nowhere.npz", {}, "no file nowhere.npz"),
        ("folder:nowhere", {}, "no folder nowhere"),
        ("npz:PATH", {}, "no file PATH"),
        ("fashion-mnist", {"split": "tset"}, "did you mean 'test'"),
        ("fashion-mnist", {"limit": 0}, "limit: expected a positive"),
    ],
)
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        cu.load_dataset(name, **arguments)


def test_a_file_of_another_form_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", train_images=np.zeros((4, 8, 8)), train_labels=np.zeros(4), classes=["a"])
    with pytest.raises(ValueError, match="uint8"):
        cu.load_dataset(f"npz:{tmp_path / 'x.npz'}")
    with pytest.raises(ValueError, match="cannot read"):
        cu.load_dataset(f"npz:{tmp_path / 'x.npz'}", split="test")
    (tmp_path / "y.npz").write_bytes(b"not a zip file")
    with pytest.raises(ValueError, match="cannot read"):
        cu.load_dataset(f"npz:{tmp_path / 'y.npz'}")
    for labels in ([0, 1, 2, 0], [0, -1, 0, 0], [0.0, 0.5, 1.0, 0.0], ["a", "b", "a", "b"]):
        np.savez(
            tmp_path / "z.npz",
            train_images=np.zeros((4, 8, 8, 1), np.uint8),
            train_labels=np.array(labels),
            classes=["a", "b"],
        )
        with pytest.raises(ValueError, match="whole labels of 2 classes"):
            cu.load_dataset(f"npz:{tmp_path / 'z.npz'}")


def test_normalise():
    images = torch.tensor([0, 255], dtype=torch.uint8).expand(3, 4, 5, 2)
    inputs = cu.normalise(images)
    assert inputs.shape == (3, 2, 4, 5)
    assert inputs.dtype == torch.float32
    assert (inputs[:, 0] == -1).all()
    assert (inputs[:, 1] == 1).all()
    with pytest.raises(ValueError, match="uint8"):
        cu.normalise(images.float())


def test_the_optional_colour_file():
    path = os.environ.get("CONVERGENT_COLOUR")
    if not path:
        pytest.skip("CONVERGENT_COLOUR does not name a file of colour images")
    data = cu.load_dataset(f"npz:{Path(path)}", split="test", limit=100)
    assert data.images.shape[3] == 3
    network = cu.build_network("alexnet", channels=3, classes=len(data.classes))
    assert cu.predict(network, data).shape == (100, len(data.classes))


def test_a_part_is_spread_over_the_whole_and_says_so():
    data = cu.load_dataset("fashion-mnist", limit=100)
    part = data.part(10)
    assert torch.equal(part.images, data.images[torch.arange(0, 100, 11)])
    assert torch.equal(part.labels, data.labels[torch.arange(0, 100, 11)])
    assert part.source == f"{data.source}, 10 of 100"
    assert len(data.part(1000)) == 100
    for limit in (0, -1):
        with pytest.raises(ValueError, match="limit: expected a positive number"):
            data.part(limit)
