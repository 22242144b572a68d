"""Things: the key holds what decides the result, rounds hold what can be made, and each is made once."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from convergent_utils.making import things
from convergent_utils.making.store import Store
from convergent_utils.making.things import Shelf, Thing, needs

MADE = []


@dataclass(frozen=True)
class Size:
    """Not kept by itself."""

    units: int
    rate: float = 0.5

    def doubled(self):
        return 2 * self.units


@dataclass(frozen=True)
class Number(Thing):
    """A number, of its size."""

    size: Size
    seed: int = 0
    name: str = field(default="", compare=False)

    def make(self, get, report):
        MADE.append(self.name)
        report(1.0)
        return {"value": self.size.doubled() + self.seed}


@dataclass(frozen=True)
class Sum(Thing):
    """The sum of others, also of those within a plain dataclass."""

    title, seconds, published = "adding", 3.0, True

    parts: tuple[tuple[str, Thing], ...]
    more: "Holder | None" = None
    name: str = field(default="", compare=False)

    def make(self, get, report):
        MADE.append(self.name)
        return {"value": sum(get(part)["value"] + get(part)["value"] for _, part in self.parts)}


@dataclass(frozen=True)
class Holder:
    of: Thing


@dataclass(frozen=True)
class Impossible(Number):
    """What cannot be made."""

    def make(self, get, report):
        raise ValueError("size: planted")


ONE, TWO = Number(Size(1), name="one"), Number(Size(2), name="two")
BOTH = Sum((("a", ONE), ("b", TWO)), name="both")
ALL = Sum((("both", BOTH),), Holder(Number(Size(3), name="three")), name="all")


@pytest.fixture
def shelf(tmp_path):
    MADE.clear()
    return Shelf(Store(tmp_path))


def test_a_thing_needs_the_things_within_its_fields():
    assert list(needs(ONE)) == []
    assert list(needs(BOTH)) == [ONE, TWO]
    assert [need.name for need in needs(ALL)] == ["both", "three"]


def test_a_key_holds_what_decides_and_nothing_else():
    same = [replace(BOTH, name="other"), Sum((("a", replace(ONE, name="x")), ("b", TWO)))]
    assert {thing.key for thing in same} == {BOTH.key}
    others = [
        replace(ONE, seed=1), Number(Size(1, 0.25)), Sum((("a", TWO), ("b", ONE))), Sum((("c", ONE), ("b", TWO))),
        Sum((("a", replace(ONE, seed=1)), ("b", TWO))), *(replace(BOTH, more=Holder(one)) for one in (ONE, TWO)),
    ]  # fmt: skip
    assert len({thing.key for thing in (ONE, TWO, BOTH, ALL, *others)}) == 4 + len(others)
    assert ONE.key not in str(ONE.configuration)
    assert ONE.key in str(BOTH.configuration)
    with pytest.raises(FrozenInstanceError):
        ONE.seed = 2
    with pytest.raises(ValueError, match="fields: expected plain values"):
        _ = Number(Size([1])).key


@pytest.mark.parametrize(
    ("edited", "changed"),
    [("Size", ["both", "holding", "one"]), ("Sum", ["both", "holding"]), ("Holder", ["holding"]), ("Thing", [])],
)
def test_an_edit_of_code_changes_the_keys_of_what_is_made_by_it(monkeypatch, edited, changed):
    def keys(**codes):
        monkeypatch.setattr(things, "_code", lambda made: codes.get(made.__name__, "as it was"))
        one = Number(Size(1))
        both = Sum((("a", one), ("b", one)))
        return {"one": one.key, "both": both.key, "holding": Sum((), Holder(both)).key}

    before, after = keys(), keys(**{edited: "edited"})
    assert sorted(name for name in before if before[name] != after[name]) == changed


def test_each_is_made_once_and_asked_for_once(shelf):
    assert shelf(ALL) == {"value": 24}
    assert MADE == ["all", "both", "one", "two"]
    assert shelf(BOTH) == {"value": 12}
    assert Shelf(shelf.store)(replace(ALL)) == {"value": 24}
    assert MADE == ["all", "both", "one", "two"]
    assert (
        sorted(path.name.partition("-")[0] for path in shelf.store.path.glob("*.safetensors"))
        == ["number"] * 2 + ["sum"] * 2
    )


def test_what_a_thing_is_says_nothing_of_code(monkeypatch):
    before = Sum((("a", Number(Size(1))),)).what
    monkeypatch.setattr(things, "_code", lambda made: "edited")
    fresh = Sum((("a", Number(Size(1))),))
    assert fresh.what == before != Sum((("a", Number(Size(2))),)).what
    assert fresh.configuration["what"] == before
    monkeypatch.undo()
    assert fresh.key != Sum((("a", Number(Size(1))),)).key


def test_two_threads_may_ask_for_keys_in_any_order():
    for number in range(200):
        one = Number(Size(number))
        both = Sum((("a", one), ("b", one)))
        asked = [lambda of=both: of.configuration, lambda of=both: of.key, lambda of=one: of.key]
        with ThreadPoolExecutor(3) as threads:
            assert all(threads.submit(ask).result(timeout=30) for ask in asked)


def test_rounds_hold_what_can_be_made_longest_first(shelf):
    rounds = [[thing.name for thing in made] for made in shelf.rounds([ALL, replace(ONE, name="again")])]
    assert [sorted(made) for made in rounds] == [["again", "three", "two"], ["both"], ["all"]]
    long = Sum((("one", ONE),), name="long")
    assert next(made for made in shelf.rounds([ONE, TWO, long, BOTH]) if len(made) == 2)
    shelf(ONE)
    assert [thing.name for thing in next(shelf.rounds([TWO, long]))] == ["long", "two"]


def test_what_is_at_hand_asks_for_nothing(shelf):
    shelf(BOTH)
    for need in (ONE, TWO):
        shelf.store.file(need.kind, need.configuration).unlink()
    assert list(shelf.rounds([BOTH])) == []
    assert [[thing.name for thing in made] for made in shelf.rounds([ALL])] == [["three"], ["all"]]
    shelf.store.file(BOTH.kind, BOTH.configuration).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="is damaged"):
        assert [len(made) for made in shelf.rounds([BOTH])] == [2, 1]


def test_what_is_published_serves_and_is_not_kept_again(tmp_path):
    MADE.clear()
    published = Shelf(Store(tmp_path), lambda thing: {"value": 7} if thing.published else None)
    assert published(ALL) == {"value": 7}
    assert list(published.rounds([ALL, ONE])) == [[ONE]]
    assert MADE == []
    assert not list(tmp_path.glob("*.safetensors"))


def test_what_another_run_makes_is_waited_for_and_not_made_again(shelf):
    with ThreadPoolExecutor(1) as other:
        with Store(shelf.store.path).lock(ONE.kind, ONE.configuration):
            waiting = other.submit(shelf, ONE)
            time.sleep(0.5)
            assert not waiting.done()
            Store(shelf.store.path).keep(ONE.kind, ONE.configuration, {"value": "of the other"})
        assert waiting.result(timeout=30) == {"value": "of the other"}
    assert MADE == []


def test_what_cannot_be_made_is_not_kept(shelf):
    with pytest.raises(ValueError, match="size: planted"):
        shelf(Impossible(Size(1)))
    assert not list(shelf.store.path.glob("*.safetensors"))
