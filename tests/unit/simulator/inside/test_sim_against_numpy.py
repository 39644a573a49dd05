"""The same expression on NumPy and on the stand-in gives the same values, dtypes and shapes."""

from __future__ import annotations

import warnings

import cupy as cp
import numpy as np
import pytest

EXPRESSIONS = """
a + b; a - b; a * b; a / b; a // 2; a % 3; a ** 2; 2 ** a; -a; +a; abs(-a); a @ b.T; divmod(i, 3); 7 - a; 1 / a
3 // i; i & 3; i | 4; i ^ 5; ~i; i << 1; i >> 1; 1 << i; a < b; a <= 2; a == b; a != b; a > 1; a >= b; -i; i / i
i // 2; i % 4; a + 1; i + 1; i + 1.5; a + 1j; half + 1; half * 2.5; bits & True; ~bits; i8 + 1; i8 + i; u8 - 1
i / 2; a + i; half + a; xp.float32(2) * a; xp.float64(2) * a; a * xp.int8(3); d + 1; d * v; c * 2; c + v[:2]; c.real
c.imag; c.conj(); abs(c); xp.add(a, b); xp.subtract(a, 1); xp.multiply(2, a); xp.divide(i, 2); xp.true_divide(a, b)
xp.floor_divide(i, 2); xp.power(a, 2.5); xp.remainder(i, 3); xp.mod(a, 2); xp.fmod(a, 2); xp.hypot(a, b)
xp.arctan2(a, b); xp.maximum(a, b); xp.minimum(a, 2); xp.fmax(a, n); xp.fmin(a, n); xp.exp(a); xp.exp2(a)
xp.expm1(a); xp.log(a); xp.log2(a); xp.log10(a); xp.log1p(a); xp.sqrt(a); xp.cbrt(a); xp.square(i); xp.reciprocal(a)
xp.sin(a); xp.cos(i); xp.tan(half); xp.arcsin(a / 9); xp.arccos(a / 9); xp.arctan(a); xp.sinh(a); xp.cosh(a)
xp.tanh(a); xp.arcsinh(a); xp.arccosh(a); xp.arctanh(a / 9); xp.deg2rad(a); xp.rad2deg(a); xp.degrees(a)
xp.radians(i); xp.floor(a / 2); xp.ceil(a / 2); xp.trunc(a / 2); xp.rint(a / 2); xp.sign(n); xp.signbit(-a)
xp.absolute(-i); xp.fabs(-a); xp.negative(a); xp.positive(a); xp.isnan(n); xp.isfinite(n); xp.isinf(n)
xp.logical_and(a > 1, b > 2); xp.logical_or(bits, bits); xp.logical_not(bits); xp.logical_xor(bits, bits)
xp.bitwise_and(i, 3); xp.bitwise_or(i, 3); xp.bitwise_xor(i, 3); xp.invert(i); xp.left_shift(i, 2)
xp.right_shift(i, 1); xp.gcd(i, 4); xp.lcm(i, 4); xp.copysign(a, -b); xp.nextafter(a, b); xp.ldexp(a, 2)
xp.frexp(a); xp.modf(a / 2); xp.divmod(i, 3); xp.heaviside(a - 3, 0.5); xp.logaddexp(a, b); xp.logaddexp2(a, b)
xp.conjugate(c); xp.float_power(i, 2); xp.equal(a, b); xp.greater(a, 2); xp.less_equal(a, b); xp.sinc(a); xp.i0(d)
xp.bitwise_count(i); xp.sqrt(-a); xp.log(a - a); a / 0; i // 0; i % 0; a // 0; xp.add(a, b, dtype='f8')
xp.add.outer(v, v); xp.add.reduce(a); xp.add.reduce(a, axis=1); xp.add.accumulate(a, axis=1); xp.multiply.reduce(v)
xp.multiply.accumulate(v); xp.add.reduceat(v, [0, 2, 4]); xp.subtract.outer(v, v); a.sum(); a.sum(axis=0)
a.sum(axis=1, keepdims=True); a.sum(axis=(0, 1)); i.sum(); i8.sum(); bits.sum(); half.sum(); a.prod()
i.prod(axis=1); a.mean(); i.mean(); half.mean(); a.mean(axis=0); a.std(); a.var(axis=1); a.std(ddof=1); a.max()
a.min(axis=1); a.argmax(); a.argmin(axis=1); a.any(); a.all(); a.cumsum(); a.cumprod(axis=1); a.trace(); a.round(1)
a.clip(2, 4); a.clip(min=2); (a > 2).nonzero(); a.nonzero(); a.dot(b.T); v.dot(v); a.take(xp.array([0, 2]), axis=1)
a.repeat(2); a.repeat(2, axis=0); a.flatten(); a.ravel(); a.reshape(3, 2); a.reshape((6,)); a.reshape(-1, 2); a.T
a.transpose(); a.transpose(1, 0); a.swapaxes(0, 1); a[None].squeeze(); a.diagonal(); a.astype('i4'); a.astype(bool)
n.astype('f4'); a.copy(); a.view('i4'); a.argsort(); a.argsort(axis=0); v.searchsorted(v)
v.searchsorted(v, side='right'); a.conj(); a[0, 0]; xp.sum(a); xp.sum(a, axis=1, dtype='f8'); xp.prod(a, axis=0)
xp.mean(a, axis=1, keepdims=True); xp.std(i); xp.var(c); xp.max(a, axis=0); xp.amax(a); xp.amin(a, axis=1)
xp.ptp(a, axis=0); xp.argmax(a, axis=1); xp.argmin(a); xp.argmax(a, axis=0, keepdims=True); xp.nansum(n)
xp.nanprod(n); xp.nanmax(n, axis=0); xp.nanmin(n); xp.nanmean(n); xp.nanstd(n); xp.nanvar(n); xp.nanmedian(n)
xp.nancumsum(n); xp.nancumprod(n); xp.nanargmax(n); xp.nanargmin(n); xp.cumsum(a, axis=0); xp.cumprod(v)
xp.median(a); xp.median(a, axis=1); xp.average(a); xp.average(v, weights=v); xp.average(a, axis=0, returned=True)
xp.percentile(a, 30); xp.percentile(a, [10, 50, 90], axis=1); xp.quantile(v, 0.3)
xp.percentile(v, 40, method='lower'); xp.all(a > 0); xp.any(a > 9, axis=0); xp.count_nonzero(bits)
xp.count_nonzero(a, axis=0); xp.trace(a); xp.diff(v); xp.diff(a, axis=0); xp.diff(v, n=2); xp.diff(v, prepend=0.0)
xp.gradient(v); xp.gradient(a); xp.gradient(v, 2.0); xp.ediff1d(v); xp.cross(v3, w3); xp.trapezoid(v)
xp.interp(v, v, v); xp.cov(a); xp.cov(v, v); xp.corrcoef(a); xp.histogram(v); xp.histogram(v, bins=4)
xp.histogram(v, range=(0, 3)); xp.histogram(v, bins=3, weights=v); xp.histogram(v, density=True)
xp.histogram2d(v, v, bins=3); xp.bincount(k); xp.bincount(k, minlength=9); xp.bincount(k, weights=v)
xp.digitize(v, v); xp.correlate(v, v3); xp.convolve(v, v3); xp.convolve(v, v3, 'same'); xp.clip(a, 1, 3)
xp.clip(i, 2, None); xp.nan_to_num(n); xp.around(a / 3, 2); xp.round(a / 3); xp.real(c); xp.imag(c); xp.angle(c)
xp.angle(c, deg=True); xp.unwrap(v * 3); xp.isclose(a, b); xp.allclose(a, a); xp.array_equal(a, b)
xp.array_equiv(a, a); xp.iscomplex(c); xp.isreal(a); xp.isneginf(n); xp.isposinf(n); xp.isin(k, v); xp.dot(a, b.T)
xp.dot(v, v); xp.vdot(v, v); xp.inner(a, b); xp.outer(v, v); xp.matmul(a, b.T); xp.tensordot(a, b)
xp.tensordot(a, b, axes=([1], [1])); xp.kron(a, b); xp.einsum('ij,kj->ik', a, b); xp.einsum('ii', sq)
xp.einsum('i,i', v, v); xp.einsum(a, [0, 1], b, [2, 1], [0, 2]); xp.polyval(v, v); xp.polyfit(v, v * 2, 1)
xp.roots(v3); xp.polyadd(v, v3); xp.polymul(v3, v3); xp.polysub(v, v3); xp.vander(v3); xp.vander(v3, 2)
xp.hanning(5); xp.hamming(5); xp.blackman(5); xp.bartlett(5); xp.kaiser(5, 2.0); xp.sort(a); xp.sort(a, axis=0)
xp.sort(a, axis=None); xp.argsort(v); xp.partition(v, 2); xp.lexsort(xp.stack([v, -v])); xp.sort_complex(v)
xp.searchsorted(v, 2.5); xp.searchsorted(v, v, side='right'); xp.argwhere(a > 2); xp.nonzero(a > 2)
xp.flatnonzero(bits); xp.where(a > 2, a, b); xp.where(a > 2, a, 0); xp.where(bits); xp.extract(a > 2, a)
xp.unique(k); xp.unique(k, return_counts=True); xp.unique(k, return_inverse=True)
xp.unique(k, return_index=True, return_inverse=True, return_counts=True); xp.union1d(k, k); xp.intersect1d(k, k + 1)
xp.setdiff1d(k, k[:2]); xp.setxor1d(k, k + 1); xp.reshape(a, (3, 2)); xp.ravel(a); xp.ravel(a, order='F')
xp.transpose(a); xp.moveaxis(t, 0, 2); xp.rollaxis(t, 2); xp.swapaxes(t, 0, 2); xp.squeeze(a[None])
xp.expand_dims(a, 1); xp.expand_dims(a, (0, 2)); xp.broadcast_to(v, (2, 5)); xp.broadcast_arrays(v3, a)
xp.concatenate([a, b]); xp.concatenate((a, b), axis=1); xp.concatenate([a, i], axis=None); xp.stack([a, b])
xp.stack([a, b], axis=2); xp.vstack([a, b]); xp.hstack([a, b]); xp.dstack([a, b]); xp.column_stack([v, v])
xp.split(a, 3, axis=1); xp.array_split(v, 2); xp.split(v, [1, 3]); xp.hsplit(a, 3); xp.vsplit(a, 2); xp.dsplit(t, 2)
xp.tile(a, (2, 1)); xp.tile(v, 2); xp.repeat(v, 2); xp.repeat(a, [1, 2], axis=0); xp.roll(v, 2)
xp.roll(a, 1, axis=1); xp.rot90(a); xp.rot90(a, 2); xp.flip(a); xp.flip(a, 0); xp.fliplr(a); xp.flipud(a)
xp.delete(v, 1); xp.append(v, v); xp.append(a, b, axis=0); xp.trim_zeros(xp.array([0, 1, 2, 0])); xp.atleast_1d(v)
xp.atleast_2d(v); xp.atleast_3d(v); xp.atleast_1d(3.0); xp.packbits(bits); xp.unpackbits(u8); xp.diag(v)
xp.diag(sq); xp.diag(v, 1); xp.diagflat(v); xp.diagonal(sq, 1); xp.tril(sq); xp.triu(sq, 1); xp.tri(3)
xp.tri(3, 4, 1); xp.indices((2, 3)); xp.ix_(k[:2], k[:3]); xp.diag_indices(3); xp.tril_indices(3)
xp.triu_indices(3, 1); xp.unravel_index(k, (3, 4)); xp.ravel_multi_index((k % 2, k % 3), (2, 3))
xp.take(v, xp.array([0, 2])); xp.take(a, 1, axis=1); xp.take_along_axis(a, a.argsort(axis=1), axis=1)
xp.compress(xp.array([True, False]), a, axis=0); xp.choose(k % 2, xp.stack([v, -v]))
xp.select([v > 2, v > 1], [v, -v], 9); xp.piecewise(v, [v < 2, v >= 2], [1, 2]); xp.pad(a, 1)
xp.pad(v, (1, 2), mode='edge'); xp.pad(v, 2, constant_values=7); xp.zeros((2, 3)); xp.zeros(3, 'i4')
xp.ones((2,), dtype='f4'); xp.full((2, 2), 7); xp.full(2, 1.5, dtype='f4'); xp.full(3, True); xp.zeros_like(a)
xp.ones_like(i); xp.full_like(a, 3); xp.zeros_like(a, dtype='i8', shape=(4,)); xp.eye(3); xp.eye(2, 3, 1)
xp.identity(2); xp.arange(5); xp.arange(1, 2, 0.25); xp.arange(3, dtype='f4'); xp.arange(5, 0, -2)
xp.linspace(0, 1, 5); xp.linspace(0, 1, 4, endpoint=False); xp.linspace(0, 9, 4, dtype='i4'); xp.logspace(0, 2, 3)
xp.meshgrid(v3, v); xp.meshgrid(v3, v, indexing='ij'); xp.mgrid[0:2, 0:3]; xp.ogrid[0:2, 0:3]; xp.r_[v, 0, v3]
xp.c_[v, v]; xp.array([1, 2, 3]); xp.array([[1.0, 2], [3, 4]]); xp.array(3); xp.array([1, 2], dtype='f2')
xp.array([True]); xp.array(1j); xp.array(a, ndmin=3); xp.asarray([1, 2]); xp.ascontiguousarray(a.T); xp.copy(a)
xp.array([]); xp.asarray(2.5); a[0]; a[0, 1]; a[-1]; a[:, 1]; a[..., 0]; a[None]; a[::-1]; a[1:, :2]; a[a > 2]
a[[0, 1]]; a[[0, 1], [1, 2]]; a[:, [2, 0]]; v[k]; v[k > 1]; t[0, :, 1]; t[:, None, ...]; t[[0, 1], :, [0, 1]]
t[..., [0, 1]]; v[2:2]; a[1][2]; v[xp.array(1)]; a[xp.array([[0, 1], [1, 0]])]; t[t > 3]; a[True]; a[()]
xp.linalg.norm(a); xp.linalg.norm(v, 1); xp.linalg.norm(a, axis=0); xp.linalg.norm(a, 'fro')
xp.linalg.norm(v, xp.inf); xp.linalg.inv(sq); xp.linalg.det(sq); xp.linalg.slogdet(sq); xp.linalg.solve(sq, v3)
xp.linalg.solve(sq, sq); xp.linalg.cholesky(spd); xp.linalg.eigh(spd); xp.linalg.eigvalsh(spd)
xp.linalg.svd(sq, compute_uv=False); xp.linalg.qr(sq); xp.linalg.pinv(sq); xp.linalg.matrix_rank(sq)
xp.linalg.matrix_power(sq, 3); xp.linalg.lstsq(sq, v3)[0]; xp.linalg.cond(sq); xp.linalg.tensorsolve(sq, v3)
xp.linalg.qr(sq, mode='r'); xp.linalg.eigvals(spd).real; xp.fft.fft(v); xp.fft.ifft(v); xp.fft.rfft(v)
xp.fft.irfft(v); xp.fft.fft2(a); xp.fft.ifft2(a); xp.fft.fftn(t); xp.fft.rfftn(t); xp.fft.fft(d); xp.fft.fft(v, n=8)
xp.fft.fft(v, norm='ortho'); xp.fft.fftshift(v); xp.fft.ifftshift(v); xp.fft.fftfreq(5); xp.fft.rfftfreq(5, 0.5)
xp.fft.hfft(v); xp.fft.ihfft(v); xp.fft.fft(c); xp.fft.rfft(d)
"""

