"""A fake CuPy, as strict as CuPy where CuPy differs from NumPy, which runs on every machine.

It finds what a GPU would refuse, or do silently in another way, without a GPU: `xp` stands for the module cupy, its
arrays compute what NumPy computes, and where CuPy is lenient or undefined they raise.

    xp                         the namespace: the names that CuPy has, with CuPy's arguments
    StrictArray                what its functions return
    count_syncs                what makes the host wait for the device, in a block
    expect_syncs               ... asserted to be so many; assert_no_sync() to be none
    count_launches             what a kernel would be launched for, in a block
    memory_order               other orders of memory for results whose order CuPy does not promise
    backend                    a backend of minigrad's, for `minigrad.backend.register`, under the name "strict"
    interpret                  what a backend's `elementwise` must agree with

Green here does not prove that CuPy agrees; red shows what CuPy may refuse. The rules:

* no implicit conversion to NumPy: `np.asarray(a)` raises, and so do `np.tanh(a)` and `np.sum(a)`, which CuPy allows;
* arrays of NumPy do not mix with it, neither as operands, nor as indices, nor as values to store;
* lists are no arrays: not as operands (CuPy raises), not as indices or values (CuPy copies them to the device);
* reductions and full indexing return arrays of no dimensions, never scalars, and these are no weak scalars either;
* an index out of range raises (CuPy wraps it around); so does storing two values in one place (undefined), and the
  cast of a NaN or of too large a float to an integer (undefined);
* there is no read-only flag, no `__index__`, no `@=`, no dtype that a GPU lacks;
* a size, an axis or a bound of a slice on the device raises, for the host would have to wait for it;
* what is not elementwise returns its result in an order of memory that nobody would guess;
* every wait of the host for the device is counted, and so is everything that the device is asked to compute.

Code that takes its namespace as an argument is tested as it is:

>>> import numpy as np
>>> from minigrad.testing import fake_cupy
>>> def softmax(x, xp):
...     e = xp.exp(x - np.max(x, axis=-1, keepdims=True))  # np, by mistake
...     return e / e.sum(axis=-1, keepdims=True)
>>> softmax(fake_cupy.xp.asarray([[1.0, 2.0]]), fake_cupy.xp)
Traceback (most recent call last):
...
TypeError: np.max was called with a device array; call xp.max instead

So is code on minigrad, once the backend is registered:

>>> import minigrad as mg
>>> mg.backend.register(fake_cupy.backend)
>>> with mg.use_backend("strict"), fake_cupy.expect_syncs(1):
...     x = mg.tensor([3.0, 4.0], requires_grad=True)
...     loss = (x * x).sum()
...     print(loss.item())
25.0
"""

from minigrad.testing.fake_cupy import methods as _methods  # noqa: F401  # gives StrictArray its methods
from minigrad.testing.fake_cupy.counting import assert_no_sync, count_launches, count_syncs, expect_syncs
from minigrad.testing.fake_cupy.device_array import StrictArray
from minigrad.testing.fake_cupy.elementwise import interpret
from minigrad.testing.fake_cupy.memory import memory_order
from minigrad.testing.fake_cupy.namespace import xp
from minigrad.testing.fake_cupy.plugin import backend

__all__ = [
    "StrictArray",
    "assert_no_sync",
    "backend",
    "count_launches",
    "count_syncs",
    "expect_syncs",
    "interpret",
    "memory_order",
    "xp",
]
