"""The commands `convergent measure` and `convergent compare`."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from torch import nn

from ..kernels.checks import came
from ..making.store import Store, save
from ..nets.inputs import Entrance, Prepare, n_inputs
from ..nets.measurement import Measurement
from ..nets.measuring import measure
from ..nets.modes import input_like
from ..nets.naming import called_layers
from ..nets.untrained import reinitialised, untrained_of
from .comparison import Comparison, compare
from .data import Inputs, load_inputs
from .networks import load_network
from .preparing import fed, in_pieces
from .saved import SavedActivations

EXAMPLES = """examples:
  convergent compare torchvision:resnet18 torchvision:resnet34 --data folder:pictures --layers layer1 layer2 layer3
  convergent compare hf:my-gpt2 hf:other-gpt2 --data text:sentences.txt --layers "h.*" --positions last
  convergent compare acts:mine.npz acts:theirs.npz --out report.html
"""
_BATCH, _BATCH_OF_TEXTS = 128, 32  # fewer texts are padded less
_MOST_LAYERS = 6  # that are chosen where none are named
_TRAINED_SEEDS = 10_000  # after which those of untrained copies begin


@dataclass(frozen=True)
class Given:
    """What is measured.

    Attributes:
        networks: by name, untrained copies among them.
        inputs, prepare, mask: for `measure`.
        shown: where inputs are found again, to be shown, texts in tokens; None for saved activations.
        about: a line on each network and on the inputs.
        notes: what could not be had, a sentence each.
    """

    networks: dict[str, nn.Module]
    inputs: Iterable[object] | Mapping[str, Iterable[object]]
    prepare: Mapping[str, Prepare | None] | None
    mask: str | None
    shown: Inputs | Callable[[list[int]], dict[int, object]] | None
    about: dict[str, str]
    notes: list[str]


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Declare both commands."""
    how = argparse.RawDescriptionHelpFormatter
    for name, told in (
        ("measure", "measure networks on the same inputs and keep what is needed to compare them"),
        ("compare", "measure networks on the same inputs, compare all pairs, and write a report"),
    ):
        parser = commands.add_parser(name, help=told, description=f"{told}.", epilog=EXAMPLES, formatter_class=how)
        parser.add_argument(
            "networks", nargs="+", metavar="NETWORK",
            help="module:function, torchvision:NAME[@WEIGHTS], timm:NAME[@WEIGHTS], hf:FOLDER, alexnet[@WEIGHTS], a "
            "file of cu.save, or acts:FILE, saved activations of one network",
        )  # fmt: skip
        _add_options(parser)
        if name == "measure":
            parser.add_argument(
                "--out", default="measured.safetensors", help="file to write, for cu.load (%(default)s)"
            )
        else:
            _add_options_of_compare(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", help="folder:PATH, npz:PATH, text:FILE, fashion-mnist, module:function; needed but for acts:")
    add(
        "--layers",
        nargs="+",
        help="names or patterns; or COMMON=NAME,NAME,... with a name in each network; usual: up to six, first to last",
    )
    add("--names", nargs="+", help="what the networks are called")
    add(
        "--positions",
        default="all",
        help='"all", "mean", "centre", "first", "last" or a number of places (%(default)s)',
    )
    add("--mask", help="key of a batch that tells which rows count; of texts that of their padding")
    add("--limit", type=int, help="this many inputs, spread over all")
    add("--size", type=int, help="pictures are brought to this many pixels")
    add("--batch", type=int, help=f"inputs at once ({_BATCH}, of texts {_BATCH_OF_TEXTS})")
    add("--sample", type=int, default=4096, help="rows of the aligned sample (%(default)s)")
    add("--seed", type=int, default=0, help="of weights that are drawn, and of all else (%(default)s)")
    add("--flattened", action="store_true", help="CKA of whole maps, too, where they are not too large")
    add("--no-untrained", action="store_true", help="leave out the untrained baseline, half of the time")
    add("--processes", type=int, default=1, help="that measure together (%(default)s)")
    add("--device", default="auto", help='"auto" or a device of torch (%(default)s)')
    add("--store", help="folder where results are kept, so that an interrupted run goes on; usual: the project's")


def _add_options_of_compare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", default="report.html", help="page to write (%(default)s)")
    add("--pairs", choices=["same", "all"], default="same", help="layers of the same name, or each with each")
    add("--similarities", nargs="+", help="names, such as 'bipartite matching'; usual: all")
    add("--minutes", type=float, help="leave out, and name, what would not fit into these")
    add("--turns", type=int, default=20, help="random rotations of the rotated baseline (%(default)s)")
    add("--shuffles", type=int, default=19, help="shuffles of the finite-sample baseline (%(default)s)")
    add("--json", action="store_true", help="print all numbers as JSON")


def run_measure(chosen: argparse.Namespace) -> int:
    """`convergent measure`."""
    _require_folder(chosen.out)
    given = _given(chosen)
    measured = _measured(chosen, given)
    save(measured, chosen.out)
    for note in given.notes:
        print(f"left out: {note}")
    blocks = ", ".join(f"{name} ({units})" for name, units in measured.blocks.items())
    print(f"{measured.n_images} inputs, units of {blocks}; written to {chosen.out}")
    return 0


def run_compare(chosen: argparse.Namespace) -> int:
    """`convergent compare`."""
    from .answers import answers
    from .collected import as_json
    from .report import as_page_path
    from .report import save as save_page

    if len(chosen.networks) < 2:
        raise ValueError("networks: expected two or more to compare, got one")
    _require_folder(chosen.out)
    as_page_path(chosen.out)  # said now, and not after all has been computed
    given = _given(chosen)
    measured, found = _measured(chosen, given), []
    names = [name for name in given.networks if not name.endswith(untrained_of(""))]
    pairs = list(combinations(names, 2))
    for a, b in pairs:
        found.append(_compared(chosen, measured, a, b, len(pairs)))
    path = save_page(found, chosen.out, inputs=given.shown, about=given.about, extra=_extra(given))
    if chosen.json:
        print(json.dumps(as_json(found)))
        return 0
    for answer in answers(found):
        print(f"{answer.question} {answer.sentence}")
    for caution in dict.fromkeys(caution for one in found for caution in one.cautions):
        print(f"caution: {caution}")
    for note in given.notes:
        print(f"left out: {note}")
    print(f"report: {path}")
    return 0


def _extra(given: Given) -> dict[str, str]:
    """What the page says beside its settings."""
    return {"left out": "; ".join(given.notes)} if given.notes else {}


def _compared(chosen: argparse.Namespace, measured: Measurement, a: str, b: str, n_pairs: int) -> Comparison:
    """One pair of networks; the minutes are those of all."""
    return compare(
        measured, a, b, layers=chosen.pairs, similarities=chosen.similarities, turns=chosen.turns,
        shuffles=chosen.shuffles, seed=chosen.seed, minutes=chosen.minutes and chosen.minutes / n_pairs,
    )  # fmt: skip


def _batch(chosen: argparse.Namespace, *, texts: bool = False) -> int:
    """How many inputs go together."""
    return chosen.batch if chosen.batch is not None else _BATCH_OF_TEXTS if texts else _BATCH


def _require_folder(out: str) -> None:
    if Path(out).is_dir():
        raise ValueError(f"out: {came(out, 100)} is a folder; put the name of a file behind it")
    if not Path(out).absolute().parent.is_dir():
        raise ValueError(f"out: there is no folder {came(str(Path(out).absolute().parent), 100)}; make it first")
    if not os.access(Path(out).absolute().parent, os.W_OK):
        raise ValueError(f"out: nothing can be written in {came(str(Path(out).absolute().parent), 100)}; name another")


def _given(chosen: argparse.Namespace) -> Given:
    """Networks and inputs, loaded."""
    saved = [name.startswith("acts:") for name in chosen.networks]
    names = _names(chosen.networks, chosen.names)
    if all(saved):
        if chosen.data is not None:
            raise ValueError("data: saved activations are compared without data; leave out --data")
        return _given_activations(chosen, names)
    if any(saved):
        raise ValueError("networks: expected acts: of all or of none; save the activations of the other network, too")
    if chosen.data is None:
        raise ValueError("data: expected what the networks are shown, as --data folder:pictures or text:sentences.txt")
    batch = _batch(chosen, texts=chosen.data.startswith("text:"))
    inputs = load_inputs(chosen.data, limit=chosen.limit, size=chosen.size, batch=batch)
    loaded = {name: load_network(spec, seed=chosen.seed + k) for k, (name, spec) in enumerate(names.items())}
    networks, notes = {name: found.network for name, found in loaded.items()}, []
    if all(found.drawn for found in loaded.values()):
        notes.append("untrained copies, since weights of all networks are drawn: they are untrained themselves")
    elif not chosen.no_untrained:
        for number, (name, found) in enumerate(loaded.items()):
            seed = chosen.seed + _TRAINED_SEEDS + number
            try:
                made = reinitialised(found.network, seed=seed) if found.untrained is None else found.untrained(seed)
                networks[untrained_of(name)] = made.eval()
            except ValueError as error:
                notes.append(f"an untrained copy of {name}: {str(error).removeprefix('untrained: ')}")
    of = {name: loaded[name.removesuffix(untrained_of(""))] for name in networks}
    mask = chosen.mask or ("attention_mask" if inputs.kind == "texts" else None)
    prepare = {name: found.prepare for name, found in of.items()}
    about = {
        **{name: f"{found.description}{fed(found.prepare)}" for name, found in loaded.items()},
        "inputs": inputs.description,
    }
    prepares = [found.prepare for found in loaded.values()]
    shown = inputs if inputs.kind != "texts" else lambda numbers: in_pieces(inputs.shown(numbers), prepares)
    return Given(networks, inputs.batches, prepare, mask, shown, about, notes)


def _given_activations(chosen: argparse.Namespace, names: Mapping[str, str]) -> Given:
    """Saved activations of all networks, as networks that pass them on."""
    loaded = {name: load_inputs(spec, limit=chosen.limit, batch=_batch(chosen)) for name, spec in names.items()}
    networks: dict[str, nn.Module] = {name: SavedActivations(found.layers) for name, found in loaded.items()}
    about = {name: found.description for name, found in loaded.items()}
    inputs = {name: found.batches for name, found in loaded.items()}
    return Given(networks, inputs, None, chosen.mask, None, about, [])


def _names(specs: list[str], given: list[str] | None) -> dict[str, str]:
    """What each network is called."""
    if given is not None:
        if len(given) != len(specs):
            raise ValueError(f"names: expected {len(specs)}, one for each network, got {len(given)}")
        names = given
    else:
        short = [_short(spec) for spec in specs]
        alike = {name for name in short if short.count(name) > 1}
        names = [f"{name}-{short[:k].count(name) + 1}" if name in alike else name for k, name in enumerate(short)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"names: expected another for each network, got {came(twice, 60)} twice")
    return dict(zip(names, specs, strict=True))


def _short(spec: str) -> str:
    """The end of a network's name, in characters that names of networks may have."""
    stem = Path(spec.partition("@")[0].rpartition(":")[2]).stem
    return re.sub(r"[^\w-]+", "-", stem).strip("-") or "network"


def _measured(chosen: argparse.Namespace, given: Given) -> Measurement:
    """The measurement, from the store where it is there."""
    positions = int(chosen.positions) if chosen.positions.isdecimal() else chosen.positions
    return measure(
        given.networks, given.inputs, _layers(chosen.layers, given), positions=positions, flattened=chosen.flattened,
        batch=_batch(chosen), sample=chosen.sample, seed=chosen.seed, processes=chosen.processes, device=chosen.device,
        store=Store(chosen.store), prepare=given.prepare, mask=given.mask,
    )  # fmt: skip


def _layers(asked: list[str] | None, given: Given) -> list[str] | dict[str, dict[str, str]]:
    """Layers as `measure` takes them."""
    names = [name for name in given.networks if not name.endswith(untrained_of(""))]
    if asked is None:
        return _chosen_layers(names, given)
    common = [each for each in asked if "=" in each]
    if not common:
        return asked
    if len(common) < len(asked):
        raise ValueError("layers: expected COMMON=NAME,NAME,... for all layers or for none")
    found: dict[str, dict[str, str]] = {name: {} for name in given.networks}
    for each in common:
        label, _, there = each.partition("=")
        parts = there.split(",")
        if len(parts) != len(names):
            message = f"expected {len(names)} names after {came(label, 40)}=, one for each network"
            raise ValueError(f"layers: {message}, got {len(parts)}")
        for name, part in zip(names, parts, strict=True):
            for copy in (name, untrained_of(name)):
                if copy in found:
                    found[copy][label] = part
    return found


def _chosen_layers(names: list[str], given: Given) -> list[str]:
    """A few of those that all networks have, from the first to the last called, blocks rather than their parts."""
    shared: list[str] | None = None
    for name in names:
        called = list(_called(name, given))
        shared = called if shared is None else [layer for layer in shared if layer in called]
    for depth in range(4):
        layers = [layer for layer in shared or [] if layer.count(".") == depth]
        if len(layers) >= 3:
            break
    layers = layers or list(shared or [])
    if not layers:
        raise ValueError("layers: the networks have none of the same name; say COMMON=NAME,NAME,... by --layers")
    step = max(1, -(-len(layers) // _MOST_LAYERS))
    return layers[::-1][::step][::-1]


def _called(name: str, given: Given) -> Iterable[str]:
    """Layers of a network that it calls and that give rows."""
    network, inputs = given.networks[name], given.inputs
    batches = inputs[name] if isinstance(inputs, Mapping) else inputs
    prepare = None if given.prepare is None else given.prepare[name]
    entrance = Entrance(name, network, prepare, None, input_like(network).device)
    entrance.warned = True
    batch = next(iter(batches))
    shapes, n = called_layers(network, lambda: entrance.call(entrance.inputs(batch)), None), n_inputs(batch)
    return [layer for layer, shape in shapes.items() if len(shape) in (2, 3, 4) and shape[0] == n]


def warn_in_a_line(message: object, *_: object) -> None:
    """A warning as all else that is said: one line."""
    print(f"convergent: {' '.join(str(message).split())}", file=sys.stderr)
