"""cupy.random over numpy.random.

The distributions are CuPy's; the streams are not: a seed gives other numbers here than on a GPU, and the same ones in
every simulated process. The global state is made at first use from the operating system's entropy, and anew in a
forked process, so that workers forked from one zygote do not draw alike.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from . import _names
from ._core import checked_dtype, device_view, opened, operand, reserve, wrap, wrap_result

#: distribution → the names of its parameters before ``size``, with defaults where CuPy has them
_REAL: dict[str, tuple[tuple[str, Any], ...]] = {
    "beta": (("a", ...), ("b", ...)), "chisquare": (("df", ...),), "dirichlet": (("alpha", ...),),
    "exponential": (("scale", 1.0),), "f": (("dfnum", ...), ("dfden", ...)), "gamma": (("shape", ...), ("scale", 1.0)),
    "gumbel": (("loc", 0.0), ("scale", 1.0)), "laplace": (("loc", 0.0), ("scale", 1.0)),
    "logistic": (("loc", 0.0), ("scale", 1.0)), "lognormal": (("mean", 0.0), ("sigma", 1.0)),
    "noncentral_chisquare": (("df", ...), ("nonc", ...)),
    "noncentral_f": (("dfnum", ...), ("dfden", ...), ("nonc", ...)), "normal": (("loc", 0.0), ("scale", 1.0)),
    "pareto": (("a", ...),), "power": (("a", ...),), "random_sample": (), "rayleigh": (("scale", 1.0),),
    "standard_cauchy": (), "standard_exponential": (), "standard_gamma": (("shape", ...),), "standard_normal": (),
    "standard_t": (("df", ...),), "triangular": (("left", ...), ("mode", ...), ("right", ...)),
    "uniform": (("low", 0.0), ("high", 1.0)), "vonmises": (("mu", ...), ("kappa", ...)),
    "wald": (("mean", ...), ("scale", ...)), "weibull": (("a", ...),),
}  # fmt: skip
_WHOLE: dict[str, tuple[tuple[str, Any], ...]] = {
    "binomial": (("n", ...), ("p", ...)), "geometric": (("p", ...),),
    "hypergeometric": (("ngood", ...), ("nbad", ...), ("nsample", ...)), "logseries": (("p", ...),),
    "negative_binomial": (("n", ...), ("p", ...)), "poisson": (("lam", 1.0),), "zipf": (("a", ...),),
}  # fmt: skip


def _arguments(name: str, parameters: tuple[tuple[str, Any], ...], args: tuple[Any, ...], kwargs: Any) -> list[Any]:
    """The distribution's parameters from a call's arguments; what remains in ``kwargs`` is size and dtype."""
    names = [parameter for parameter, _ in parameters] + ["size", "dtype"]
    if len(args) > len(names):
        raise TypeError(f"{name}() takes at most {len(names)} positional arguments ({len(args)} given)")
    for key, value in zip(names, args, strict=False):
        if key in kwargs:
            raise TypeError(f"{name}() got multiple values for argument '{key}'")
        kwargs[key] = value
    values = []
    for key, default in parameters:
        value = kwargs.pop(key, default)
        if value is ...:
            raise TypeError(f"{name}() missing required argument '{key}'")
        values.append(operand(value))
    unknown = [key for key in kwargs if key not in ("size", "dtype")]
    if unknown:
        raise TypeError(f"{name}() got an unexpected keyword argument '{unknown[0]}'")
    return values


def _drawn(source: Any, name: str, parameters: Any, default: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    values = _arguments(name, parameters, args, kwargs)
    size, dtype = kwargs.get("size"), checked_dtype(kwargs.get("dtype") or default)
    if default is float and dtype.kind != "f":
        raise ValueError("dtype must be float32 or float64")
    reserve(1 if size is None else size, dtype)
    return wrap(np.asarray(getattr(source, name)(*values, size=size)).astype(dtype, copy=False))


def _distribution(name: str, parameters: Any, default: Any) -> Any:
    def draw(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _drawn(self._source, name, parameters, default, args, kwargs)

    draw.__name__ = name
    return draw


class RandomState:
    """A source of random numbers; as `numpy.random.RandomState`, with ``dtype`` as CuPy has it."""

    __module__ = "cupy.random"

    def __init__(self, seed: Any = None, method: int = 100) -> None:
        self.seed(seed)

    def seed(self, seed: Any = None) -> None:
        self._source = np.random.RandomState(None if seed is None else int(np.asarray(seed)) % 2**32)

    def rand(self, *size: int, **kwargs: Any) -> Any:
        return self.random_sample(size, **kwargs)  # type: ignore[attr-defined]

    def randn(self, *size: int, **kwargs: Any) -> Any:
        return self.normal(size=size, **kwargs)  # type: ignore[attr-defined]

    def randint(self, low: Any, high: Any = None, size: Any = None, dtype: Any = "l") -> Any:
        reserve(1 if size is None else size, dtype)
        return wrap(
            np.asarray(self._source.randint(operand(low), None if high is None else operand(high), size, dtype))
        )

    def tomaxint(self, size: Any = None) -> Any:
        return wrap(np.asarray(self._source.tomaxint(size)))

    def choice(self, a: Any, size: Any = None, replace: bool = True, p: Any = None) -> Any:
        weights = None if p is None else np.asarray(p) if device_view(p) is None else opened(p)
        return wrap(np.asarray(self._source.choice(operand(a), size, replace, weights)))

    def permutation(self, a: Any) -> Any:
        return wrap(self._source.permutation(operand(a)))

    def shuffle(self, a: Any) -> None:
        self._source.shuffle(opened(a))

    def multivariate_normal(
        self, mean: Any, cov: Any, size: Any = None, check_valid: str = "ignore", tol: float = 1e-08,
        method: str = "cholesky", dtype: Any = float,
    ) -> Any:  # fmt: skip
        drawn = self._source.multivariate_normal(opened(mean), opened(cov), size, check_valid, tol)  # type: ignore[arg-type]
        return wrap(drawn.astype(checked_dtype(dtype), copy=False))


for _name, _parameters in _REAL.items():
    setattr(RandomState, _name, _distribution(_name, _parameters, float))
for _name, _parameters in _WHOLE.items():
    setattr(RandomState, _name, _distribution(_name, _parameters, int))


class Generator:
    """A source of random numbers; as `numpy.random.Generator`, as far as CuPy has it."""

    __module__ = "cupy.random"

    def __init__(self, bit_generator: Any) -> None:
        self.bit_generator = bit_generator
        self._source = np.random.Generator(bit_generator._source)

    def integers(
        self, low: Any, high: Any = None, size: Any = None, dtype: Any = np.int64, endpoint: bool = False
    ) -> Any:
        return wrap(np.asarray(self._source.integers(operand(low), high, size, dtype, endpoint)))

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return self._float("random", (), size, dtype, out)

    def standard_normal(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return self._float("standard_normal", (), size, dtype, out)

    def standard_exponential(
        self, size: Any = None, dtype: Any = np.float64, method: str = "inv", out: Any = None
    ) -> Any:
        return self._float("standard_exponential", (), size, dtype, out)

    def standard_gamma(self, shape: Any, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return self._float("standard_gamma", (operand(shape),), size, dtype, out)

    def _float(self, name: str, args: tuple[Any, ...], size: Any, dtype: Any, out: Any) -> Any:
        reserve(1 if size is None else size, dtype)
        result = getattr(self._source, name)(
            *args, size=size, dtype=np.dtype(dtype), out=None if out is None else opened(out)
        )
        return wrap_result(np.asarray(result)) if out is None else out


def _generated(name: str, parameters: Any) -> Any:
    def draw(self: Any, *args: Any, **kwargs: Any) -> Any:
        values = _arguments(name, parameters, args, kwargs)
        return wrap(np.asarray(getattr(self._source, name)(*values, size=kwargs.get("size"))))

    draw.__name__ = name
    return draw


for _name in (  # noqa: SIM905
    "beta binomial chisquare dirichlet exponential f gamma geometric hypergeometric logseries poisson power uniform"
).split():
    setattr(Generator, _name, _generated(_name, _REAL.get(_name) or _WHOLE[_name]))


class BitGenerator:
    """The base of the bit generators; each is NumPy's PCG64 behind CuPy's name."""

    __module__ = "cupy.random"

    def __init__(self, seed: Any = None, **options: Any) -> None:
        self._source = np.random.PCG64(seed)

    def random_raw(self, size: Any = None, output: bool = True) -> Any:
        return wrap_result(np.asarray(self._source.random_raw(size)))


class XORWOW(BitGenerator):
    __module__ = "cupy.random"


class MRG32k3a(BitGenerator):
    __module__ = "cupy.random"


class Philox4x3210(BitGenerator):
    __module__ = "cupy.random"


def default_rng(seed: Any = None) -> Generator:
    if isinstance(seed, Generator):
        return seed
    return Generator(seed if isinstance(seed, BitGenerator) else XORWOW(seed))


_state: RandomState | None = None  #: the global source; None until first used in this process


def get_random_state() -> RandomState:
    global _state
    if _state is None:
        _state = RandomState()
    return _state


def set_random_state(rs: RandomState) -> None:
    global _state
    if not isinstance(rs, RandomState):
        raise TypeError(f"Random state must be an instance of RandomState. Actual: {type(rs)}")
    _state = rs


def reset_states() -> None:
    global _state
    _state = None


os.register_at_fork(after_in_child=reset_states)


def seed(seed: Any = None) -> None:
    get_random_state().seed(seed)


def bytes(length: int) -> Any:
    return get_random_state()._source.bytes(length)


def random_integers(low: Any, high: Any = None, size: Any = None) -> Any:
    low, high = (1, low) if high is None else (low, high)
    return get_random_state().randint(low, high + 1, size)


def multinomial(n: int, pvals: Any, size: Any = None) -> Any:
    return wrap(get_random_state()._source.multinomial(n, opened(pvals), size))


def _of_state(name: str) -> Any:
    def draw(*args: Any, **kwargs: Any) -> Any:
        return getattr(get_random_state(), name)(*args, **kwargs)

    draw.__name__ = draw.__qualname__ = name
    draw.__module__ = "cupy.random"
    return draw


for _name in (*_REAL, *_WHOLE, "rand", "randn", "randint", "choice", "permutation", "shuffle", "multivariate_normal"):
    globals()[_name] = _of_state(_name)
random = ranf = sample = _of_state("random_sample")


def __getattr__(name: str) -> Any:
    return _names.missing("cupy.random", name)
