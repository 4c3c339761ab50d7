"""What all optimisers share: finding the parameters, steps, states."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from minigrad.backend import backend_of
from minigrad.nn.module import Module, checked_state, children
from minigrad.tape import Array, Leaf
from minigrad.tensor import Tensor

Params = Any  # a Module, a Tensor, or a pytree of both
Numbers = Mapping[str, Callable[[str, Any], Any]]


# ---- the numbers of an optimiser: each check returns what is kept --------------------------------------------------


def as_number(name: str, value: Any) -> float:
    """Python's own: a NumPy scalar is no weak number, and would turn float32 arrays into float64."""
    if not isinstance(value, Real):
        raise TypeError(f"{name} is a number, got {type(value).__name__}")
    return float(value)


def checked(name: str, value: Any, high: float) -> float:
    """A number in [0, high)."""
    number = as_number(name, value)
    if not 0.0 <= number < high:
        raise ValueError(f"{name} lies in [0, {high:g}), got {value}")
    return number


def flag(name: str, value: Any) -> bool:
    """True or False, or the numbers 1 and 0 that a state holds for them."""
    if value not in (0, 1):
        raise ValueError(f"{name} is True or False, got {value!r}")
    return bool(value)


from_0 = functools.partial(checked, high=math.inf)
from_0_below_1 = functools.partial(checked, high=1.0)


# ---- what all optimisers do ----------------------------------------------------------------------------------------


class Optimiser:
    """What optimisers share: parameters by path, slots (arrays kept for each), a count of steps for each.

    `params` are those that shall move: a net, a tensor, or a pytree of both. What is left out is frozen; leave it out
    of what is clipped, too, for nobody clears its gradient.

    A subclass gives `slots`, `numbers` (the names of its attributes that are numbers, each with its check, which runs
    whenever one is assigned) and `update`. A float16 parameter is moved in float32, in which its slots are kept, too:
    squares of its gradients would be 0 or inf in its own dtype.

    >>> import minigrad as mg
    >>> net = mg.nn.Deep([mg.nn.RNNCell(2, 3, seed=0), mg.nn.RNNCell(3, 3, seed=1)])
    >>> upper = {path: p for path, p in net.parameters().items() if not path.startswith("layers.0.")}
    >>> list(mg.optim.SGD(upper, lr=0.1).params)  # the lower layer is frozen
    ['layers.1.W_x', 'layers.1.W_h', 'layers.1.b']
    """

    slots: ClassVar[tuple[str, ...]] = ()
    numbers: ClassVar[Numbers] = {"lr": from_0}

    def __init__(self, params: Params, lr: float) -> None:
        self.lr = lr
        self.params = trainable(params)
        self.counts = dict.fromkeys(self.params, 0)
        self.kept = {
            path: tuple(backend_of(p.array).xp.zeros_like(_wide(p.array)) for _ in self.slots)
            for path, p in self.params.items()
        }

    def __setattr__(self, name: str, value: Any) -> None:
        check = self.numbers.get(name)
        super().__setattr__(name, value if check is None else check(name, value))

    def update(self, p: Array, g: Array, count: int, *slots: Array) -> tuple[Array, ...]:
        """The new array of a parameter, and of its slots, in step number `count` (from 1)."""
        raise NotImplementedError

    def step(self, allow_unused: bool = False) -> None:
        """Move every parameter once, and clear its gradient.

        RuntimeError, and nothing changes, where a parameter has no gradient: then it was probably cut off by mistake.
        With `allow_unused=True` such parameters, with all that is kept for them, stay as they are; one at least must
        have a gradient.

        >>> import minigrad as mg
        >>> x = mg.tensor(1.0, requires_grad=True)
        >>> opt = mg.optim.SGD({"x": x, "y": mg.tensor(2.0, requires_grad=True)}, lr=0.5)
        >>> (3.0 * x).backward()
        >>> opt.step(allow_unused=True)
        >>> x
        Tensor(-0.5, requires_grad)
        """
        unused = [path for path, p in self.params.items() if p.grad is None]
        if len(unused) == len(self.params):
            raise RuntimeError(
                "no parameter has a gradient: call backward() on a loss made from these very tensors "
                "(a module's astype and to return copies, whose parameters belong to an optimiser of their own)"
            )
        if unused and not allow_unused:
            raise RuntimeError(
                f"{len(unused)} of {len(self.params)} parameters have no gradient: {', '.join(unused)}; if the loss is "
                "not meant to depend on them, call step(allow_unused=True)"
            )
        new = {
            path: self._moved(path, p) for path, p in self.params.items() if p.grad is not None
        }  # all of them before the first is bound: an error changes nothing
        for path, (array, *kept) in new.items():
            p = self.params[path]
            p.data, p.grad = array, None
            self.kept[path] = tuple(kept)
            self.counts[path] += 1

    def _moved(self, path: str, p: Tensor) -> list[Array]:
        """The next array of a parameter, and of its slots."""
        g: Array = p.grad
        old = (_wide(p.array), *self.kept[path])
        updated = self.update(old[0], _wide(g), self.counts[path] + 1, *self.kept[path])
        new = [p.backend.asarray(array) for array in updated]  # NumPy's 0-d sums are no arrays
        forms = [[f"{array.dtype}{tuple(array.shape)}" for array in arrays] for arrays in (new, old)]
        if forms[0] != forms[1]:
            raise ValueError(
                f"{type(self).__name__} makes {', '.join(forms[0])} for the parameter {path!r}, needed is "
                f"{', '.join(forms[1])}, nothing was changed: its .grad is {g.dtype}{tuple(g.shape)}"
            )
        return [new[0].astype(p.dtype, copy=False), *new[1:]]

    def state_dict(self) -> dict[str, Array]:
        """Copies of all that the next step depends on, but for the parameters and gradients: numbers, counts, slots.

        Numbers and counts are 0-d arrays on the host, so that a checkpoint holds them like everything else.

        >>> import minigrad as mg
        >>> opt = mg.optim.Adam({"x": mg.tensor([1.0, 2.0], requires_grad=True)})
        >>> list(opt.state_dict())
        ['lr', 'beta1', 'beta2', 'eps', 'count.x', 'm.x', 'v.x']
        """
        state = {name: np.array(getattr(self, name), dtype=np.float64) for name in self.numbers}
        for path in self.params:
            state[f"count.{path}"] = np.array(self.counts[path], dtype=np.int64)
            state |= {f"{slot}.{path}": array.copy() for slot, array in zip(self.slots, self.kept[path], strict=True)}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a `state_dict`, its learning rate too: set another one afterwards.

        ValueError, which lists every missing and unexpected name and every other shape or dtype, or a number that
        the constructor would refuse; then nothing changed.

        >>> import minigrad as mg
        >>> params = {"x": mg.tensor([1.0, 2.0], requires_grad=True)}
        >>> old, new = mg.optim.Adam(params, lr=0.01), mg.optim.Adam(params)
        >>> new.load_state_dict(old.state_dict())
        >>> new.lr
        0.01
        """
        arrays = checked_state(type(self).__name__, self.state_dict(), state)
        numbers = {name: check(name, arrays[name].item()) for name, check in self.numbers.items()}
        counts = {path: int(checked(f"count.{path}", arrays[f"count.{path}"].item(), math.inf)) for path in self.params}
        for name, number in numbers.items():
            setattr(self, name, number)
        self.counts = counts
        self.kept = {path: tuple(arrays[f"{slot}.{path}"] for slot in self.slots) for path in self.params}


def _wide(array: Array) -> Array:
    """The array in the dtype to compute in."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


