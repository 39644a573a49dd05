"""The edges of a photograph, found by a Numba-CUDA kernel (Sobel's operator, one thread a pixel).

    python examples/edges.py [edges.png]

The kernel is launched with Numba's own syntax and runs on a GPU worker; `out` is filled in place here.
"""

import math
import sys
import time

import numpy as np
from numba import cuda
from PIL import Image
from sklearn.datasets import load_sample_image

from plover import gpu_function


@gpu_function
@cuda.jit
def sobel(image, out):
    row, column = cuda.grid(2)
    if 0 < row < image.shape[0] - 1 and 0 < column < image.shape[1] - 1:
        up, down, left, right = row - 1, row + 1, column - 1, column + 1
        across = image[up, right] + 2 * image[row, right] + image[down, right]
        across -= image[up, left] + 2 * image[row, left] + image[down, left]
        along = image[down, left] + 2 * image[down, column] + image[down, right]
        along -= image[up, left] + 2 * image[up, column] + image[up, right]
        out[row, column] = math.sqrt(across * across + along * along)


def photograph():
    """The grey values of a photograph, from 0 to 1: float32 of shape (427, 640)."""
    picture = Image.fromarray(load_sample_image("china.jpg")).convert("L")
    return np.asarray(picture, np.float32) / np.float32(255)


def main(path="edges.png"):
    image = photograph()
    edges = np.zeros_like(image)
    threads = (16, 16)
    blocks = tuple(math.ceil(size / count) for size, count in zip(image.shape, threads, strict=True))

    started = time.perf_counter()
    future = sobel[blocks, threads].submit(cuda.In(image), edges)
    future.result()
    took_s = time.perf_counter() - started

    Image.fromarray(np.uint8(255 * np.clip(edges / 2, 0, 1))).save(path)
    receipt = future.receipt
    where = ", ".join(receipt.devices) + (" (simulated)" if receipt.simulated else "")
    print(f"{path}: {image.shape[1]} × {image.shape[0]} in {took_s:.2f} s, {receipt.run_s:.2f} s of it on {where}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