CASES = [part.strip() for line in EXPRESSIONS.strip().splitlines() for part in line.split(";") if part.strip()]


def names(xp):
    """Arrays of many kinds, the same for both libraries."""
    a = xp.arange(1, 7, dtype="f4").reshape(2, 3)
    return {
        "xp": xp, "a": a, "b": a[::-1] + 1, "i": xp.arange(1, 7).reshape(2, 3), "i8": xp.arange(3, dtype="i1"),
        "u8": xp.arange(4, dtype="u1"), "half": xp.arange(3, dtype="f2"), "d": xp.arange(5, dtype="f8"),
        "c": xp.array([1 + 2j, 3 - 1j], dtype="c8"), "bits": xp.array([[True, False, True]]),
        "n": xp.array([[1.0, float("nan"), -2.0], [3.0, float("-inf"), 5.0]]), "v": xp.arange(5, dtype="f4"),
        "v3": xp.array([1.0, 2.0, 4.0]), "w3": xp.array([3.0, 1.0, 2.0]), "k": xp.array([1, 0, 3, 1, 4]),
        "t": xp.arange(8).reshape(2, 2, 2), "sq": xp.array([[4.0, 1, 0], [1, 3, 1], [2, 1, 5]]),
        "spd": xp.array([[4.0, 1, 0], [1, 3, 1], [0, 1, 5]]),
    }  # fmt: skip


