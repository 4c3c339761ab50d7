"""The update rules: each one block, its equations beside its code. Gradients g, parameters p, all elementwise."""

from __future__ import annotations

from typing import ClassVar

from minigrad.backend import backend_of
from minigrad.optim.optimiser import Numbers, Optimiser, Params, flag, from_0, from_0_below_1
from minigrad.tape import Array


class SGD(Optimiser):
    """Gradient descent, with momentum if asked for.

        v = momentum * v + g
        p = p - lr * v                        with nesterov=True: p - lr * (g + momentum * v)

    `params`: what shall move; parameters that are left out are frozen, see `Optimiser`.
    ValueError for an lr below 0, a momentum outside [0, 1), or nesterov without momentum.
    Sources: Polyak (1964); Sutskever et al., "On the importance of initialization and momentum" (2013), for Nesterov's.
    Here lr multiplies v as a whole, so changing it acts on all of v at once. v is kept without momentum, too, so that
    one which is assigned later acts.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, 2.0], requires_grad=True)
    >>> opt = mg.optim.SGD([x], lr=0.1)
    >>> (x * x).sum().backward()
    >>> opt.step()
    >>> x
    Tensor([0.8, 1.6], requires_grad)
    """

    slots = ("velocity",)
    numbers: ClassVar[Numbers] = {"lr": from_0, "momentum": from_0_below_1, "nesterov": flag}

    def __init__(self, params: Params, lr: float, momentum: float = 0.0, nesterov: bool = False) -> None:
        self.momentum = momentum
        self.nesterov = nesterov
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum above 0")
        super().__init__(params, lr)

    def update(self, p: Array, g: Array, count: int, *slots: Array) -> tuple[Array, ...]:
        v = self.momentum * slots[0] + g
        return p - self.lr * (g + self.momentum * v if self.nesterov else v), v


class Adagrad(Optimiser):
    """Steps that shrink with all that a coordinate has seen: rare features keep large ones.

        s = s + g**2
        p = p - lr * g / (sqrt(s) + eps)

    `params`: what shall move; parameters that are left out are frozen, see `Optimiser`.
    ValueError for an lr or eps below 0.
    Source: Duchi, Hazan and Singer, "Adaptive subgradient methods" (2011), with a diagonal matrix.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, -2.0], requires_grad=True)
    >>> opt = mg.optim.Adagrad({"x": x}, lr=0.1)
    >>> (x * x).sum().backward()
    >>> opt.step()
    >>> x
    Tensor([ 0.9, -1.9], requires_grad)
    """

    slots = ("s",)
    numbers: ClassVar[Numbers] = {"lr": from_0, "eps": from_0}

    def __init__(self, params: Params, lr: float = 1e-2, eps: float = 1e-10) -> None:
        self.eps = eps
        super().__init__(params, lr)

    def update(self, p: Array, g: Array, count: int, *slots: Array) -> tuple[Array, ...]:
        s = slots[0] + g * g
        size = backend_of(p).xp.sqrt(s) + self.eps
        return p - self.lr * (g / size), s


class RMSProp(Optimiser):
    """The gradient over the root of the mean of its recent squares: Adagrad that forgets.

        v = decay * v + (1 - decay) * g**2
        p = p - lr * g / (sqrt(v) + eps)

    v starts at 0 and is not corrected for it, so the first steps are longer than lr, by up to 1 / sqrt(1 - decay).
    `params`: what shall move; parameters that are left out are frozen, see `Optimiser`.
    ValueError for an lr or eps below 0, or a decay outside [0, 1).
    Source: Tieleman and Hinton, "Neural networks for machine learning", lecture 6.5 (2012).

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, -2.0], requires_grad=True)
    >>> opt = mg.optim.RMSProp({"x": x}, lr=0.1, decay=0.75)
    >>> (x * x).sum().backward()
    >>> opt.step()
    >>> x
    Tensor([ 0.8, -1.8], requires_grad)
    """

    slots = ("v",)
    numbers: ClassVar[Numbers] = {"lr": from_0, "decay": from_0_below_1, "eps": from_0}

    def __init__(self, params: Params, lr: float = 1e-3, decay: float = 0.9, eps: float = 1e-8) -> None:
        self.decay = decay
        self.eps = eps
        super().__init__(params, lr)

    def update(self, p: Array, g: Array, count: int, *slots: Array) -> tuple[Array, ...]:
        v = self.decay * slots[0] + (1 - self.decay) * (g * g)
        size = backend_of(p).xp.sqrt(v) + self.eps
        return p - self.lr * (g / size), v


class Adam(Optimiser):
    """Steps of about lr in every coordinate: the mean of the gradients over the root of the mean of their squares.

        m = beta1 * m + (1 - beta1) * g       v = beta2 * v + (1 - beta2) * g**2
        p = p - lr * m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps)       t: the parameter's count of steps

    `params`: what shall move; parameters that are left out are frozen, see `Optimiser`.
    ValueError for an lr or eps below 0, or a beta outside [0, 1).
    Source: Kingma and Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, -2.0], requires_grad=True)
    >>> opt = mg.optim.Adam({"x": x}, lr=0.1)
    >>> (x * x).sum().backward()
    >>> opt.step()
    >>> x
    Tensor([ 0.9, -1.9], requires_grad)
    """

    slots = ("m", "v")
    numbers: ClassVar[Numbers] = {"lr": from_0, "beta1": from_0_below_1, "beta2": from_0_below_1, "eps": from_0}

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        beta1, beta2 = betas
        self.beta1, self.beta2 = beta1, beta2
        self.eps = eps
        super().__init__(params, lr)

    def update(self, p: Array, g: Array, count: int, *slots: Array) -> tuple[Array, ...]:
        m, v = slots
        m = self.beta1 * m + (1 - self.beta1) * g
        v = self.beta2 * v + (1 - self.beta2) * (g * g)
        mean = m / (1 - self.beta1**count)
        size = backend_of(p).xp.sqrt(v / (1 - self.beta2**count)) + self.eps
        return p - self.lr * (mean / size), m, v


class AdamW(Adam):
    """Adam with decoupled weight decay: parameters shrink by themselves, outside of the moments.

        p = (Adam's new p) - lr * weight_decay * p

    Every parameter given decays, biases too: those that shall not get an Adam of their own.
    `params`: what shall move; parameters that are left out are frozen, see `Optimiser`.
    ValueError for an lr, eps or weight_decay below 0, or a beta outside [0, 1).
    Source: Loshchilov and Hutter, "Decoupled weight decay regularization" (2019), algorithm 2, its schedule being lr.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, -2.0], requires_grad=True)
    >>> opt = mg.optim.AdamW({"x": x}, lr=0.1, weight_decay=0.5)
    >>> (x * x).sum().backward()
    >>> opt.step()
    >>> x
    Tensor([ 0.85, -1.8 ], requires_grad)
    """

    numbers: ClassVar[Numbers] = {**Adam.numbers, "weight_decay": from_0}

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        self.weight_decay = weight_decay
        super().__init__(params, lr, betas, eps)

    def update(self, p: Array, g: Array, count: int, *slots: Array) -> tuple[Array, ...]:
        new, *moments = super().update(p, g, count, *slots)
        return new - self.lr * self.weight_decay * p, *moments
