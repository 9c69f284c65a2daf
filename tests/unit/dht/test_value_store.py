"""Values: who decides, what is kept, for how long."""

import pytest

from quiver.dht import value_store
from quiver.dht.value_store import VALUE_BYTES_MAX, VALUE_LIFETIME_S, ValueStore
from quiver.values.kad import Record


class Highest:
    """Values are numbers; the highest is the best."""

    def check(self, key, value):
        int(value)

    def select(self, key, values):
        numbers = [int(value) for value in values]
        return numbers.index(max(numbers))


KEY = b"/count/a"


def make():
    return ValueStore({"count": Highest()})


def put(store, value, now, key=KEY, owner=b"somebody"):
    return store.put(Record(key=key, value=value), now, owner=owner)


def test_the_better_value_stays_whichever_comes_first():
    store = make()
    assert put(store, b"5", 0.0) and store.get(KEY, 0.0).value == b"5"
    assert put(store, b"3", 1.0) and store.get(KEY, 1.0).value == b"5"
    assert put(store, b"7", 2.0) and store.get(KEY, 2.0).value == b"7"
    store.validate()


def test_a_value_ends_48_hours_after_it_was_last_put():
    store = make()
    put(store, b"1", 0.0)
    put(store, b"1", 100.0)
    assert store.get(KEY, VALUE_LIFETIME_S + 99.0) is not None
    assert store.get(KEY, VALUE_LIFETIME_S + 100.0) is None
    assert put(store, b"0", VALUE_LIFETIME_S + 100.0) and store.get(KEY, VALUE_LIFETIME_S + 101.0).value == b"0"
    store.expire(3 * VALUE_LIFETIME_S)
    assert len(store) == 0


def test_a_worse_value_does_not_lengthen_the_life_of_the_better():
    store = make()
    put(store, b"5", 0.0)
    put(store, b"3", 1000.0)
    assert store.get(KEY, VALUE_LIFETIME_S) is None


@pytest.mark.parametrize("key", [b"count/a", b"/count", b"/count/", b"/other/a", b"", b"/\xff/a", b"//a"])
def test_a_key_of_no_known_namespace_is_refused(key):
    with pytest.raises(ValueError, match="namespaces here: \\['count'\\]"):
        make().check(key, b"1")


def test_the_validator_and_the_size_decide():
    store = make()
    store.check(KEY, b"1")
    with pytest.raises(ValueError, match="invalid literal"):
        store.check(KEY, b"one")
    with pytest.raises(ValueError, match="at most 16384"):
        store.check(KEY, b"1" * (VALUE_BYTES_MAX + 1))


def test_a_full_store_refuses_new_keys_until_old_ones_end(monkeypatch):
    monkeypatch.setattr(value_store, "VALUES_MAX", 2)
    store = make()
    assert put(store, b"1", 0.0, b"/count/a") and put(store, b"1", 5.0, b"/count/b")
    assert not put(store, b"1", 6.0, b"/count/c")
    assert put(store, b"2", 6.0, b"/count/b")
    assert put(store, b"1", VALUE_LIFETIME_S, b"/count/c")
    assert store.get(b"/count/a", VALUE_LIFETIME_S) is None
    store.validate()


def test_in_a_full_store_whoever_put_most_gives_way_to_whoever_put_less(monkeypatch):
    monkeypatch.setattr(value_store, "VALUES_MAX", 4)
    store = make()
    assert put(store, b"1", 0.0, b"/count/honest", b"honest")
    assert all(put(store, b"1", 1.0, b"/count/%d" % number, b"flood") for number in range(3))
    assert not put(store, b"1", 1.0, b"/count/3", b"flood")
    assert put(store, b"1", 2.0, b"/count/other", b"other")
    assert store.get(b"/count/2", 2.0) is None and store.get(b"/count/1", 2.0) and store.get(b"/count/honest", 2.0)
    # Two each and one each: the second of another's is worth as much as the newcomer's.
    assert put(store, b"1", 3.0, b"/count/third", b"third") and not put(store, b"1", 3.0, b"/count/again", b"third")
    store.validate()


def test_a_value_counts_for_whoever_put_it_and_has_least(monkeypatch):
    monkeypatch.setattr(value_store, "VALUES_MAX", 4)
    store = make()
    for number in range(3):
        put(store, b"1", 0.0, b"/count/%d" % number, b"flood")
    # Repeating an honest value, before or after its owner puts it, does not make it the flood's.
    put(store, b"1", 0.0, KEY, b"flood"), put(store, b"1", 0.0, KEY, b"honest"), put(store, b"1", 0.0, KEY, b"flood")
    for number in range(3):
        assert put(store, b"1", 1.0, b"/count/new %d" % number, b"new %d" % number) == (number < 2)
    assert store.get(KEY, 1.0) is not None
    store.validate()