def same(mine, theirs, where):
    if isinstance(theirs, (tuple, list)):
        assert isinstance(mine, (tuple, list)), where
        assert len(mine) == len(theirs), where
        for left, right in zip(mine, theirs, strict=True):
            same(left, right, where)
        return
    assert isinstance(mine, cp.ndarray), f"{where} gave a {type(mine)}, not a device array"
    theirs = np.asarray(theirs)
    assert mine.dtype == theirs.dtype, where
    assert mine.shape == theirs.shape, where
    np.testing.assert_allclose(mine.get(), theirs, rtol=1e-5, atol=1e-6, err_msg=where)


@pytest.mark.parametrize("expression", CASES)
def test_as_numpy(expression):
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = eval(expression, names(np))
    same(eval(expression, names(cp)), theirs, expression)


def test_enough_was_compared():
    assert len(CASES) > 400


@pytest.mark.parametrize("name", ["sum", "mean", "max", "cumsum", "argmax", "std", "any", "median", "prod", "nansum"])
def test_out_is_filled_and_returned(name):
    a = cp.arange(6.0).reshape(2, 3)
    expected = getattr(cp, name)(a, axis=1)
    out = cp.empty_like(expected)
    assert getattr(cp, name)(a, axis=1, out=out) is out
    assert cp.array_equal(out, expected)


