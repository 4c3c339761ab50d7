"""Time to a validation loss, in minigrad and in torch: `python -m benchmarks.char_lm`.

The net, text, optimiser and schedule are those of `examples/char_lm.py`, run with its default settings; torch's net is
the same, begins with the same weights and reads the same chunks. Both take turns, and each has a clock that runs
while it trains. Validation stops the clocks: every so many updates, by the same function for both.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import timing

TARGET, SMOKE_TARGET = 1.85, 7.0  # bits per character
TURN = 10  # updates
EVERY, SMOKE_EVERY = 100, 20  # updates from one validation to the next
TOLERANCE = 1e-3  # of the loss and the gradients of the first chunk: float32 on both sides


class TorchRun:
    """The example's `Run` and `LanguageModel` in torch: weights, optimiser, state between chunks."""

    def __init__(self, char_lm: Any, config: Any, corpus: Any, weights: dict[str, np.ndarray]) -> None:
        import torch

        self.torch, self.config, self.schedule = torch, config, char_lm.schedule_of(config)
        inputs, targets = char_lm.rows(corpus.training, config.batch)
        self.inputs, self.targets = (torch.from_numpy(np.ascontiguousarray(array)) for array in (inputs, targets))
        self.embedding = torch.nn.Embedding(len(corpus.vocabulary), config.embedding)
        self.lstm = torch.nn.LSTM(config.embedding, config.units)
        self.scores = torch.nn.Linear(config.units, len(corpus.vocabulary))
        self.lstm.bias_hh_l0.requires_grad_(False).zero_()  # the second bias of torch's LSTM, which ours has not
        self.parameters = {
            "embedding.W": self.embedding.weight,
            "net.layers.0.cell.W_x": self.lstm.weight_ih_l0,
            "net.layers.0.cell.W_h": self.lstm.weight_hh_l0,
            "net.layers.0.cell.b": self.lstm.bias_ih_l0,
            "scores.W": self.scores.weight,
            "scores.b": self.scores.bias,
        }
        if set(self.parameters) != set(weights):
            sys.exit(f"the example's net has the parameters {sorted(weights)}, expected {sorted(self.parameters)}")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(as_torch_has_it(name, weights[name]).copy()))
        self.optimiser = torch.optim.Adam(self.parameters.values(), lr=config.lr)
        self.losses: list[float] = []
        self.state = self.zero_state(config.batch)

    def zero_state(self, batch: int) -> tuple[Any, Any]:
        zeros = self.torch.zeros(1, batch, self.config.units)
        return zeros, zeros

    def forward(self, tokens: Any, state: tuple[Any, Any]) -> tuple[Any, tuple[Any, Any]]:
        outputs, state = self.lstm(self.embedding(tokens), state)
        return self.scores(outputs), state

    def __call__(self, tokens: np.ndarray, state: Any) -> tuple[Any, Any]:
        """As the example's `total_loss` calls a model."""
        import minigrad as mg

        with self.torch.no_grad():
            scores, state = self.forward(self.torch.from_numpy(np.ascontiguousarray(tokens)), state)
        return mg.tensor(scores.numpy()), state

    def loss_of_next_chunk(self) -> Any:
        size, step = self.config.chunk, len(self.losses)
        start = step % (len(self.inputs) // size) * size
        if start == 0:
            self.state = self.zero_state(self.config.batch)
        scores, state = self.forward(self.inputs[start : start + size], self.state)
        self.state = tuple(part.detach() for part in state)
        targets = self.targets[start : start + size]
        return self.torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())

    def training_step(self) -> None:
        loss = self.loss_of_next_chunk()
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip)
        self.optimiser.param_groups[0]["lr"] = self.schedule.learning_rate(len(self.losses))
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.losses.append(loss.item())


def as_torch_has_it(name: str, weight: np.ndarray) -> np.ndarray:
    """The matrices of torch's layers are transposed; the order of the gates is the same."""
    return weight if name.startswith("embedding") else weight.T


def first_results(char_lm: Any, run: Any, corpus: Any) -> dict[str, np.ndarray]:
    """The loss of the first chunk and its gradients, after which the run is where it was."""
    import minigrad as mg

    inputs, targets = char_lm.next_chunk(run, corpus)
    loss = mg.cross_entropy(run.model(inputs, run.state)[0], targets).mean()
    loss.backward()
    results = {"loss": loss.numpy()}
    for name, parameter in run.model.parameters().items():
        results[name], parameter.grad = as_torch_has_it(name, parameter.grad), None
    return results


