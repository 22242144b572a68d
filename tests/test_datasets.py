import io
import os
import struct
import zipfile
import zlib
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


@pytest.mark.parametrize(
    ("classes", "read"),
    [
        (np.array([name.encode() for name in ("Käse", "b")]), ("Käse", "b")),
        (np.array([3, 7], np.uint8), ("3", "7")),
        (np.array([b"\xff", b"b"]), None),
        (np.array([["a"], ["b"]]), None),
        (np.zeros(2, "V3"), None),
        (np.array(2), None),
    ],
)
def test_classes_are_text_bytes_or_numbers(own_file, classes, read):
    with np.load(own_file) as file:
        np.savez(own_file, **{**file, "classes": classes})
    if read is None:
        with pytest.raises(ValueError, match=r"^name: cannot read .*own.npz: "):
            cu.load_dataset(f"npz:{own_file}")
    else:
        assert cu.load_dataset(f"npz:{own_file}").classes == read


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


@pytest.fixture
def image_module():
    return pytest.importorskip("PIL.Image", reason="reading folders of images needs Pillow")


@pytest.fixture
def folder(tmp_path, image_module):
    """Two splits; what a pixel holds is its class: 10 for a, 20 for b, 30 for c, which the test images lack."""
    for split, classes in (("train", "abc"), ("test", "bc")):
        for name in classes:
            (tmp_path / split / name).mkdir(parents=True)
            pixels = image_module.new("RGB", (12, 12), (10 * (1 + "abc".index(name)), 0, 0))
            pixels.save(tmp_path / split / name / "1.png")
    return tmp_path


def test_a_label_means_the_same_in_both_splits(folder):
    for split in ("train", "test"):
        data = cu.load_dataset(f"folder:{folder}", split=split)
        assert data.classes == ("a", "b", "c")
        assert (data.images[:, 0, 0, 0] // 10 - 1).tolist() == data.labels.tolist()
    (folder / "test" / "0").mkdir()
    (folder / "test" / "c" / "1.png").rename(folder / "test" / "0" / "1.png")
    with pytest.raises(ValueError, match=r"name: expected an image in .*test/c"):
        cu.load_dataset(f"folder:{folder}", split="test")
    assert cu.load_dataset(f"folder:{folder}").classes == ("0", "a", "b", "c")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_hidden_files_and_links_that_lead_back_do_not_count(folder):
    before = cu.load_dataset(f"folder:{folder}")
    image = (folder / "train" / "a" / "1.png").read_bytes()
    for hidden in (".ipynb_checkpoints/1-checkpoint.png", "a/.ipynb_checkpoints/1.png", "a/._1.png", "a/.trash/1.png"):
        path = folder / "train" / hidden
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image)
    links = {"a/itself": "a", "a/up": "", "a/other": "b", "self": "", "b/splits": "..", "c/all": "/"}
    links |= {"round": "round", "d": "../test", "a/test": "../test", "b/round": "b/round"}
    for link, target in links.items():
        (folder / "train" / link).symlink_to(folder / "train" / target if target != "/" else "/")
    (folder / "train" / "a" / "2.png").symlink_to(folder / "train" / "a" / "1.png")
    after = cu.load_dataset(f"folder:{folder}")
    assert after.source == before.source
    assert after.classes == before.classes
    (folder / "train" / "e").symlink_to(folder / "test" / "b")  # a class may lie elsewhere
    assert len(cu.load_dataset(f"folder:{folder}")) == 4


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_class_linked_under_a_second_name_is_refused(folder):
    (folder / "train" / "again").symlink_to(folder / "train" / "c")
    with pytest.raises(ValueError, match=r"^name: expected a folder for each class, got one for 'again' and 'c' in"):
        cu.load_dataset(f"folder:{folder}")


def test_what_zip_files_leave_is_no_class(folder):
    before = cu.load_dataset(f"folder:{folder}")
    for left in ("train/__MACOSX", "train/a/__MACOSX"):
        (folder / left).mkdir()
        (folder / left / "1.png").write_bytes((folder / "train" / "a" / "1.png").read_bytes())
    after = cu.load_dataset(f"folder:{folder}")
    assert (after.source, after.classes) == (before.source, before.classes)


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_brought_to_eight_by_their_range(folder, image_module, ending):
    values = np.array([0, 128, 129, 300, 32768, 65535], np.uint16)
    pixels = image_module.fromarray(np.resize(values, (12, 12)))
    (folder / "train" / "a" / "1.png").unlink()
    pixels.save(folder / "train" / "a" / f"1.{ending}")
    found = cu.load_dataset(f"folder:{folder}").images[0, 0, :6]
    assert torch.equal(found[:, 0], found[:, 2])
    assert found[:, 0].tolist() == [0, 0, 1, 1, 128, 255]


