"""The functions of the main namespace that are NumPy's own under CuPy's rules, by area.

Where CuPy's behaviour differs from that of NumPy's function, the target stands here, written on NumPy arrays.
Assumes that NumPy's results are what a GPU would give, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

REDUCTIONS = {
    "all": "a! | axis out keepdims", "alltrue": "a! | axis out keepdims",
    "any": "a! | axis out keepdims", "sometrue": "a! | axis out keepdims",
    "sum": "a! | axis dtype out keepdims", "prod": "a! | axis dtype out keepdims",
    "product": "a! | axis dtype out keepdims",
    "nansum": "a! | axis dtype out keepdims", "nanprod": "a! | axis dtype out keepdims",
    "cumsum": "a! | axis dtype out", "cumprod": "a! | axis dtype out", "cumproduct": "a! | axis dtype out",
    "nancumsum": "a! | axis dtype out", "nancumprod": "a! | axis dtype out",
    "cumulative_sum": "x! | axis dtype out include_initial", "cumulative_prod": "x! | axis dtype out include_initial",
    "max": "a! | axis out keepdims", "amax": "a! | axis out keepdims", "nanmax": "a! | axis out keepdims",
    "min": "a! | axis out keepdims", "amin": "a! | axis out keepdims", "nanmin": "a! | axis out keepdims",
    "ptp": "a! | axis out keepdims",
    "argmax": "a! | axis dtype out keepdims", "argmin": "a! | axis dtype out keepdims",
    "nanargmax": "a! | axis dtype out keepdims", "nanargmin": "a! | axis dtype out keepdims",
    "mean": "a! | axis dtype out keepdims", "nanmean": "a! | axis dtype out keepdims",
    "std": "a! | axis dtype out ddof keepdims", "nanstd": "a! | axis dtype out ddof keepdims",
    "var": "a! | axis dtype out ddof keepdims", "nanvar": "a! | axis dtype out ddof keepdims",
    "median": "a! | axis out overwrite_input keepdims", "nanmedian": "a! | axis out overwrite_input keepdims",
    "average": "a! | axis weights? returned keepdims",
    "percentile": "a! q | axis out overwrite_input method keepdims interpolation",
    "quantile": "a! q | axis out overwrite_input method keepdims interpolation",
    "count_nonzero": "a! | axis >", "trace": "a! | offset axis1 axis2 dtype out",
}  # fmt: skip

STATISTICS = {
    "cov": "a! | y? rowvar bias ddof fweights? aweights? dtype", "corrcoef": "a! | y? rowvar bias ddof dtype",
    "histogram": "x! bins range | density weights?", "histogram2d": "x! y! bins range | weights? density",
    "histogramdd": "sample* bins range | weights? density", "bincount": "x! | weights? minlength",
    "digitize": "x! bins! | right", "correlate": "a! v! mode", "convolve": "a! v! mode",
    "gradient": "f! *varargs? | axis edge_order", "diff": "a! | n axis prepend? append?",
    "ediff1d": "arr! | to_end? to_begin?", "trapezoid": "y! | x? dx axis", "trapz": "y! | x? dx axis",
    "interp": "x! xp! fp! | left right period",
}  # fmt: skip

MATHS = {
    "clip": "a! a_min? a_max? | out", "nan_to_num": "x? | copy nan posinf neginf", "real_if_close": "a! | tol",
    "real": "val?", "imag": "val?", "angle": "z? | deg", "around": "a! | decimals out", "round": "a! | decimals out",
    "round_": "a! | decimals out", "unwrap": "p! | discont axis period", "cross": "a! b! | axisa axisb axisc axis",
    "allclose": "a? b? | rtol atol equal_nan >", "isclose": "a? b? | rtol atol equal_nan",
    "array_equal": "a1? a2? | equal_nan >", "array_equiv": "a1? a2? >", "iscomplex": "x?", "iscomplexobj": "x?",
    "isreal": "x?", "isrealobj": "x?", "isfortran": "a!", "isneginf": "x! | out", "isposinf": "x! | out",
    "in1d": "ar1! ar2! | assume_unique invert", "isin": "element? test_elements? | assume_unique invert",
    "dot": "a! b! | out", "vdot": "a! b! >", "inner": "a! b!", "outer": "a! b! | out", "tensordot": "a! b! | axes",
    "kron": "a? b?", "polyval": "p! x?", "polyadd": "a1! a2!", "polysub": "a1! a2!", "polymul": "a1! a2!",
    "polyfit": "x! y! deg | rcond full w? cov", "roots": "p!", "poly": "seq_of_zeros!", "vander": "x! | N increasing",
    "bartlett": "M", "blackman": "M", "hamming": "M", "hanning": "M", "kaiser": "M beta",
    "matmul": "*args? | axes axis keepdims casting dtype order out",
}  # fmt: skip

SORTING = {
    "sort": "a! | axis kind", "argsort": "a! | axis kind", "lexsort": "keys!", "msort": "a!", "sort_complex": "a!",
    "partition": "a! kth | axis", "argpartition": "a! kth | axis", "searchsorted": "a! v? | side sorter?",
    "argwhere": "a!", "nonzero": "a!", "flatnonzero": "a!", "extract": "condition! a!", "where": "condition? x? y?",
    "unique": "ar! | return_index return_inverse return_counts axis equal_nan", "unique_all": "x!",
    "unique_counts": "x!", "unique_inverse": "x!", "unique_values": "x!", "union1d": "arr1! arr2!",
    "intersect1d": "arr1! arr2! | assume_unique return_indices", "setdiff1d": "ar1! ar2! | assume_unique",
    "setxor1d": "ar1! ar2! | assume_unique",
}  # fmt: skip

SHAPES = {
    "reshape": "a! newshape | order copy", "ravel": "a! | order", "transpose": "a! | axes",
    "permute_dims": "a! | axes", "matrix_transpose": "x!", "moveaxis": "a! source destination",
    "rollaxis": "a! axis | start", "swapaxes": "a! axis1 axis2", "squeeze": "a! | axis", "expand_dims": "a! axis",
    "broadcast_to": "array! shape", "broadcast_arrays": "*args?", "resize": "a! new_shape",
    "concatenate": "tup* | axis out dtype casting", "concat": "tup* | axis out dtype casting",
    "stack": "tup* | axis out dtype casting", "vstack": "tup* | dtype casting", "hstack": "tup* | dtype casting",
    "row_stack": "tup* | dtype casting", "dstack": "tup*", "column_stack": "tup*",
    "split": "ary! indices_or_sections | axis", "array_split": "ary! indices_or_sections | axis",
    "hsplit": "ary! indices_or_sections", "vsplit": "ary! indices_or_sections", "dsplit": "ary! indices_or_sections",
    "tile": "A! reps", "repeat": "a! repeats | axis", "roll": "a! shift | axis", "rot90": "a! | k axes",
    "flip": "a! | axis", "fliplr": "a!", "flipud": "a!", "delete": "arr! indices | axis",
    "append": "arr? values? | axis", "trim_zeros": "filt! | trim", "atleast_1d": "*arys?", "atleast_2d": "*arys?",
    "atleast_3d": "*arys?", "packbits": "a! | axis bitorder", "unpackbits": "a! | axis bitorder",
}  # fmt: skip

INDEXING = {
    "diag": "v! | k", "diagflat": "v! | k", "diagonal": "a! | offset axis1 axis2", "fill_diagonal": "a! val? | wrap",
    "tril": "m! | k", "triu": "m! | k", "indices": "dimensions | dtype", "ix_": "*args!",
    "diag_indices": "n ndim", "diag_indices_from": "arr!", "mask_indices": "n mask_func k",
    "tril_indices": "n k m", "tril_indices_from": "arr! k", "triu_indices": "n k m", "triu_indices_from": "arr! k",
    "unravel_index": "indices? dims | order", "ravel_multi_index": "multi_index* dims | mode order",
    "take": "a! indices | axis out", "take_along_axis": "a! indices! axis", "put": "a! ind v | mode",
    "put_along_axis": "arr! indices! values? axis", "putmask": "a! mask! values?", "place": "arr! mask! vals!",
    "compress": "condition a! | axis out", "choose": "a! choices | out mode",
    "select": "condlist* choicelist* | default", "piecewise": "x! condlist* funclist",
    "may_share_memory": "a! b! max_work", "shares_memory": "a! b! max_work",
}  # fmt: skip


def _argument(pick: Callable[..., Any]) -> Callable[..., Any]:
    def index(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        found = np.asarray(pick(a, axis=axis, keepdims=keepdims))
        if out is not None:
            out[...] = found
        return found if dtype is None else found.astype(dtype)

    return index


def _ranked(function: Callable[..., Any]) -> Callable[..., Any]:
    def rank(a: Any, q: Any, interpolation: Any = None, method: str = "linear", **keywords: Any) -> Any:
        return function(a, q, method=interpolation or method, **keywords)

    return rank


def _corrcoef(a: Any, y: Any = None, rowvar: bool = True, bias: Any = None, ddof: Any = None, dtype: Any = None) -> Any:
    return np.corrcoef(a, y, rowvar, dtype=dtype)  # bias and ddof have no effect, in CuPy as in NumPy


def _bincount(x: Any, weights: Any = None, minlength: Any = None) -> Any:
    if x.ndim > 1:
        raise ValueError("object too deep for desired array")
    if x.ndim < 1:
        raise ValueError("object of too small depth for desired array")
    return np.bincount(x, weights, 0 if minlength is None else minlength)


def _diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Any:
    ends = {key: value for key, value in (("prepend", prepend), ("append", append)) if value is not None}
    return np.diff(a, n, axis, **ends)


def _where(*args: Any) -> Any:
    if len(args) == 3 and (args[1] is None) != (args[2] is None):
        raise ValueError("Must provide both 'x' and 'y' or neither.")
    if len(args) == 1 or args[1] is None:
        return np.nonzero(args[0])
    return np.where(*args)


def _clip(a: Any, a_min: Any, a_max: Any, out: Any = None) -> Any:
    if a_min is None and a_max is None:
        raise ValueError("array_clip: must set either max or min")
    return np.clip(a, a_min, a_max, out=out)


def _writable_diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    view = np.diagonal(a, offset, axis1, axis2)
    if a.flags.writeable:
        view.flags.writeable = True  # CuPy's is a view that may be written through
    return view


def _put(a: Any, ind: Any, v: Any, mode: str = "wrap") -> None:
    np.put(a, ind, v, mode=mode)  # type: ignore[arg-type]


def _piecewise(x: Any, condlist: Any, funclist: Any) -> Any:
    if any(callable(item) for item in funclist):
        raise NotImplementedError("Callable functions are not supported currently")
    return np.piecewise(x, condlist, funclist)


def _lexsort(keys: Any) -> Any:
    return np.lexsort(keys)


def _tolerant(function: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy's function without its Python warnings about empty or all-NaN slices: a GPU has none."""

    def quiet(*args: Any, **keywords: Any) -> Any:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return function(*args, **keywords)

    return quiet


