"""scan: a function applied along time, with a state that it hands on, compiled to one program for all steps.

A call, in the order in which the rooms are passed:

- `api`, `problem`, `carry`: what scan means, and what is checked at its door. `loop` does it on the ordinary tape.
- `trace`, `symbol`: the function runs on symbols once, which gives a body. `purity` compares two traces of a new one,
  `names` finds what the user calls its values, `cache` finds the compiled form of a body that was seen before.
- `rows`: with lengths, the proof that rows do not meet, and their packing.
- `compiled`: the op that stands on the tape; it asks for programs as they are needed, in training and in inference.
- `rewrite`, `differentiate`: a body is made cheaper, differentiated into a body with time reversed, made cheaper again.
- `canonical`, `distribute`: a body gets a place for each result, and is taken apart: what stays in a loop?
- `places`, `plan`, `verify`: which buffer holds what, and the proof that no value is lost.
- `text`, `variables`, `calls`, `sums`, `timeloop`, `emit`: the source, from its names to the whole. `kernels` joins
  neighbouring elementwise calls, for backends that want it.
- `namespace`, `program`, `run`: what the source calls; the source, compiled, in its frames of buffers. `interpret` does
  a body step by step, for the tape.
"""

from minigrad.scan.api import scan
from minigrad.scan.cache import CACHE_SIZE, Info, clear_cache, info
from minigrad.scan.symbol import TraceError

__all__ = ["CACHE_SIZE", "Info", "TraceError", "clear_cache", "info", "scan"]
