"""Numba-CUDA's simulator, mended: kernels as Python, one CUDA thread at a time.

``mend`` puts everything here into ``numba.cuda``. Read in this order: ``state`` (what a running thread sees),
``analysis`` (may a kernel's threads wait for each other?), ``blocks`` (running the threads of a block), ``launch``
(dispatchers), then what kernels use (``integers``, ``elements``, ``inside``, ``warps``, ``atomics``) and what hosts
use (``arrays``, ``host``, ``vectorizing``, ``xoroshiro``).
"""