def test_a_ufunc_fills_out_in_every_way_to_say_so():
    a, out = cp.arange(3.0), cp.empty(3)
    assert cp.add(a, 1, out) is out
    assert cp.add(a, 1, out=out) is out
    assert cp.sinc(a, out=out) is out
    assert out[0] == 1
    part, whole = cp.modf(a + 0.5, cp.empty(3), cp.empty(3))
    assert (float(part[0]), float(whole[1])) == (0.5, 1.0)
    with pytest.raises(ValueError, match="both a positional and keyword"):
        cp.add(a, 1, out, out=out)


def test_in_place_operators_change_the_same_memory():
    a = cp.arange(3.0)
    view = a[1:]
    a += 1
    a *= cp.array([1, 2, 3])
    a -= 1
    a /= 2
    a **= 2
    assert view.tolist() == [2.25, 16.0]
    i = cp.arange(3)
    i <<= 1
    i |= 1
    i &= 3
    i ^= 2
    i //= 1
    i %= 2
    i >>= 0
    assert i.tolist() == [1, 1, 1]
    with pytest.raises(TypeError, match="cast"):
        i += 0.5


def test_reshape_transpose_and_slices_are_views():
    a = cp.zeros((2, 3))
    a.reshape(6)[0] = 1
    a.T[1, 1] = 2
    a[1:][0, 0] = 3
    a.ravel()[2] = 4
    a.diagonal()[0] += 10
    a[0, 1] = 5
    assert a.tolist() == [[11, 5, 4], [3, 2, 0]]
    one = a[0, 0]
    one[...] = 7
    assert a[0, 0] == 7
    copied = a[cp.array(0)]
    copied[...] = -1
    assert a[0, 0] == 7
    a.shape = (3, 2)
    assert a.shape == (3, 2)


