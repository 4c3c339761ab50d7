"""Write cupy_names.txt, the names that CuPy has, with their arguments.

Run it as `python tests/strict/refresh_names.py`. It needs a cupy that can be imported, but no GPU.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

FILE = Path(__file__).with_name("cupy_names.txt")
HEADING = "# Made by refresh_names.py (every default is written None) from CuPy "
EXPANDED = {"linalg"}  # submodules whose functions are listed too


def lines(cupy: Any) -> list[str]:
    """Return the lines of the file for this cupy, without the heading."""
    members = (name for name in dir(cupy.ndarray) if not name.startswith("_"))
    return sorted([*of_module(cupy, cupy, ""), *(of_member(name, getattr(cupy.ndarray, name)) for name in members)])


def of_module(cupy: Any, module: ModuleType, prefix: str) -> Iterator[str]:
    for name in dir(module):
        item = getattr(module, name)
        if name.startswith("_"):
            continue
        if isinstance(item, cupy.ufunc):
            yield f"ufunc {prefix}{name}"
            if item._scatter_op is not None:
                yield f"ufunc.at {prefix}{name}"
        elif inspect.ismodule(item):
            yield f"module {prefix}{name}"
            if name in EXPANDED:
                yield from of_module(cupy, item, f"{name}.")
        elif inspect.isclass(item):
            yield f"class {prefix}{name}"
        elif callable(item):
            yield f"function {prefix}{name}({arguments_of(item)})"
        else:
            yield f"constant {prefix}{name}"


def of_member(name: str, member: Any) -> str:
    if not callable(member):
        return f"attribute {name}"
    heading = (member.__doc__ or "").partition("\n")[0]  # compiled methods print their arguments there
    match = re.match(r"_ndarray_base\.\w+\(self(?:, )?(.*)\) *(->.*)?$", heading)
    return f"method {name}({without_types(match[1]) if match else '*args, **kwargs'})"


def arguments_of(function: Any) -> str:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a compiled function that does not tell
        return "*args, **kwargs"
    return with_defaults(list(parameters))


def with_defaults(parameters: list[inspect.Parameter]) -> str:
    """Return Python's text for the parameters, every default written as None: only the names matter here."""
    plain = [p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else None) for p in parameters]
    return str(inspect.Signature(plain))[1:-1]


def without_types(arguments: str) -> str:
    """Return the arguments in a compiled method's heading, `Type name=default`, as plain Python."""
    parts = [part.strip() for part in re.split(r",(?![^(]*\))", arguments) if part.strip()]
    plain = []
    for part in parts:
        name, equals, _ = part.partition("=")
        plain.append(name.split()[-1].replace("self", "") + ("=None" if equals else ""))
    return ", ".join(plain)


def main() -> None:
    import cupy

    FILE.write_text("\n".join([HEADING + cupy.__version__, *lines(cupy), ""]))
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