def _reshape(a: Any, newshape: Any, order: Any = "C", copy: Any = None) -> Any:
    return np.reshape(a, newshape, order=order) if copy is None else np.reshape(a, newshape, order=order, copy=copy)


def _flat_isin(ar1: Any, ar2: Any, assume_unique: bool = False, invert: bool = False) -> Any:
    return np.isin(ar1.ravel(), ar2, assume_unique=assume_unique, invert=invert)


def _histogramdd(sample: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None) -> Any:
    return np.histogramdd(sample, bins, range, density, weights)


OWN: dict[str, Callable[..., Any]] = {
    "alltrue": np.all, "sometrue": np.any, "product": np.prod, "cumproduct": np.cumprod, "round_": np.round,
    "row_stack": np.vstack, "concat": np.concatenate, "permute_dims": np.transpose, "trapezoid": np.trapezoid,
    "trapz": np.trapezoid, "argmax": _argument(np.argmax), "argmin": _argument(np.argmin),
    "nanargmax": _argument(np.nanargmax), "nanargmin": _argument(np.nanargmin),
    "percentile": _ranked(np.percentile), "quantile": _ranked(np.quantile), "corrcoef": _corrcoef,
    "bincount": _bincount, "diff": _diff, "where": _where, "clip": _clip, "diagonal": _writable_diagonal, "put": _put,
    "piecewise": _piecewise, "lexsort": _lexsort, "reshape": _reshape, "in1d": _flat_isin,
    "histogramdd": _histogramdd, "msort": lambda a: np.sort(a, axis=0),
    **{name: _tolerant(getattr(np, name)) for name in (
        "mean", "std", "var", "median", "nanmean", "nanstd", "nanvar", "nanmedian", "nanmax", "nanmin", "average",
    )},
}  # fmt: skip

TABLES = (REDUCTIONS, STATISTICS, MATHS, SORTING, SHAPES, INDEXING)