def test_setting_items():
    a = cp.zeros((2, 3))
    a[0] = cp.arange(3)
    a[1, [0, 2]] = [8, 9]
    a[a == 0] = -1
    a[:, 1] = cp.float32(5)
    a[cp.array([1]), cp.array([1])] = np.array([6.0])
    a[0, 0] = np.array(3.5)
    assert a.tolist() == [[3.5, 5, 2], [8, 6, 9]]


def test_functions_that_write_into_their_argument():
    a = cp.zeros((3, 3))
    cp.fill_diagonal(a, 2)
    cp.put(a, cp.array([1]), 7)
    cp.putmask(a, a == 0, cp.array([1.0]))
    cp.place(a, a == 7, cp.array([8.0]))
    cp.copyto(a, 5, where=a == 8)
    assert a[0].tolist() == [2, 5, 1]
    a.fill(4)
    a.sort()
    a.partition(1)
    cp.put_along_axis(a, cp.array([[0], [1], [2]]), 9, 1)
    assert a.trace() == 27
    counts = cp.zeros(3)
    counts.scatter_add(cp.array([0, 0, 2]), 1)
    cp.add.at(counts, cp.array([2, 2]), 1)
    counts.scatter_max(cp.array([1]), 4)
    counts.scatter_min(cp.array([0]), -1)
    assert counts.tolist() == [-1, 4, 3]


