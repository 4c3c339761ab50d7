"""What all optimisers share: finding the parameters, steps, states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from minigrad.backend import backend_of
from minigrad.nn.module import Module, checked_state, children
from minigrad.tape import Array, Leaf
from minigrad.tensor import Tensor

Params = Any  # a Module, a Tensor, or a pytree of both


class Optimiser:
    """What optimisers share: parameters by path, slots (arrays kept for each), a count of steps for each.

    A subclass gives `slots`, `numbers` (the names of its attributes that are numbers) and `update`.
    """

    slots: tuple[str, ...] = ()
    numbers: ClassVar[tuple[str, ...]] = ("lr",)

    def __init__(self, params: Params, lr: float) -> None:
        self.lr = checked("lr", lr, 0.0, math.inf)
        self.params = trainable(params)
        self.counts = dict.fromkeys(self.params, 0)
        self.kept = {
            path: tuple(backend_of(p.array).xp.zeros_like(p.array) for _ in self.slots)
            for path, p in self.params.items()
        }

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
            path: self.update(p.array, p.grad, self.counts[path] + 1, *self.kept[path])
            for path, p in self.params.items()
            if p.grad is not None
        }
        for path, arrays in new.items():
            p = self.params[path]
            p.data, *kept = [p.backend.asarray(array) for array in arrays]  # NumPy's 0-d sums are no arrays
            p.grad = None
            self.kept[path] = tuple(kept)
            self.counts[path] += 1

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

        ValueError, which lists every missing and unexpected name and every other shape or dtype; then nothing changed.

        >>> import minigrad as mg
        >>> params = {"x": mg.tensor([1.0, 2.0], requires_grad=True)}
        >>> old, new = mg.optim.Adam(params, lr=0.01), mg.optim.Adam(params)
        >>> new.load_state_dict(old.state_dict())
        >>> new.lr
        0.01
        """
        arrays = checked_state(type(self).__name__, self.state_dict(), state)
        for name in self.numbers:
            setattr(self, name, type(getattr(self, name))(arrays[name].item()))
        for path in self.params:
            self.counts[path] = int(arrays[f"count.{path}"])
            self.kept[path] = tuple(arrays[f"{slot}.{path}"] for slot in self.slots)


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
            f"params{f' at {path!r}' if path else ''} holds {what}; an optimiser takes modules, tensors made with "
            "requires_grad=True, and lists, tuples and dicts of both"
        )
    elif path in found:
        raise ValueError(f"two parameters have the path {path!r}; rename a key")
    elif id(item) not in known:
        known.add(id(item))
        found[path] = item


def checked(name: str, value: Any, low: float, high: float) -> float:
    """A number in [low, high)."""
    if not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} is a number, got {type(value).__name__}")
    if not low <= value < high:
        raise ValueError(f"{name} lies in [{low:g}, {high:g}), got {value}")
    return float(value)
