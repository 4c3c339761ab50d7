"""What a learner looks at: the programs that scan runs."""

from minigrad.explain.program import Listing, Part, program

__all__ = ["Listing", "Part", "program"]
