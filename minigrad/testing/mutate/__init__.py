"""Mutation testing of derivative rules: a rule is made wrong in one place after the other, and a test has to notice.

    rule(vjp)             mutants of what a rule returns: scaled, negated, reversed, for another cotangent, ...
    source(vjp)           mutants of a rule's source: + for -, a dropped factor, swapped arguments, ...
    score(vjp, test)      run a test on all of them, and report which it let live
    edited(f, old, new)   for a block, another text in the source of a function, in place
    patched(f, g)         for a block, another function in the place of one that others have imported by name

A test of a wrong rule that passes is a hole in the test: in its shapes, its cotangent or its tolerance. These need
NumPy only; `rules`, with which minigrad tests its own rules and their tests in this way, needs Hypothesis.
Source: DeMillo, Lipton and Sayward, Hints on test data selection: help for the practicing programmer (1978).
"""

from minigrad.testing.mutate.mutant import MutationReport, score, survivors
from minigrad.testing.mutate.patch import Patch, edited, patched
from minigrad.testing.mutate.results import rule
from minigrad.testing.mutate.syntax import Mutant, source

__all__ = ["Mutant", "MutationReport", "Patch", "edited", "patched", "rule", "score", "source", "survivors"]
