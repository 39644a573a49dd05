"""cupy.testing: the assertions, on device or host arrays; CuPy's own test decorators are not offered."""

from __future__ import annotations

from typing import Any

from . import _names
from ._creation import asnumpy


def _assertion(name: str) -> Any:
    def check(actual: Any, desired: Any, *args: Any, **kwargs: Any) -> None:
        import numpy.testing  # here, not above: it is slow to import and few need it

        getattr(numpy.testing, name)(asnumpy(actual), asnumpy(desired), *args, **kwargs)

    check.__name__ = check.__qualname__ = name
    return check


assert_allclose = _assertion("assert_allclose")
assert_array_almost_equal = _assertion("assert_array_almost_equal")
assert_array_almost_equal_nulp = _assertion("assert_array_almost_equal_nulp")
assert_array_equal = _assertion("assert_array_equal")
assert_array_less = _assertion("assert_array_less")
assert_array_max_ulp = _assertion("assert_array_max_ulp")


def assert_array_list_equal(xlist: Any, ylist: Any, err_msg: str = "", verbose: bool = True) -> None:
    if len(xlist) != len(ylist):
        raise AssertionError(f"List size is different: {len(xlist)} and {len(ylist)}")
    for x, y in zip(xlist, ylist, strict=True):
        assert_array_equal(x, y, err_msg=err_msg, verbose=verbose)


def __getattr__(name: str) -> Any:
    return _names.missing("cupy.testing", name)
