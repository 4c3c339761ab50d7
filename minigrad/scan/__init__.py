"""scan: a function applied along time, with a state that it hands on, compiled to one program for all steps."""

from minigrad.scan.api import scan
from minigrad.scan.cache import CACHE_SIZE, Info, clear_cache, info
from minigrad.scan.symbol import TraceError

__all__ = ["CACHE_SIZE", "Info", "TraceError", "clear_cache", "info", "scan"]
