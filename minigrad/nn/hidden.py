"""Which part of a state is h: what wrappers may change, while the rest of the state is handed on as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad import tree


def map_hidden(owner: str, fn: Callable[[Any], Any], state: Any) -> Any:
    """The state with `fn` applied to its h: to a state that is one array, to the field `h` of a named tuple.

    In a tuple or list of states, as that of `Deep`, each has its own. TypeError for any other state.

    >>> from minigrad.nn import LSTMState
    >>> from minigrad.nn.hidden import map_hidden
    >>> map_hidden("a test", lambda h: 10 * h, (1.0, LSTMState(h=2.0, c=3.0)))
    (10.0, LSTMState(h=20.0, c=3.0))
    """
    if tree.flatten(state)[1].kind is None:
        return fn(state)
    if isinstance(state, tuple) and "h" in getattr(state, "_fields", ()):
        return state._replace(h=fn(state.h))  # type: ignore[attr-defined]
    if type(state) in {tuple, list}:
        return type(state)([map_hidden(owner, fn, part) for part in state])
    raise TypeError(
        f"{owner} needs the h of a state, which is one array or a named tuple with a field h (or a tuple of such "
        f"states), got {type(state).__name__}"
    )


def hidden_of(owner: str, state: Any) -> list[Any]:
    """The h of a state, or of each of several states, as a list; TypeError for a state in which h is not known.

    >>> from minigrad.nn import LSTMState
    >>> from minigrad.nn.hidden import hidden_of
    >>> hidden_of("a test", (1.0, LSTMState(h=2.0, c=3.0)))
    [1.0, 2.0]
    """
    found: list[Any] = []
    map_hidden(owner, found.append, state)
    return found
