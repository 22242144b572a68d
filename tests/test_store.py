import os
import subprocess
import sys
import time

import pytest
import torch

import convergent_utils as cu
from convergent_utils.nets.store import DamagedFile, Store, configuration_hash

CONFIGURATION = {"seed": 1, "recipe": {"rate": 1e-3}, "data": ["a", "b"]}


@pytest.fixture
def pair(generator):
    return cu.pair_moments(*torch.randn(2, 50, 6, generator=generator))


def test_everything_comes_back_as_it_was(tmp_path, pair, generator):
    trained = cu.train(cu.build_network("alexnet-narrow", seed=2), cu.load_dataset("fashion-mnist", limit=64),
                       cu.Recipe(epochs=1, batch=32), seed=2)  # fmt: skip
    obj = {"pair": pair, "nested": [(1, 2.5, None), {"text": True}], 3: cu.correlation(pair), "trained": trained}
    cu.save(obj, tmp_path / "x.safetensors")
    back = cu.load(tmp_path / "x.safetensors")
    assert list(back) == ["pair", "nested", 3, "trained"]
    assert back["nested"] == [(1, 2.5, None), {"text": True}]
    assert back["pair"].n_samples == 50
    assert torch.equal(back["pair"].cov_ab, pair.cov_ab)
    assert torch.equal(back[3].live_a, cu.correlation(pair).live_a)
    assert torch.equal(back["trained"].at(0.35).fc8.weight, trained.at(0.35).fc8.weight)
    assert back["trained"].network.configuration == trained.network.configuration
    assert torch.equal(back["trained"].network.fc8.weight, trained.network.fc8.weight)


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="cannot save a Linear"):
        cu.save({"net": torch.nn.Linear(2, 2)}, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["truncate", "flip a value", "flip the text", "empty", "another file"])
def test_a_damaged_file_is_named_and_made_again(tmp_path, pair, harm):
    store = Store(tmp_path)
    path = store.keep("pair", CONFIGURATION, pair)
    content = bytearray(path.read_bytes())
    if harm == "truncate":
        content = content[:-100]
    elif harm == "flip a value":
        content[-50] ^= 1
    elif harm == "flip the text":
        content[content.index(b"n_samples") + 14] ^= 1
    elif harm == "empty":
        content = b""
    else:
        content = b"something else entirely"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=path.name):
        cu.load(path)
    with pytest.warns(UserWarning, match=f"{path.name}.* is damaged.*made again"):
        assert store.find("pair", CONFIGURATION) is None
    assert not path.exists()
    store.keep("pair", CONFIGURATION, pair)
    assert torch.equal(store.find("pair", CONFIGURATION).cov_ab, pair.cov_ab)


def test_configurations_tell_results_apart(tmp_path, pair):
    store = Store(tmp_path)
    store.keep("pair", CONFIGURATION, pair)
    assert store.find("pair", {**CONFIGURATION, "seed": 2}) is None
    assert store.find("network", CONFIGURATION) is None
    assert configuration_hash(dict(reversed(CONFIGURATION.items()))) == configuration_hash(CONFIGURATION)
    assert configuration_hash({"a": (1, 2)}) == configuration_hash({"a": [1, 2]})


def test_where_the_store_is(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVERGENT_STORE", str(tmp_path / "elsewhere"))
    assert Store().path == tmp_path / "elsewhere"
    monkeypatch.delenv("CONVERGENT_STORE")
    assert Store().path.parts[-2:] == ("build", "store")


def test_an_unwritable_store_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="CONVERGENT_STORE: cannot write in .*file"):
        Store(tmp_path / "file").require_writable()
    Store(tmp_path / "new" / "folder").require_writable()
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_files_are_readable_by_others(tmp_path, pair):
    before = os.umask(0o022)
    try:
        assert Store(tmp_path).keep("pair", CONFIGURATION, pair).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


WRITER = """
import sys, torch
from convergent_utils.nets.store import Store
store = Store(sys.argv[1])
for k in range(10_000):
    store.keep("x", {"which": "one"}, {"values": torch.full((200_000,), float(k))})
    print(k, flush=True)
"""


def test_killed_in_the_middle_of_writing_leaves_a_whole_file(tmp_path):
    for delay in (0.0, 0.013, 0.031):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.wait()
        values = Store(tmp_path).find("x", {"which": "one"})["values"]
        assert (values == values[0]).all()
