"""scan: a function applied along time, with a state that it hands on."""

from minigrad.scan.api import scan

__all__ = ["scan"]