# ---- finding the parameters ----------------------------------------------------------------------------------------


def trainable(params: Params) -> dict[str, Tensor]:
    """The parameters of a Module, or the tensors and modules' parameters of a pytree, by path; each tensor once.

    TypeError for a leaf that is neither, or a tensor that does not require a gradient; ValueError for none at all.
    """
    found: dict[str, Tensor] = {}
    _find("", params, found, set())
    if not found:
        raise ValueError("params holds no tensor that requires a gradient")
    return found


def _find(path: str, item: Any, found: dict[str, Tensor], known: set[int]) -> None:
    if isinstance(item, Module):
        for name, p in item.parameters().items():
            _find(f"{path}.{name}" if path else name, p, found, known)
    elif isinstance(item, list | tuple | dict):
        for name, child in children(item):
            _find(f"{path}.{name}" if path else str(name), child, found, known)
    elif not (isinstance(item, Tensor) and isinstance(item.record, Leaf)):
        what = "a tensor that does not require a gradient" if isinstance(item, Tensor) else f"a {type(item).__name__}"
        raise TypeError(
            f"params{f' at {path!r}' if path else ''} holds {what}: pass the net, or net.parameters(), or a list, "
            "tuple or dict of nets and of tensors made with requires_grad=True"
        )
    elif path in found:
        raise ValueError(f"two parameters have the path {path!r}; rename a key")
    elif id(item) not in known:
        known.add(id(item))
        found[path] = item
