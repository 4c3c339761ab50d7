"""Write cupy_names.txt, the names that CuPy has, with their arguments.

Run it as `python -m minigrad.testing.fake_cupy.refresh_names`. It needs a cupy that can be imported, but no GPU.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from minigrad.testing.fake_cupy.names import DTYPES, FILE

HEADING = "# Made by refresh_names.py (every default is written None) from CuPy "
EXPANDED = {"linalg"}  # submodules whose functions are listed too


def lines(cupy: Any) -> list[str]:
    """Return the lines of the file for this cupy, without the heading."""
    members = (name for name in dir(cupy.ndarray) if not name.startswith("_"))
    return sorted([*_of_module(cupy, cupy, ""), *(_of_member(name, getattr(cupy.ndarray, name)) for name in members)])


def _of_module(cupy: Any, module: ModuleType, prefix: str) -> Iterator[str]:
    for name in dir(module):
        item = getattr(module, name)
        if name.startswith("_"):
            continue
        if isinstance(item, cupy.ufunc):
            yield f"ufunc {prefix}{name}({_dtypes_of(item)})"
            if item._scatter_op is not None:  # noqa: SLF001  # nothing public tells it
                yield f"ufunc.at {prefix}{name}"
        elif inspect.ismodule(item):
            yield f"module {prefix}{name}"
            if name in EXPANDED:
                yield from _of_module(cupy, item, f"{name}.")
        elif inspect.isclass(item):
            yield f"class {prefix}{name}"
        elif callable(item):
            yield f"function {prefix}{name}({_arguments_of(item)})"
        else:
            yield f"constant {prefix}{name}"


def _dtypes_of(ufunc: Any) -> str:
    """Return the characters of the dtypes of a ufunc's operands, from its loops: `ff->f` and the like."""
    operands = "".join(loop.partition("->")[0] for loop in ufunc.types)
    return "".join(dtype for dtype in DTYPES if dtype in operands)


def _of_member(name: str, member: Any) -> str:
    if not callable(member):
        return f"attribute {name}"
    heading = (member.__doc__ or "").partition("\n")[0]  # compiled methods print their arguments there
    match = re.match(r"_ndarray_base\.\w+\(self(?:, )?(.*)\) *(->.*)?$", heading)
    return f"method {name}({_without_types(match[1]) if match else '*args, **kwargs'})"


def _arguments_of(function: Any) -> str:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a compiled function that does not tell
        return "*args, **kwargs"
    return _with_defaults(list(parameters))


def _with_defaults(parameters: list[inspect.Parameter]) -> str:
    """Return Python's text for the parameters, every default written as None: only the names matter here."""
    plain = [p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else None) for p in parameters]
    return str(inspect.Signature(plain))[1:-1]


def _without_types(arguments: str) -> str:
    """Return the arguments in a compiled method's heading, `Type name=default`, as plain Python."""
    parts = [part.strip() for part in re.split(r",(?![^(]*\))", arguments) if part.strip()]
    plain = []
    for part in parts:
        name, equals, _ = part.partition("=")
        plain.append(name.split()[-1].replace("self", "") + ("=None" if equals else ""))
    return ", ".join(plain)


def main() -> None:
    """Write the file beside this module."""
    import cupy  # noqa: PLC0415  # needed by this command only

    FILE.write_text("\n".join([HEADING + cupy.__version__, *lines(cupy), ""]), encoding="utf-8")
    sys.stdout.write(f"wrote {FILE}\n")


if __name__ == "__main__":
    main()