def test_apply_along_axis_hands_out_device_arrays():
    seen = []

    def total(line):
        seen.append(type(line))
        return line.sum()

    assert cp.apply_along_axis(total, 1, cp.arange(6).reshape(2, 3)).tolist() == [3, 12]
    assert set(seen) == {cp.ndarray}


def test_numpy_functions_reach_the_stand_in():
    a = cp.arange(4.0)
    for result in (np.sum(a), np.sin(a), np.concatenate([a, a]), np.linalg.norm(a), np.add.reduce(a), np.fft.fft(a)):
        assert isinstance(result, cp.ndarray)
    assert isinstance(np.float32(2) * a, cp.ndarray)


def test_reading_and_writing_files(tmp_path):
    a = cp.arange(4.0)
    cp.save(tmp_path / "a.npy", a)
    cp.savez(tmp_path / "a.npz", a=a)
    cp.savez_compressed(tmp_path / "b.npz", a=a)
    cp.savetxt(tmp_path / "a.txt", a)
    assert cp.array_equal(cp.load(tmp_path / "a.npy"), a)
    for name in ("a.npz", "b.npz"):
        with cp.load(tmp_path / name) as found:
            assert cp.array_equal(found["a"], a)
    assert cp.array_equal(cp.loadtxt(tmp_path / "a.txt"), a)
    assert cp.array_equal(cp.genfromtxt(tmp_path / "a.txt"), a)
    a.tofile(tmp_path / "a.bin")
    assert cp.array_equal(cp.fromfile(tmp_path / "a.bin"), a)
    assert cp.array_equal(cp.frombuffer(a.tobytes()), a)


def test_text():
    a = cp.arange(3, dtype="f4")
    assert repr(a) == "array([0., 1., 2.], dtype=float32)"
    assert str(a) == "[0. 1. 2.]"
    assert f"{a.sum():.2f}" == "3.00"
    assert cp.array_repr(a) == repr(a)
    assert cp.array_str(a) == cp.array2string(a) == str(a)
    assert cp.format_float_positional(a[1]) == "1."
    assert cp.format_float_scientific(a[1]) == "1.e+00"
    assert cp.binary_repr(5) == "101"
