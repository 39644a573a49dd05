"""The store of functions: bounded a tenant, and never without what a call needs."""

from __future__ import annotations

import pytest

from plover.daemon.payloads import FunctionStore


@pytest.fixture
def store() -> FunctionStore:
    return FunctionStore(100)


def put(store: FunctionStore, *names: bytes, tenant: str = "default", size: int = 40) -> None:
    for name in names:
        store.put(tenant, name, [name], size)


def held(store: FunctionStore, names: bytes = b"abcdefgh", tenant: str = "default") -> str:
    return "".join(chr(name) for name in names if store.holds(tenant, bytes([name])))


def test_what_was_put_is_there(store: FunctionStore) -> None:
    put(store, b"a")
    assert store.holds("default", b"a")
    assert store.get("default", b"a") == [b"a"]
    assert (len(store), repr(store)) == (1, "<1 functions, 40 bytes>")


def test_tenants_do_not_see_each_others(store: FunctionStore) -> None:
    put(store, b"a", tenant="one")
    assert not store.holds("two", b"a")
    with pytest.raises(KeyError):
        store.get("two", b"a")


def test_the_least_recently_used_goes_first(store: FunctionStore) -> None:
    put(store, b"a", b"b")
    store.get("default", b"a")
    put(store, b"c")
    assert held(store) == "ac"
    put(store, b"a", b"d")
    assert held(store) == "ad"


def test_one_that_is_there_stays_and_is_counted_once(store: FunctionStore) -> None:
    put(store, b"a")
    store.put("default", b"a", [b"other"], 90)
    assert store.get("default", b"a") == [b"a"]
    assert repr(store) == "<1 functions, 40 bytes>"


def test_the_limit_is_each_tenants(store: FunctionStore) -> None:
    put(store, b"a", b"b", tenant="one")
    put(store, b"a", b"b", b"c", tenant="two")
    assert held(store, tenant="one") == "ab"
    assert held(store, tenant="two") == "bc"


def test_what_a_call_needs_stays_past_the_limit(store: FunctionStore) -> None:
    store.hold("default", b"a")
    store.hold("default", b"a")
    put(store, b"a", b"b", b"c", b"d")
    assert held(store) == "ad"
    store.release("default", b"a")
    put(store, b"e")
    assert held(store) == "ae"


def test_held_ones_alone_may_exceed_the_limit_until_they_are_released(store: FunctionStore) -> None:
    for name in (b"a", b"b", b"c"):
        store.hold("default", name)
        put(store, name)
    assert held(store) == "abc"
    store.release("default", b"b")
    assert held(store) == "ac"
    assert repr(store) == "<2 functions, 80 bytes>"


def test_one_larger_than_the_limit_is_kept_only_while_it_is_held(store: FunctionStore) -> None:
    store.hold("default", b"a")
    put(store, b"a", size=500)
    assert held(store) == "a"
    store.release("default", b"a")
    assert held(store) == ""
    put(store, b"b", size=500)
    assert held(store) == ""
    assert repr(store) == "<0 functions, 0 bytes>"


def test_exactly_the_limit_fits(store: FunctionStore) -> None:
    put(store, b"a", b"b", size=50)
    assert held(store) == "ab"
