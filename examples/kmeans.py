"""k-means in CuPy on scikit-learn's digits, checked against scikit-learn's own from the same initial centres.

python examples/kmeans.py
"""

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from plover import gpu_function


@gpu_function
def kmeans(points, centres, max_rounds=300):
    """Lloyd's algorithm: labels (n,), centres (k, d), inertia, and the rounds that it took."""
    import cupy as cp

    points, centres = cp.asarray(points), cp.asarray(centres)
    lengths = (points**2).sum(axis=1)[:, None]
    labels = cp.full(len(points), -1)
    for rounds in range(1, max_rounds + 1):
        distances = lengths - 2 * points @ centres.T + (centres**2).sum(axis=1)
        nearest = distances.argmin(axis=1)
        if (nearest == labels).all():
            break
        labels = nearest
        members = (labels[:, None] == cp.arange(len(centres))).astype(points.dtype)  # (n, k), one 1 a row
        counts = members.sum(axis=0)[:, None]
        centres = cp.where(counts > 0, members.T @ points / cp.maximum(counts, 1), centres)
    inertia = ((points - centres[labels]) ** 2).sum()
    return labels, centres, float(inertia), rounds


def main():
    points = load_digits().data  # 1797 images of 8 × 8, float64
    initial = points[np.random.default_rng(0).choice(len(points), 10, replace=False)]

    future = kmeans.submit(points, initial)
    labels, centres, inertia, rounds = future.result()
    theirs = KMeans(10, init=initial, n_init=1, algorithm="lloyd", tol=0).fit(points)

    apart = abs(inertia - theirs.inertia_) / theirs.inertia_
    same = float(np.mean(labels == theirs.labels_))
    assert apart < 1e-3, f"inertia {inertia} against scikit-learn's {theirs.inertia_}"
    assert same > 0.99, f"only {same:.1%} of the labels are scikit-learn's"
    receipt = future.receipt
    where = ", ".join(receipt.devices) + (" (simulated)" if receipt.simulated else "")
    print(f"{len(points)} digits, {len(centres)} clusters, {rounds} rounds in {receipt.run_s:.2f} s on {where}")
    print(f"agreement with scikit-learn: {same:.2%} of labels, inertia {apart:.1e} apart")


if __name__ == "__main__":
    main()