def twelve_bits(image_module):
    """A picture that says 12 bits, as cameras write it."""
    picture = image_module.fromarray(np.full((12, 12), 4095, np.uint16))
    out = io.BytesIO()
    picture.save(out, "tiff")
    content = out.getvalue()
    return content.replace(b"\x02\x01\x03\x00\x01\x00\x00\x00\x10\x00", b"\x02\x01\x03\x00\x01\x00\x00\x00\x0c\x00")


@pytest.mark.parametrize(
    "picture",
    [
        lambda image: image.fromarray(np.full((12, 12), 70_000, np.int32)),
        lambda image: image.fromarray(np.full((12, 12), 0.5, np.float32)),
        twelve_bits,
        lambda image: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 12\nshowpage\n",
        lambda image: png_of(50_000, 50_000),
        lambda image: png_of(10_000, 9_000),
        lambda image: b"",
    ],
    ids=["32 bits", "floats", "12 bits", "PostScript", "huge", "large", "empty"],
)
def test_a_picture_that_would_be_read_wrongly_is_refused(folder, image_module, monkeypatch, picture, recwarn):
    pytest.importorskip("PIL.EpsImagePlugin")
    monkeypatch.setattr("PIL.EpsImagePlugin.EpsImageFile.load", lambda self: pytest.fail("another program is started"))
    made, path = picture(image_module), folder / "train" / "a" / "1.tiff"
    path.write_bytes(made) if isinstance(made, bytes) else made.save(path)
    with pytest.raises(ValueError, match=r"^name: .*1\.tiff cannot be read: ") as refused:
        cu.load_dataset(f"folder:{folder}")
    assert len(str(refused.value)) <= 300
    assert not recwarn.list


def png_of(width, height):
    """The beginning of a picture of that size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_is_refused_at_once(folder):
    os.mkfifo(folder / "train" / "a" / "2.png")
    with pytest.raises(ValueError, match=r"name: .*2\.png cannot be read: .* no regular file"):
        cu.load_dataset(f"folder:{folder}")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK"])
def test_other_kinds_of_pixels_become_colours(folder, image_module, mode, recwarn):
    red = image_module.new("RGB", (12, 12), (200, 0, 0))
    picture = red.convert(mode) if mode != "1" else red.convert("L").point(lambda value: 255, "1")
    if mode == "P":
        picture.info["transparency"] = b"\0" * 256
    (folder / "train" / "a" / "1.png").unlink()
    picture.save(folder / "train" / "a" / ("1.tiff" if mode == "CMYK" else "1.png"))
    colour = cu.load_dataset(f"folder:{folder}").images[0, 5, 5].tolist()
    expected = {"1": [255] * 3, "L": [60] * 3, "LA": [60] * 3}.get(mode, [200, 0, 0])
    assert colour == pytest.approx(expected, abs=6)
    assert not recwarn.list


def test_files_that_say_they_are_too_large_are_not_read(own_file, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_LARGEST", 40 * 12 * 12 * 3)
    with pytest.raises(ValueError, match=r"name: cannot read .*own\.npz: it holds .* GiB for train; at most"):
        cu.load_dataset(f"npz:{own_file}")
    monkeypatch.undo()
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("train_images", "train_labels", "classes"):
            file.writestr(f"{name}.npy", b"\0" * 1000)
    content = (tmp_path / "bomb.npz").read_bytes()
    (tmp_path / "bomb.npz").write_bytes(content.replace(struct.pack("<I", 1000), struct.pack("<I", 2**32 - 2)))
    with pytest.raises(ValueError, match=r"it holds 12\.0 GiB for train; at most 8 are read"):
        cu.load_dataset(f"npz:{tmp_path / 'bomb.npz'}")


def test_labels_of_any_whole_type_are_read():
    images = torch.zeros(3, 12, 12, 1, dtype=torch.uint8)
    for labels in ([0, 2, 1], np.array([0, 2, 1], np.uint16), torch.tensor([0, 2, 1], dtype=torch.uint8)):
        data = cu.Dataset(images, labels, ["a", "b", "c"], "mine")
        assert data.labels.dtype == torch.int64
        assert data.labels.tolist() == [0, 2, 1]
        assert data.classes == ("a", "b", "c")