def torch_first_results(run: TorchRun) -> dict[str, np.ndarray]:
    loss = run.loss_of_next_chunk()
    loss.backward()
    results = {"loss": loss.detach().numpy()}
    results |= {name: parameter.grad.numpy().copy() for name, parameter in run.parameters.items()}
    run.optimiser.zero_grad()
    run.state = run.zero_state(run.config.batch)
    return results


def race(
    trainers: dict[str, Callable[[], object]], validate: Callable[[str], float], target: float, every: int, most: int
) -> dict[str, float | None]:
    """The training seconds of each when its validation first is below the target; None if it never is."""
    seconds, reached = dict.fromkeys(trainers, 0.0), dict[str, float | None]()
    for done in range(TURN, most + 1, TURN):
        for name in trainers.keys() - reached.keys():
            time.sleep(timing.REST)
            started = time.perf_counter()
            for _ in range(TURN):
                trainers[name]()
            seconds[name] += time.perf_counter() - started
        if done % every == 0:
            for name in [name for name in trainers if name not in reached]:
                bits = validate(name)
                print(f"{done:6,} updates, {name:8}: {bits:.3f} bits per character, {seconds[name]:6.2f} s", flush=True)
                if bits < target:
                    reached[name] = seconds[name]
        if reached.keys() == trainers.keys():
            break
    return {name: reached.get(name) for name in trainers}


def main() -> None:
    parser = argparse.ArgumentParser(description="A character language model: seconds to a validation loss.")
    parser.add_argument("--threads", type=timing.positive, default=2, help="default 2")
    parser.add_argument("--bits", type=float, help=f"per character, to get below on validation (default {TARGET})")
    parser.add_argument("--only", nargs="+", choices=["minigrad", "torch"], help="who takes part (default both)")
    parser.add_argument("--smoke", action="store_true", help="a tiny net and few updates: does everything run?")
    options = parser.parse_args()
    timing.pin_threads(options.threads)
    timing.header(options.threads)
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    import char_lm  # not before the threads are pinned: it brings NumPy's
    from plumbing.training import update

    config = replace(char_lm.Config(), **char_lm.QUICK) if options.smoke else char_lm.Config()
    every = SMOKE_EVERY if options.smoke else EVERY
    target = options.bits or (SMOKE_TARGET if options.smoke else TARGET)
    corpus = char_lm.read_corpus(config)
    names = [name for name in options.only or ("minigrad", "torch") if timing.installed(name)]

    run = char_lm.new_run(config, corpus)
    schedule = char_lm.schedule_of(config)

    def training_step() -> None:
        loss = char_lm.loss_of_next_chunk(run, corpus)
        run.history.losses.append(update(run.model, run.optimiser, schedule, run.history.step, loss))

    models: dict[str, Any] = {"minigrad": run.model}
    trainers: dict[str, Callable[[], object]] = {"minigrad": training_step}
    if "torch" in names:
        weights = {name: weight.numpy() for name, weight in run.model.parameters().items()}
        theirs = TorchRun(char_lm, config, corpus, weights)
        models["torch"], trainers["torch"] = theirs, theirs.training_step
        timing.equal("torch", torch_first_results(theirs), first_results(char_lm, run, corpus), TOLERANCE)
        print("The same loss and gradients of the first chunk from minigrad and torch")
    print(f"{char_lm.title(config)}, batch {config.batch}, chunk {config.chunk}, Adam, float32; {corpus.name}\n")

    def validate(name: str) -> float:
        return char_lm.evaluate(models[name], corpus)

    reached = race({name: trainers[name] for name in names}, validate, target, every, config.steps)
    print(f"\nSeconds of training until validation is below {target} bits per character:\n")
    timing.table(["", *names], [["seconds", *("never" if reached[name] is None else reached[name] for name in names)]])
    ours, other = reached.get("minigrad"), reached.get("torch")
    if ours is not None and other is not None:
        word = "PASS" if ours <= other else "short"
        print(f"{word:5}  minigrad / torch, seconds to {target} bits per character: {ours / other:.3g} (at most 1)")


if __name__ == "__main__":
    main()
