"""What a learner looks at: the programs that scan runs, the map of credit over time, and a cell before training."""

from minigrad.explain.credit_map import credit_map
from minigrad.explain.initial import Initial, initial
from minigrad.explain.program import Listing, Part, program

__all__ = ["Initial", "Listing", "Part", "credit_map", "initial", "program"]
