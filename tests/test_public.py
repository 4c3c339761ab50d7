"""What `import minigrad as mg` offers: names that exist and are documented with examples, and no ballast."""

from __future__ import annotations

import doctest
import inspect
import json
import os
import subprocess
import sys
import typing

import pytest

import minigrad as mg

DESIGNED = """
    tensor asarray zeros ones full arange random Tensor grad value_and_grad vjp jvp jacobian hvp no_grad
    stop_gradient checkpoint custom_op Tape use_backend backends scan add subtract multiply divide negative
    power abs sign exp log log1p expm1 sqrt square tanh sigmoid relu leaky_relu elu softplus sin cos maximum
    minimum clip where astype matmul dot einsum outer sum mean max min prod var logsumexp norm cumsum reshape
    transpose swapaxes moveaxis expand_dims squeeze broadcast_to concatenate stack split flip pad repeat copy
    getitem take take_along_axis softmax log_softmax cross_entropy one_hot reverse_sequence sequence_mask argmax
""".split()


def test_the_list_of_public_names_is_sorted_and_complete():
    assert list(mg.__all__) == sorted(set(mg.__all__))
    public = {name for name, item in vars(mg).items() if not name.startswith("_") and not inspect.ismodule(item)}
    assert public <= set(mg.__all__)
    assert set(DESIGNED) <= set(mg.__all__)


def test_star_import_gives_what_is_public():
    namespace = {}
    exec("from minigrad import *", namespace)
    assert {name for name in namespace if not name.startswith("__")} == set(mg.__all__)


@pytest.mark.parametrize("name", mg.__all__)
def test_a_public_name_is_documented_with_an_example(name):
    item = getattr(mg, name)
    text = inspect.getdoc(item)
    assert text, f"mg.{name} has no docstring"
    if not inspect.ismodule(item):
        assert doctest.DocTestParser().get_examples(text), f"the docstring of mg.{name} shows no example"
        assert len(text.splitlines()[0]) <= 120


MODULES = [
    mg.random, mg.tree, mg.nn, mg.nn.decoding, mg.nn.initialisers, mg.optim, mg.training, mg.explain, mg.testing,
]  # fmt: skip


def public_names():
    """Every function and class that a public module offers; data and aliases of types have no docstring."""
    for module in MODULES:
        for name in module.__all__:
            item = getattr(module, name)
            if callable(item) and typing.get_origin(item) is None:
                yield f"{module.__name__}.{name}", item


@pytest.mark.parametrize(("name", "item"), [pytest.param(*pair, id=pair[0]) for pair in public_names()])
def test_a_name_of_a_public_module_is_documented_with_an_example(name, item):
    text = item.__doc__ and inspect.getdoc(item)  # its own: a class does not borrow that of its base
    assert text, f"{name} has no docstring"
    assert doctest.DocTestParser().get_examples(text), f"the docstring of {name} shows no example"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_what_a_module_imports_is_not_among_its_names(module):
    assert len(set(module.__all__)) == len(module.__all__)
    items = [getattr(module, name) for name in module.__all__]
    made = [item for item in items if inspect.isroutine(item) or inspect.isclass(item)]
    assert made
    assert [item for item in made if not item.__module__.startswith(module.__name__)] == []


@pytest.mark.parametrize("name", [name for name in vars(mg.Tensor) if not name.startswith("_")])
def test_a_method_of_tensor_is_documented(name):
    assert inspect.getdoc(getattr(mg.Tensor, name))


OPS = [name for name in mg.__all__ if name in DESIGNED and getattr(mg.ops, name, None) is getattr(mg, name)]


@pytest.mark.parametrize("name", OPS)
def test_an_op_s_example_prints_what_it_says(name):
    """Executed here too, so that an op's docstring is tested wherever its op is, also from the wheel."""
    item = getattr(mg, name)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(item), {}, name, None, 0)
    runner.run(test, out=lambda text: pytest.fail(text, pytrace=False))
    assert runner.summarize(verbose=False).attempted > 0


@pytest.mark.parametrize("name", OPS)
def test_an_op_has_a_signature_and_a_name(name):
    op = getattr(mg, name)
    parameters = list(inspect.signature(op).parameters)
    assert parameters
    assert "xp" not in parameters
    assert op.__name__ == name


CHECK = """
import json, sys
before = set(sys.modules)
import numpy
numpys = set(sys.modules)
import minigrad
print(json.dumps([sorted(set(sys.modules) - numpys), minigrad.__version__]))
"""


def in_a_fresh_process(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_importing_minigrad_imports_nothing_heavy():
    loaded, version = json.loads(in_a_fresh_process(CHECK))
    assert version == mg.__version__
    roots = {name.partition(".")[0] for name in loaded}
    heavy = {
        "cupy", "hypothesis", "torch", "jax", "safetensors", "rich", "tqdm", "matplotlib", "pytest", "scipy", "pandas",
        "minigrad_cupy", "autograd", "mygrad", "importlib_metadata", "pkg_resources", "setuptools",
    }  # fmt: skip
    assert not roots & heavy
    ours = {"minigrad", "minigrad_numpy"}
    assert all(root in ours or root in sys.stdlib_module_names for root in roots)
    # each takes a part of NumPy's own import time, and is read where it is needed
    assert not {"importlib.metadata", "numpy.random", "hashlib", "secrets"} & set(loaded)


def test_using_minigrad_loads_nothing_heavy_later():
    code = """
import sys
import minigrad as mg
x = mg.tensor([1.0, 2.0], requires_grad=True)
mg.scan(lambda s, a: mg.tanh(s + a), x * 2, mg.tensor(0.0)).sum().backward()
mg.hvp(lambda x: (x ** 3).sum(), (x,), (x,))
print([name for name in ("cupy", "hypothesis", "torch", "safetensors", "rich", "pytest") if name in sys.modules])
"""
    assert in_a_fresh_process(code).strip() == "[]"


def test_the_library_runs_with_optimised_bytecode():
    """`python -O` drops assertions and `-OO` docstrings; the library may lean on neither."""
    code = "import minigrad as mg; print(float(mg.grad(mg.grad(lambda x: x**3))(2.0)), mg.tanh.__doc__)"
    assert in_a_fresh_process(code, PYTHONOPTIMIZE="2").strip() == "12.0 None"


def test_names_that_shadow_builtins_leave_python_s_alone():
    assert sum is not mg.sum
    assert mg.sum([1.0, 2.0]) == sum([1.0, 2.0])
    assert mg.max([1.0, 2.0]) == max([1.0, 2.0])
    assert mg.abs(-1.0) == abs(-1.0)
