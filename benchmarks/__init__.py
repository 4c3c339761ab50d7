"""Side-by-side measurements: `python -m benchmarks.eager` and `python -m benchmarks.rnn`."""
