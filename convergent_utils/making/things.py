"""Things: what a result depends on is its fields. Each is made once, kept under the hash of its fields and its code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import Field, fields, is_dataclass
from functools import cache, cached_property
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast

from .code import code
from .store import Store, configuration_hash

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Report = Callable[[float], None]  # told the share of the work that is done
_Made = TypeVar("_Made", covariant=True)


class Makes(Protocol[_Made]):
    """A thing, by what it makes."""

    def make(self, get: Get, report: Report) -> _Made:
        """As that of `Thing`."""


class Get(Protocol):
    """From a thing to what is made of it."""

    def __call__(self, thing: Makes[_Made], /) -> _Made:
        """What was made of the thing."""


class Thing:
    """What can be made from its fields alone.

    Subclasses are frozen dataclasses, and define `make`. Their fields are plain values (numbers, texts, None, tuples of
    them), other things, which are made first, and frozen dataclasses of such; those that are declared with
    `field(compare=False)` decide nothing and only help to find or to name it.

    Attributes:
        title: what is being done, as "training", for the line that is shown.
        seconds: what it takes, about.
        published: whether the results are small enough to lie in data/.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # subclasses have them
    title, seconds = "making", 1.0
    published = False

    @property
    def name(self) -> str:
        """What it is called, where it is."""
        return ""

    def make(self, get: Get, report: Report) -> object:
        """Make it, of a kind that the store takes.

        Args:
            get: gives what was made of a thing among the fields.
            report: to be called with the share of the work that is done.
        """
        raise NotImplementedError

    @property
    def configuration(self) -> dict[str, object]:
        """All that decides the result, as plain values; the things that it needs stand in by their keys."""
        return self._known[0]

    @property
    def what(self) -> str:
        """Sixteen hexadecimal digits that stand for its fields, whatever code makes it."""
        return self._known[1]

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for it."""
        return self._known[2]

    @cached_property  # one for all: until Python 3.12 each has a lock, and two threads could take two in either order
    def _known(self) -> tuple[dict[str, object], str, str]:
        named = {"thing": type(self).__name__}
        what = configuration_hash({**named, **_fields(self, with_code=False)})
        configuration = {**named, "code": _code(type(self)), "what": what, **_fields(self)}
        return configuration, what, configuration_hash(configuration)

    @property
    def kind(self) -> str:
        """How the names of its files begin."""
        return type(self).__name__.lower()


def needs(value: object) -> Iterator[Thing]:
    """The things that a thing needs, also those within its tuples and dataclasses."""
    items = value if isinstance(value, tuple) else ()
    for item in [getattr(value, f.name) for f in _deciding(value)] if is_dataclass(value) else items:
        if isinstance(item, Thing):
            yield item
        else:
            yield from needs(item)


class Shelf:
    """Gives things: from the store, from what is published, or made once.

    Args:
        store: where they are kept.
        published: from a thing to what is published of it, or None.
    """

    def __init__(self, store: Store, published: Callable[[Thing], object | None] = lambda thing: None):
        self.store, self.published = store, published

    def __call__(self, thing: Thing, report: Report = lambda share: None) -> object:
        """The thing; whoever else makes it is waited for.

        Raises:
            ValueError: the store cannot be written, or what `make` of the thing raises.
        """
        found = self.find(thing)
        if found is None:
            with self.store.lock(thing.kind, thing.configuration):
                found = self.find(thing)  # perhaps made by another run, while this one waited
                if found is None:
                    get = cast("Get", cache(self))  # what is kept of a call forgets which thing was asked for
                    found = thing.make(get, report)
                    self.store.keep(thing.kind, thing.configuration, found)
        return found

    def find(self, thing: Thing) -> object | None:
        """The thing if it is at hand, undamaged."""
        found = self.store.find(thing.kind, thing.configuration)
        return self.published(thing) if found is None else found

    def rounds(self, wanted: Iterable[Thing]) -> Iterator[list[Thing]]:
        """The things to make, round by round: nothing of a round needs another of it; longest first.

        What is at hand asks for nothing.
        """
        lacking, waiting = {}, list(wanted)
        asked: dict[str, Thing] = {}
        while waiting:
            thing = waiting.pop()
            if thing.key not in asked:
                asked[thing.key] = thing
                if self.find(thing) is None:
                    lacking[thing.key] = [need.key for need in needs(thing)]
                    waiting += needs(thing)
        order = TopologicalSorter({key: [need for need in keys if need in lacking] for key, keys in lacking.items()})
        order.prepare()
        while order.is_active():
            ready = order.get_ready()
            yield sorted((asked[key] for key in ready), key=lambda thing: (-thing.seconds, thing.title, thing.key))
            order.done(*ready)


@cache
def _code(made: type) -> str:
    """What a class reaches; other things count by their keys, where they are needed."""
    roots = [part for part in made.__mro__ if is_dataclass(part) or (issubclass(part, Thing) and part is not Thing)]
    return code(*roots, stop=(Thing, *_all_below(Thing)))


def _all_below(base: type) -> Iterator[type]:
    for found in base.__subclasses__():
        yield found
        yield from _all_below(found)


def _deciding(value: DataclassInstance | type[DataclassInstance]) -> list[Field]:
    return [field for field in fields(value) if field.compare]


def _fields(value: DataclassInstance | type[DataclassInstance], *, with_code: bool = True) -> dict[str, object]:
    return {field.name: _plain(getattr(value, field.name), with_code) for field in _deciding(value)}


def _plain(value: object, with_code: bool) -> object:
    """A field as plain values."""
    if isinstance(value, Thing):
        return value.key if with_code else value.what
    if is_dataclass(value):
        made_by = {"code": _code(type(value))} if with_code else {}
        return {"class": type(value).__name__, **made_by, **_fields(value, with_code=with_code)}
    if isinstance(value, tuple):
        return [_plain(item, with_code) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"fields: expected plain values, tuples, dataclasses and things, got {type(value).__name__}")
