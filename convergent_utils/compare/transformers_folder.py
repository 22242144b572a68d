"""A local folder of transformers: its network, its tokenizer or the sizes of its pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from torch import nn

from ..kernels.checks import in_one_line, shown
from .named import lacking, refused, seeded
from .preparing import BYTES, Bytes, Pictures, Tokenizer, Tokens

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
_PICTURES = "preprocessor_config.json"
_LONGEST = ("max_position_embeddings", "n_positions", "max_sequence_length")  # as configurations call it
_LOCAL = {"local_files_only": True, "trust_remote_code": False}
_POOLER = "pooler"  # lacks in what was trained without it
_HALF = 0.5


def load_folder(folder: str, seed: int) -> tuple[nn.Module, Callable | None, str, Callable[[int], nn.Module], bool]:
    """The network of a folder, how it is fed, what it is, what makes it with other weights, and whether its are drawn.

    Raises:
        ValueError: transformers is not installed, or something of the folder is missing, cannot be read or does not
            fit.
    """
    transformers = _transformers(folder)
    folder = os.path.expanduser(folder)
    if not os.path.isfile(os.path.join(folder, "config.json")):
        said = f"there is no file config.json in {shown(folder, 80)}"
        raise ValueError(f"name: {said}; hf: takes a local folder as save_pretrained writes it, nothing is downloaded")
    with _told(f"transformers cannot read {shown(folder, 80)}"), _quiet(transformers):
        config = transformers.AutoConfig.from_pretrained(folder, **_LOCAL)

    untrained = partial(_drawn, folder, config)
    if any(os.path.isfile(os.path.join(folder, each)) for each in _WEIGHTS):
        network, drawn = _read(transformers, folder, seed)
        said = "weights of its model.safetensors" + (f", {drawn} drawn from seed {seed}" if drawn else "")
    elif pickled := next((each for each in _PICKLED if os.path.isfile(os.path.join(folder, each))), None):
        mend = "write it again by model.save_pretrained(folder), which makes model.safetensors"
        raise ValueError(f"name: {pickled} in {shown(folder, 80)} is a pickle, which could run code; {mend}")
    else:
        network, said = untrained(seed), f"weights drawn from seed {seed}"
    prepare, how = _prepared(transformers, folder, config)
    description, drawn = f"hf:{shown(folder)} ({type(network).__name__}), {said}{how}", said.startswith("weights drawn")
    return network.eval(), prepare, description, untrained, drawn


def _drawn(folder: str, config: object, seed: int) -> nn.Module:
    """The network of a configuration with weights drawn from a seed."""
    transformers = _transformers(folder)
    with _told(f"transformers cannot make {shown(folder, 80)}"), _quiet(transformers):
        return seeded(lambda: transformers.AutoModel.from_config(config, trust_remote_code=False), seed).eval()


def _transformers(folder: str) -> ModuleType:
    try:
        import transformers
        from transformers import AutoConfig, AutoModel, AutoTokenizer  # noqa: F401  # here they are imported in truth
    except ImportError as error:
        raise lacking(f"hf:{folder}", "transformers", error) from error
    return transformers


def _read(transformers: ModuleType, folder: str, seed: int) -> tuple[nn.Module, str]:
    """The network with its weights, and which of them were not there."""
    options = {**_LOCAL, "use_safetensors": True, "output_loading_info": True}
    with _told(f"transformers cannot read {shown(folder, 80)}"), _quiet(transformers):
        network, found = seeded(lambda: transformers.AutoModel.from_pretrained(folder, **options), seed)
    missing, mismatched = (sorted(map(str, found.get(key, ()))) for key in ("missing_keys", "mismatched_keys"))
    drawn = [name for name in missing if name.startswith(_POOLER)]
    others = [name for name in missing if name not in drawn]
    for how, names in (("lack", others), ("have in another shape", mismatched)):
        if names:
            said = f"{in_one_line(', '.join(names[:3]), 120)} ({len(names)} in all)"
            raise ValueError(f"name: the weights in {shown(folder, 60)} do not fit its config.json: they {how} {said}")
    return network, _POOLER if drawn else ""


def _prepared(transformers: ModuleType, folder: str, config: object) -> tuple[Callable | None, str]:
    """How the network is fed, and what is to be said of it."""
    text = getattr(config, "get_text_config", lambda: config)()
    vocabulary = getattr(text, "vocab_size", None)
    if vocabulary is None:
        return _pictures(folder, config)
    longest = next((size for key in _LONGEST if isinstance(size := getattr(text, key, None), int) and size > 0), None)
    if any(os.path.isfile(os.path.join(folder, each)) for each in _TOKENIZER):
        with _told(f"transformers cannot read the tokenizer in {shown(folder, 80)}"), _quiet(transformers):
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **_LOCAL)
        return _tokens(tokenizer, longest), ""
    if vocabulary < BYTES:
        mend = f"bytes need a vocabulary of {BYTES}, and it has {vocabulary}; save the tokenizer in the folder"
        raise ValueError(f"name: there is no tokenizer in {shown(folder, 80)}; {mend}")
    return Bytes(BYTES if vocabulary > BYTES else 0, longest), ", texts as bytes"


def _tokens(tokenizer: Tokenizer, longest: int | None) -> Tokens:
    tokenizer.padding_side = "right"  # so that what stands before is the same, alone or beside longer texts
    if tokenizer.pad_token is None:  # any will do where the mask is 0
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    limits = [limit for limit in (tokenizer.model_max_length, longest) if limit is not None and limit < 10**9]
    return Tokens(tokenizer, min(limits, default=None))


def _pictures(folder: str, config: object) -> tuple[Pictures | None, str]:
    """Pictures as its preprocessor_config.json says, or of the size in its configuration."""
    path, size = os.path.join(folder, _PICTURES), getattr(config, "image_size", None)
    channels = getattr(config, "num_channels", None)
    if not os.path.isfile(path):
        if channels is None:
            return None, ", inputs as they are"
        usual = (_HALF,) * channels
        return Pictures(
            usual, usual, _sides(size), key="pixel_values"
        ), f", pictures in [-1, 1] for want of {_PICTURES}"
    with _told(f"cannot read {_PICTURES} in {shown(folder, 80)}"):
        with open(path, encoding="utf-8") as file:
            known = json.load(file)
        size = _sides(known.get("crop_size") if known.get("do_center_crop") else None) or _sides(known.get("size"))
        mean, std = (tuple(map(float, known[key])) for key in ("image_mean", "image_std"))
        if not known.get("do_normalize", True):
            mean, std = (0.0,) * len(mean), (1.0,) * len(std)
        return Pictures(mean, std, size if known.get("do_resize", True) else None, key="pixel_values"), ""


def _sides(size: Any) -> tuple[int, int] | None:
    """Height and width, as configurations write them in many ways."""
    if isinstance(size, dict):
        size = (size["height"], size["width"]) if "height" in size else size.get("shortest_edge")
    if size is None:
        return None
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


@contextmanager
def _told(what: str) -> Generator[None]:
    """What transformers raises, in one sentence."""
    try:
        yield
    except Exception as error:  # it raises many kinds of error
        raise refused(error, what) from error


@contextmanager
def _quiet(transformers: ModuleType) -> Generator[None]:
    """Within it transformers says nothing, and draws no bar."""
    logging = transformers.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
