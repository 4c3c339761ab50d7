"""What the examples share, once: `commands` (options, complaints), `training` (the loop), `text`, `checkpoints`,
`pictures`, `flow` (how far back gradients reach), and what is read by default: `documentation`, `python_code`.

It is imported before NumPy, so that it can ask for one BLAS thread: matrices of these sizes are multiplied fastest on
one core, and two threads that wait for each other can be ten times slower where other programs run too. For large
layers, set OPENBLAS_NUM_THREADS yourself.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

if "numpy" not in sys.modules:  # which reads it when it is imported
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

for library in ("numpy", "minigrad", "matplotlib", "rich", "babel"):  # safetensors is asked for by checkpoints alone
    if find_spec(library) is None:
        program = Path(sys.argv[0]).stem
        print(f"{program}: {library} is not installed: pip install 'minigrad[examples]'", file=sys.stderr)
        sys.exit(2)
