"""Seq2Seq against loops over each row alone, without padding: how a decoder is told, trained, and asked to write."""

from __future__ import annotations

import copy
import gc
import itertools
import weakref
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, tree
from minigrad.backend import get_backend
from minigrad.nn import decoding
from minigrad.nn.context import Bridge, bias_of, with_bias
from minigrad.nn.module import tensors_of
from minigrad.nn.seq2seq import Seq2Seq
from minigrad.testing import check_grads
from net_oracle import along_two_directions, with_parameters
from scan_oracle import MIXTURES, agree, first_order, loss_of, random_like, same, second_order

laws = settings(max_examples=15, deadline=None)
F = "float64"
INPUTS, TOKENS = 2, 4  # the size of an input vector; what readout scores, and the token `start` comes after them
CONTEXTS = ("init", "every", "both", "bias")
ATTENTIONS = (None, "additive", "dot")


def gru(inputs, units, seed=0, **options):
    return nn.GRUCell(inputs, units, dtype=F, seed=seed, **options)


def lstm(inputs, units, seed=1, **options):
    return nn.LSTMCell(inputs, units, dtype=F, seed=seed, **options)


ENCODERS = {
    "gru": lambda n: gru(INPUTS, n),
    "lstm": lambda n: lstm(INPUTS, n),
    "learned": lambda n: nn.LearnedState(gru(INPUTS, n)),
    "stack": lambda n: nn.Deep([gru(INPUTS, 3), lstm(3, n)]),
    "both ways": lambda n: nn.Bidirectional(gru(INPUTS, n), lstm(INPUTS, 2)),
    "stack of both ways": lambda n: nn.Deep([nn.Bidirectional(gru(INPUTS, 2), gru(INPUTS, 1, seed=2)), lstm(3, n)]),
    "vectors": lambda n: nn.Linear(INPUTS, n, dtype=F, seed=0),
}
DECODERS = {
    "rnn": lambda i, n: nn.RNNCell(i, n, dtype=F, seed=3),
    "gru": lambda i, n: gru(i, n, seed=3),
    "gru, reset after": lambda i, n: gru(i, n, seed=3, reset="after", update="write"),
    "lstm": lambda i, n: lstm(i, n, seed=3),
    "lstm, peepholes, projection": lambda i, n: lstm(i, 3, seed=3, peepholes=True, projection=n),
    "lstm, normalised": lambda i, n: lstm(i, n + 3, seed=3, layer_norm=True),
    "stack": lambda i, n: nn.Deep([gru(i, 2, seed=3), lstm(2, n, seed=4)]),
    "learned": lambda i, n: nn.LearnedState(lstm(i, n, seed=3)),
    "residual": lambda i, n: nn.Residual(gru(i, i, seed=3)),
    "deep output": lambda i, n: nn.DeepOutput(gru(i, n, seed=3), [mg.tanh, nn.Linear(n, 2, dtype=F, seed=4)]),
}
WHERE_B_IS = {"stack": "layers.0.b", "learned": "cell.b", "residual": "cell.b", "deep output": "cell.b"}


class Case(NamedTuple):
    """A net and a batch: its parts, whether inputs are tokens, sizes, lengths, and a seed for all numbers."""

    encoder: str
    decoder: str
    context: str
    attention: str | None
    embedded: bool = False
    sizes: tuple[int, int, int] = (3, 2, 2)  # of the encoder, the decoder and the vector of a target's token
    rows: int = 3
    steps: tuple[int, int] = (4, 3)
    source_length: list[int] | None = None
    target_length: list[int] | None = None
    seed: int = 0


@st.composite
def cases(draw, least=0, **given):
    """Any encoder with any decoder, told in any way; batches of every size and length, nothing among them."""
    drawn = {
        "encoder": draw(st.sampled_from(list(ENCODERS))),
        "decoder": draw(st.sampled_from(list(DECODERS))),
        "context": draw(st.sampled_from(CONTEXTS)),
        "attention": draw(st.sampled_from(ATTENTIONS)),
        "embedded": draw(st.booleans()),
        "sizes": tuple(draw(st.integers(1, 3)) for _ in range(3)),
        "rows": draw(st.integers(1, 3)),
        "steps": (draw(st.integers(0, 3)), draw(st.integers(least, 4))),
        "seed": draw(st.integers(0, 2**16 - 1)),
    } | given
    for name, steps in zip(("source_length", "target_length"), drawn["steps"], strict=True):
        lengths = st.lists(st.integers(0, steps), min_size=drawn["rows"], max_size=drawn["rows"])
        drawn.setdefault(name, draw(st.none() | lengths))
    if drawn["encoder"] == "vectors":
        drawn |= {"attention": None, "source_length": None}
    if drawn["decoder"] == "learned" and drawn["context"] in ("init", "both"):
        drawn["context"] = "every"  # a first state that is learned would never be read
    return Case(**drawn)


RAGGED = Case("both ways", "lstm", "init", "additive", True, (2, 3, 2), 4, (3, 4), [2, 3, 0, 1], [4, 2, 3, 0], 7)
FIXED = [RAGGED._replace(context=c, attention=a) for c in CONTEXTS for a in ATTENTIONS]
each_way = pytest.mark.parametrize("case", FIXED, ids=lambda case: f"{case.context}-{case.attention}")


@pytest.fixture
def backend(minigrad_backend):
    with mg.use_backend(minigrad_backend):
        yield get_backend(minigrad_backend)


def host(x):
    return mg.asarray(x).detach().numpy()


def hiddens(state):
    """What of a state is h."""
    if isinstance(state, nn.LSTMState):
        return [state.h]
    return [h for part in state for h in hiddens(part)] if isinstance(state, tuple) else [state]


def width(parts):
    return sum(part.shape[-1] for part in parts)


def built(case):
    """The net of a case, all of its parameters random, on the host."""
    with mg.use_backend("numpy"):
        return _built(case)


def _built(case):
    n, units, target = case.sizes
    encoder = ENCODERS[case.encoder](n)
    C = n if case.encoder == "vectors" else width(hiddens(encoder.zero_state(1)))
    asked = encoder.outputs if case.attention else 0
    decoder = DECODERS[case.decoder](target + C * (case.context in {"every", "both"}) + asked, units)
    net = Seq2Seq(
        encoder,
        decoder,
        case.context,
        case.attention,
        source=nn.Embedding(5, INPUTS, dtype=F) if case.embedded else None,
        target=nn.Embedding(TOKENS + 1, target, dtype=F),
        readout=nn.Linear(decoder.outputs + asked, TOKENS, dtype=F),
        start=TOKENS,
    )
    draw = np.random.default_rng(case.seed)
    net.load_state_dict({path: 0.7 * draw.normal(size=p.shape) for path, p in net.parameters().items()})
    return net


def batch(case):
    """Inputs, of tokens or vectors, and targets."""
    draw = np.random.default_rng([case.seed, 1])
    shape = (case.rows,) if case.encoder == "vectors" else (case.rows, case.steps[0])
    inputs = draw.integers(0, 5, shape) if case.embedded else draw.normal(size=(*shape, INPUTS))
    return inputs, draw.integers(0, TOKENS, (case.rows, case.steps[1]))


def lengths_of(case):
    S, T = case.steps
    return case.source_length or [S] * case.rows, case.target_length or [T] * case.rows


def live(case):
    """(B, T, 1): where a target has a token."""
    return (np.arange(case.steps[1]) < np.array(lengths_of(case)[1])[:, None])[:, :, None]


def shifted(targets):
    return np.concatenate([np.full((len(targets), 1), TOKENS), targets], axis=1)[:, : targets.shape[1]]


def as_function(run, net, inputs):
    """`run(net, inputs)` as a function of all arrays to the leaves of what it gives, and where to look at it."""
    at = {path: host(p).copy() for path, p in net.parameters().items()}
    at |= {"inputs": inputs} if inputs.dtype.kind == "f" else {}

    def f(arrays):
        return tree.flatten(run(with_parameters(net, arrays), arrays.get("inputs", inputs)))[0]

    return f, at


def trained(case, targets, **options):
    """What training runs."""

    def run(net, inputs):
        return net(inputs, targets, case.source_length, case.target_length, **options)

    return run


def hold(got, needed, net, inputs, seed, order=1):
    """Assert two ways of running a net to agree: values, every gradient, tangents, and at order 2 their gradients."""
    (f, at), (g, _) = as_function(got, net, inputs), as_function(needed, net, inputs)
    agree(first_order(f, at, seed), first_order(g, at, seed))
    if order == 2:
        like, mixture = g(at), MIXTURES[seed % len(MIXTURES)]
        agree(*[second_order(loss_of(h, like, seed), at, seed, mixture) for h in (f, g)])


# ---- the oracle ----------------------------------------------------------------------------------------------------


def read(net, xs, state):
    """What a net gives for a row's own steps, each (1, ...), and its last state."""
    if isinstance(net, nn.Bidirectional):
        fw, first = read(net.forward, xs, state[0])
        bw, second = read(net.backward, xs[::-1], state[1])
        return [mg.concatenate(pair, axis=1) for pair in zip(fw, bw[::-1], strict=True)], (first, second)
    if isinstance(net, nn.Deep):
        finals = []
        for layer, first in zip(net.layers, state, strict=True):
            xs, final = read(layer, xs, first)
            finals.append(final)
        return xs, tuple(finals)
    outputs = []
    for x in xs:
        output, state = net(x, state)
        outputs.append(output)
    return outputs, state


def attended(attention, query, values):
    """The mean (1, features) of a row's own values, each (1, features), and the weights (1, n)."""
    if not values:
        return np.zeros((1, attention.features)), np.zeros((1, 0))
    scores = []
    for value in values:
        key = value @ attention.W_memory
        if hasattr(attention, "v"):
            scores.append(mg.tanh(query @ attention.W_query + key + attention.b) @ attention.v)
        else:
            scores.append((key * query).sum(axis=1, keepdims=True))
    fit = mg.exp(mg.concatenate(scores, axis=1))
    weights = fit / fit.sum()
    return weights @ mg.concatenate(values), weights


def bridged(net, last, first):
    """The last state of the encoder as the first of the decoder, of which one is given."""
    if net.bridge is None:
        return last
    everything = mg.concatenate(tree.flatten(last)[0], axis=1)
    return tree.flatten(first)[1].build([everything @ layer.W + layer.b for layer in net.bridge.layers])


def row_by_hand(net, case, own_decoder, x, tokens):
    """Logits (1, n, tokens), weights and the last state of one row, which has no padding."""
    if case.encoder == "vectors":
        summary = last = net.encoder(x if net.source is None else net.source(x))
    else:
        xs = [x[:, i] if net.source is None else net.source(x[:, i]) for i in range(x.shape[1])]
        memory, last = read(net.encoder, xs, net.encoder.zero_state(1))
        summary = mg.concatenate(hiddens(last), axis=1)
    decoder, state = own_decoder(net, summary), net.decoder.zero_state(1)
    if case.context in {"init", "both"}:
        state = bridged(net, last, state)
    logits, weights = [np.zeros((1, 0, TOKENS))], [np.zeros((1, 0, case.steps[0]))]
    for token in tokens:
        reads, asked = [net.target([token])], []
        if case.context in {"every", "both"}:
            reads.append(summary)
        if case.attention:
            mean, weight = attended(net.attention, mg.concatenate(hiddens(state), axis=1), memory)
            asked = [mean]
            weights.append(mg.pad(weight, [(0, 0), (0, case.steps[0] - weight.shape[1])])[:, None])
        output, state = decoder(mg.concatenate([*reads, *asked], axis=1), state)
        logits.append(net.readout(mg.concatenate([output, *asked], axis=1))[:, None])
    return mg.concatenate(logits, axis=1), mg.concatenate(weights, axis=1), state


def by_hand(original, case, before):
    """What a Seq2Seq gives, row by row, when its steps read the tokens `before` (B, T)."""

    def own_decoder(net, summary):
        if case.context != "bias":
            return net.decoder
        values = tensors_of(net.decoder)
        b = WHERE_B_IS.get(case.decoder, "b")
        return with_parameters(original.decoder, values | {b: values[b] + summary @ net.R})

    def run(net, inputs):
        rows = []
        for row, (n, m) in enumerate(zip(*lengths_of(case), strict=True)):
            x = inputs[row : row + 1] if case.encoder == "vectors" else inputs[row : row + 1, :n]
            logits, weights, state = row_by_hand(net, case, own_decoder, x, before[row, :m])
            rest = [(0, 0), (0, case.steps[1] - m), (0, 0)]
            rows.append((mg.pad(logits, rest), mg.pad(weights, rest) if case.attention else None, state))
        return tree.map(lambda *parts: mg.concatenate(parts), *rows)

    return run


@laws
@given(case=cases())
def test_it_is_each_row_by_itself(case):
    net, (inputs, targets) = built(case), batch(case)
    hold(trained(case, targets), by_hand(net, case, shifted(targets)), net, inputs, case.seed)


EVERY = [
    Case(
        encoder,
        decoder,
        "every" if decoder == "learned" else context,
        attention,
        i % 2 == 0,
        (2, 3, 2),
        2,
        (2, 2),
        [2, 1],
        [2, 1],
        seed=i,
    )
    for i, (encoder, decoder, (context, attention)) in enumerate(
        zip(
            itertools.cycle([name for name in ENCODERS if name != "vectors"]),
            itertools.cycle(DECODERS),
            itertools.product(CONTEXTS, ATTENTIONS),
        )
    )
]
EVERY += [Case("vectors", "gru", context, None, rows=2, target_length=[3, 0], seed=1) for context in CONTEXTS]


@pytest.mark.parametrize("case", EVERY, ids=lambda case: "-".join(map(str, case[:4])))
def test_second_derivatives_are_those_of_each_row_by_itself(case):
    net, (inputs, targets) = built(case), batch(case)
    hold(trained(case, targets), by_hand(net, case, shifted(targets)), net, inputs, case.seed, order=2)


@each_way
def test_each_way_to_tell_a_decoder(case, backend):
    """Values and gradients on every backend."""
    net, (inputs, targets) = built(case), batch(case)
    f, at = as_function(by_hand(net, case, shifted(targets)), net, inputs)
    with mg.use_backend("numpy"):
        needed, pull = mg.vjp(f, at)
        g = random_like(needed, 1)
        (gradients,) = pull(g)
    f, at = as_function(trained(case, backend.asarray(targets)), net.to(backend.name), inputs)
    got, pull = mg.vjp(f, {name: backend.asarray(array) for name, array in at.items()})
    assert {type(x) for x in got} == {backend.array_type}
    (found,) = pull([backend.asarray(part) for part in g])
    agree(tree.map(host, [got, found]), [needed, gradients])


def test_gradients_are_those_of_differences():
    """In both modes and to order 2, for a stack that tells a GRU by bias and attention; the oracle covers the rest."""
    case = EVERY[11]
    f, at = as_function(trained(case, batch(case)[1]), built(case), batch(case)[0])
    check_grads(along_two_directions(f, at, case.seed), np.zeros(2), order=2)


# ---- what padding may do: nothing ------------------------------------------------------------------------------------


def filled(values, lengths, filler):
    """Values (B, T, ...) with something else in their padding."""
    values = values.copy()
    for row, n in enumerate(lengths):
        values[row, n:] = filler
    return values


def answers(net, case, inputs, targets, **options):
    """Every result and gradient, forward mode too."""
    f, at = as_function(trained(case, targets, **options), net, inputs)
    return tree.map(host, first_order(f, at, 1))


@pytest.mark.parametrize(
    ("token", "options"), [(-1, {}), (10**6, {"teacher_forcing": 0.5, "seed": 0})], ids=["forced", "scheduled"]
)
@each_way
def test_tokens_in_the_padding_cannot_matter(case, token, options):
    """Bitwise, in inputs and targets, which an Embedding would look up or refuse."""
    net, (inputs, targets) = built(case), batch(case)
    clean, dirty = [
        answers(net, case, filled(inputs, case.source_length, x), filled(targets, case.target_length, x), **options)
        for x in (0, token)
    ]
    same(dirty, clean)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e308])
@each_way
def test_vectors_in_the_padding_cannot_matter(case, poison):
    """Bitwise; and the gradient of the padding is exactly 0."""
    case = case._replace(embedded=False)
    net, (inputs, targets) = built(case), batch(case)
    clean, dirty = [answers(net, case, filled(inputs, case.source_length, x), targets) for x in (0.0, poison)]
    same(dirty, clean)
    padding = np.arange(case.steps[0]) >= np.array(case.source_length)[:, None]
    reached = (dirty["gradient by inputs"] != 0).any(axis=2)
    assert not reached[padding].any()
    speaks = np.array(case.target_length) > 0
    assert reached[speaks][~padding[speaks]].all()


def test_weights_are_0_in_the_padding_and_sum_to_1():
    for attention in ("additive", "dot"):
        case = RAGGED._replace(attention=attention)
        weights = host(trained(case, batch(case)[1])(built(case), batch(case)[0]).weights)
        for row, (n, m) in enumerate(zip(*lengths_of(case), strict=True)):
            assert (weights[row, :, n:] == 0).all()
            assert (weights[row, m:] == 0).all()
            assert (weights[row, :m, :n] > 0).all()
            np.testing.assert_allclose(weights[row, :m].sum(1), float(n > 0), rtol=1e-14)


@each_way
def test_a_row_without_a_target_gives_nothing_and_gets_nothing(case):
    case = case._replace(embedded=False)
    net, (inputs, targets) = built(case), batch(case)
    row = case.target_length.index(0)
    found = trained(case, targets)(net, inputs)
    assert (host(found.logits)[row] == 0).all()
    x = mg.tensor(inputs, requires_grad=True)
    (trained(case, targets)(net, x).logits ** 2).sum().backward()
    assert (x.grad[row] == 0).all()
    first, _ = net.encoded(inputs, case.source_length)
    for got, needed in zip(tree.flatten(found.state)[0], tree.flatten(first)[0], strict=True):
        same(host(got)[row], host(needed)[row])


NOTHING = [
    RAGGED._replace(rows=0, source_length=[], target_length=[]),
    RAGGED._replace(rows=2, steps=(0, 2), source_length=None, target_length=None),
    RAGGED._replace(rows=2, steps=(0, 2), source_length=[0, 0], target_length=[2, 0]),
    RAGGED._replace(rows=2, steps=(3, 0), source_length=None, target_length=None),
    RAGGED._replace(rows=2, steps=(3, 0), source_length=[1, 0], target_length=[0, 0]),
    RAGGED._replace(rows=0, steps=(0, 0), source_length=None, target_length=None),
    RAGGED._replace(rows=1, steps=(1, 1), source_length=None, target_length=None),
]


@pytest.mark.parametrize("encoder", ["both ways", "vectors"])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("case", NOTHING, ids=str)
def test_nothing_is_something(case, context, encoder):
    case = case._replace(context=context, encoder=encoder, attention="dot" if context == "bias" else "additive")
    if encoder == "vectors":
        case = case._replace(attention=None, source_length=None)
    net, (inputs, targets) = built(case), batch(case)
    for forced in (1.0, 0.0):
        logits, weights, state = trained(case, targets, teacher_forcing=forced)(net, inputs)
        S, T = case.steps
        assert (logits.shape, logits.dtype) == ((case.rows, T, TOKENS), np.float64)
        assert weights is None if case.attention is None else weights.shape == (case.rows, T, S)
        assert {leaf.shape[0] for leaf in tree.flatten(state)[0]} == {case.rows}
        logits.sum().backward()


# ---- causality -------------------------------------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize("t", range(4))
def test_a_token_reaches_only_what_comes_after_it(case, t):
    """Bitwise before, and by every way in: the scores of token t do not know it."""
    case = case._replace(target_length=[4] * 4)
    net, (inputs, targets) = built(case), batch(case)
    other = targets.copy()
    other[:, t] = (other[:, t] + 1) % TOKENS
    one, two = (trained(case, tokens)(net, inputs) for tokens in (targets, other))
    same(host(one.logits)[:, : t + 1], host(two.logits)[:, : t + 1])
    assert (host(one.logits)[:, t + 1 :] != host(two.logits)[:, t + 1 :]).all()
    if case.attention:
        same(host(one.weights)[:, : t + 1], host(two.weights)[:, : t + 1])


@each_way
def test_scores_have_no_gradient_by_what_comes_after_them(case):
    case = case._replace(target_length=[4] * 4)
    net, inputs = built(case), batch(case)[0]
    for t in range(4):
        logits = net(inputs, np.tile(np.arange(4), (4, 1)), case.source_length).logits
        net.target.W.grad = None
        logits[:, t].sum().backward()
        reached = (host(net.target.W.grad) != 0).any(axis=1)
        assert reached.tolist() == [True] * t + [False] * (4 - t) + [True]  # what was said before, and start


# ---- decoding is training's step -------------------------------------------------------------------------------------


def stepped(case, before):
    """The logits of a loop over `stepper`."""

    def run(net, inputs):
        step, state, context = net.stepper(inputs, case.source_length)
        logits = [np.zeros((case.rows, 1, TOKENS))]
        for t in range(case.steps[1]):
            scores, state = step(before[:, t], state, context)
            logits.append(scores[:, None])
        return mg.where(live(case), mg.concatenate(logits, axis=1)[:, 1:], 0.0)

    return run


@laws
@given(case=cases())
def test_a_step_of_decoding_is_a_step_of_training(case):
    """The same weights and numbers: values and every gradient, in both modes."""
    net, (inputs, targets) = built(case), batch(case)

    def run(net, inputs):
        return trained(case, targets)(net, inputs).logits

    hold(run, stepped(case, shifted(targets)), net, inputs, case.seed)


@each_way
def test_greedy_decoding_is_free_running(case, backend):
    case = case._replace(steps=(3, 6), target_length=None)
    net, inputs = built(case).to(backend.name), batch(case)[0]
    anything = np.zeros((4, 6), int)
    logits = host(trained(case, anything, teacher_forcing=0.0)(net, inputs).logits)
    stepper = net.stepper(inputs, case.source_length)
    decoded = decoding.greedy(*stepper, start=net.start, end=None, max_length=6)
    same(decoded.tokens, logits.argmax(axis=2))
    scores = np.take_along_axis(host(mg.log_softmax(logits)), decoded.tokens[:, :, None], axis=2)[:, :, 0]
    agree(decoded.log_probs, scores.sum(1))


@each_way
def test_beams_and_samples_have_the_scores_of_training(case):
    """log p(tokens | source) of whole sequences, from another walk over them: that of teacher forcing."""
    case = case._replace(target_length=None)
    net, inputs = built(case), batch(case)[0]
    limits = {"start": net.start, "end": None, "max_length": 3}
    beams = decoding.beam(*net.stepper(inputs, case.source_length), width=3, **limits)
    drawn = decoding.sample(*net.stepper(inputs, case.source_length), seed=0, **limits)
    found = [(beams.tokens[:, i], beams.log_probs[:, i]) for i in range(3)]
    for tokens, log_probs in [(drawn.tokens, drawn.log_probs), *found]:
        logits = net(inputs, tokens, case.source_length).logits
        agree(-host(mg.cross_entropy(logits, tokens)).sum(1), log_probs)


# ---- reading what the net said ---------------------------------------------------------------------------------------


def tokens_read(net, case, inputs, logits):
    """The tokens (B, T) that each step has read, found out by trying all of them in the stepper; TOKENS if past it."""
    step, state, context = net.stepper(inputs, case.source_length)
    found = np.full(live(case).shape[:2], TOKENS)
    for t in range(1, case.steps[1]):
        _, state = step(found[:, t - 1], state, context)
        tried = [host(step(np.full(case.rows, token), state, context)[0]) for token in range(TOKENS)]
        fits = np.abs(np.array(tried) - host(logits)[:, t]).max(axis=2) < 1e-9
        rows = live(case)[:, t, 0]
        assert (fits.sum(axis=0) == 1)[rows].all()
        found[rows, t] = fits.argmax(axis=0)[rows]
    return found


MODES = {
    "free": {"teacher_forcing": 0.0},
    "scheduled": {"teacher_forcing": 0.5, "seed": 1},
    "scheduled, drawn": {"teacher_forcing": 0.25, "feed": "sample", "seed": 1},
}
modes = pytest.mark.parametrize("options", MODES.values(), ids=MODES)


@modes
@each_way
def test_it_is_teacher_forcing_of_the_tokens_that_it_read(case, options):
    """Values and every gradient, also at order 2: so no gradient passes through the choice of a token."""
    net, (inputs, targets) = built(case), batch(case)
    free = trained(case, targets, **options)
    before = tokens_read(net, case, inputs, free(net, inputs).logits)
    forced = trained(case, np.concatenate([before[:, 1:], targets[:, -1:]], axis=1))
    order = 2 if options is MODES["scheduled, drawn"] and case.context == "both" else 1
    hold(free, forced, net, inputs, 1, order)


@modes
@pytest.mark.parametrize("context", ["both", "bias"])
def test_all_backends_read_the_same_tokens(context, options, backend):
    case = RAGGED._replace(context=context)
    net, (inputs, targets) = built(case), batch(case)
    found = trained(case, targets, **options)(net.to(backend.name), inputs)
    assert found.logits.backend is backend
    with mg.use_backend("numpy"):
        agree(host(found.logits), host(trained(case, targets, **options)(net, inputs).logits))


@laws
@given(case=cases(least=1))
def test_free_running_says_its_likeliest_tokens(case):
    """Against the rows by hand, which read what the net said; both orders."""
    net, (inputs, targets) = built(case), batch(case)
    free = trained(case, targets, teacher_forcing=0.0)
    said = host(free(net, inputs).logits).argmax(axis=2)
    hold(free, by_hand(net, case, shifted(said)), net, inputs, case.seed)
    same(free(net, inputs).logits, trained(case, 0 * targets, teacher_forcing=0.0)(net, inputs).logits)


WIDE = Case("gru", "gru", "both", None, False, (2, 3, 2), 60, (2, 6), None, None, 3)


@pytest.mark.parametrize("feed", ["argmax", "sample"])
def test_scheduled_sampling_is_drawn_for_each_row_and_step(feed):
    net, (inputs, targets) = built(WIDE), batch(WIDE)
    seen = {}
    for forcing in (0.3, 0.8):
        logits = trained(WIDE, targets, teacher_forcing=forcing, feed=feed, seed=0)(net, inputs).logits
        before, own = tokens_read(net, WIDE, inputs, logits)[:, 1:], host(logits).argmax(axis=2)[:, :-1]
        true = targets[:, :-1]
        if feed == "argmax":
            assert ((before == true) | (before == own)).all()
        told = own != true if feed == "argmax" else np.ones_like(true, dtype=bool)
        chance = forcing if feed == "argmax" else forcing + (1 - forcing) / TOKENS  # a draw may hit the truth
        shares = [(before == true)[told], *[(before == true)[:, t][told[:, t]] for t in range(5)]]
        for share in shares:
            assert abs(share.mean() - chance) < 4 * (0.3 / len(share)) ** 0.5
        seen[forcing] = (before == true) & told
        assert not (seen[forcing] == seen[forcing][:1]).all(axis=0).any()  # not one draw for all rows
    if feed == "argmax":
        assert seen[0.3].mean() < seen[0.8].mean()


def test_a_draw_has_the_probability_that_the_net_gives_it():
    """4,000 rows of one vector, whose second step tells what the first one drew."""
    case = Case("vectors", "gru", "init", None, False, (2, 3, 2), 4000, (0, 2), None, None, 5)
    net, x = built(case), batch(case)[0]
    inputs = np.tile(x[:1], (case.rows, 1))
    logits = trained(case, np.zeros((4000, 2), int), teacher_forcing=0.0, feed="sample", seed=0)(net, inputs).logits
    drawn = tokens_read(net, case, inputs, logits)[:, 1]
    p = host(mg.softmax(host(logits)[0, 0]))
    assert np.ptp(p) > 0.1
    deviations = (np.bincount(drawn, minlength=TOKENS) - 4000 * p) / np.sqrt(4000 * p * (1 - p))
    assert np.abs(deviations).max() < 4


@pytest.mark.parametrize("options", list(MODES.values())[1:], ids=list(MODES)[1:])
def test_draws_are_a_function_of_the_seed(options):
    net, (inputs, targets) = built(WIDE), batch(WIDE)

    def logits(seed, **more):
        return host(trained(WIDE, targets, **(options | {"seed": seed} | more))(net, inputs).logits)

    mg.random.normal(3, seed=9)
    same(logits(0), logits(0))
    assert (logits(0) != logits(1)).any()
    same(logits([0, 1]), logits((0, 1)))


def test_what_is_forced_depends_on_nothing_but_the_seed():
    """Neither weights nor targets: no step of a row is forced in one net and free in another."""
    forced, free = np.zeros((60, 5), bool), np.zeros((60, 5), bool)
    for seed in range(3):
        case = WIDE._replace(seed=seed)
        net, (inputs, targets) = built(case), batch(case)
        logits = trained(case, targets, **MODES["scheduled"])(net, inputs).logits
        before, own = tokens_read(net, case, inputs, logits)[:, 1:], host(logits).argmax(axis=2)[:, :-1]
        told = own != targets[:, :-1]
        forced |= told & (before == targets[:, :-1])
        free |= told & (before == own)
    assert not (forced & free).any()
    assert (forced | free).mean() > 0.9


def test_teacher_forcing_draws_nothing():
    net, (inputs, targets) = built(RAGGED), batch(RAGGED)
    same(list(trained(RAGGED, targets)(net, inputs)), list(trained(RAGGED, targets, seed=5)(net, inputs)))


# ---- parts that draw -------------------------------------------------------------------------------------------------


def dropping(rate=0.5):
    """A net with dropout in encoder and decoder."""
    return Seq2Seq(
        nn.Deep([nn.Dropout(gru(INPUTS, 3), input=rate), nn.Dropout(lstm(3, 2), output=rate)]),
        nn.Dropout(gru(2 + 5 + 2, 3, seed=2), input=rate, state=rate, output=rate),
        "both",
        "additive",
        target=nn.Embedding(TOKENS + 1, 2, dtype=F, seed=3),
        readout=nn.Linear(3 + 2, TOKENS, dtype=F, seed=4),
        start=TOKENS,
        seed=5,
    )


DROPPED = RAGGED._replace(embedded=False)


def test_a_net_that_draws_must_know_whether_it_is_training():
    net, (inputs, targets) = dropping(), batch(DROPPED)
    run = trained(DROPPED, targets)
    with pytest.raises(ValueError, match="Dropout draws random numbers in training: pass training=True and a seed"):
        run(net, inputs)
    with pytest.raises(ValueError, match="Dropout draws random numbers in training: pass a seed, and another one"):
        trained(DROPPED, targets, training=True)(net, inputs)
    with pytest.raises(TypeError, match="training is True, False or None, got 1"):
        trained(DROPPED, targets, training=1)(net, inputs)


def test_outside_of_training_there_is_no_dropout():
    net, (inputs, targets) = dropping(), batch(DROPPED)
    plain = dropping(0.0)
    plain.load_state_dict(net.state_dict())
    needed = trained(DROPPED, targets)(plain, inputs)
    same(tree.flatten(trained(DROPPED, targets, training=False)(net, inputs))[0], tree.flatten(needed)[0])
    agree(stepped(DROPPED, shifted(targets))(net, inputs), needed.logits)


@modes
def test_dropout_is_a_function_of_the_seed(options):
    net, (inputs, targets) = dropping(), batch(DROPPED)

    def logits(seed):
        run = trained(DROPPED, targets, training=True, **(options | {"seed": seed}))
        return host(run(net, inputs).logits)

    same(logits(0), logits(0))
    changed = (logits(0) != logits(1)).any(axis=(0, 2))
    assert changed.all()


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_both_parts_drop(part):
    net, (inputs, targets) = dropping(), batch(DROPPED)
    for other in tree_of_dropouts(net.decoder if part == "encoder" else net.encoder):
        other.input = other.output = other.state = 0.0
    one, two = (host(trained(DROPPED, targets, training=True, seed=s)(net, inputs).logits) for s in (0, 1))
    known = np.array(DROPPED.source_length) > 0 if part == "encoder" else np.ones(4, bool)
    assert ((one != two).any(axis=2) == live(DROPPED)[:, :, 0] & known[:, None]).all()


def tree_of_dropouts(net):
    return net.layers if isinstance(net, nn.Deep) else [net]


def test_gradients_with_draws_of_all_kinds_are_those_of_differences():
    case = DROPPED._replace(rows=2, steps=(2, 2), source_length=[2, 1], target_length=None)
    net, (inputs, targets) = dropping(0.3), batch(case)
    f, at = as_function(trained(case, targets, training=True, **MODES["scheduled, drawn"]), net, inputs)
    check_grads(along_two_directions(f, at, 0), np.zeros(2), order=2)


# ---- parts of other kinds --------------------------------------------------------------------------------------------


def test_states_that_fit_are_handed_over_as_they_are():
    net = built(RAGGED._replace(encoder="lstm", decoder="lstm", sizes=(3, 3, 2)))
    assert net.bridge is None
    for encoder, decoder, units in [("lstm", "lstm", 2), ("gru", "lstm", 3), ("lstm", "gru", 3)]:
        assert built(RAGGED._replace(encoder=encoder, decoder=decoder, sizes=(3, units, 2))).bridge is not None
    stack = nn.Deep([gru(2, 3), gru(3, 3)])  # two arrays of these shapes, which mean something else
    assert around(lstm(2, 3), stack, "init", 3).bridge is not None
    assert built(RAGGED._replace(context="every")).bridge is None


class Leaky:
    """A cell of a user's own, no Module: h = tanh(rate h + x W + b)."""

    def __init__(self, inputs, units, named="b"):
        draw = np.random.default_rng(0)
        self.W = mg.tensor(draw.normal(size=(inputs, units)), requires_grad=True)
        self.rate = mg.tensor(0.5, requires_grad=True)
        setattr(self, named, mg.tensor(draw.normal(size=units), requires_grad=True))
        self.named = named

    def __call__(self, x, h):
        h = mg.tanh(self.rate * h + x @ self.W + getattr(self, self.named))
        return h, h

    def zero_state(self, batch_size):
        return np.zeros((batch_size, self.W.shape[1]))


def around(encoder, decoder, context, outputs, attention=None, **options):
    """A net around cells of any kind; inputs and tokens are vectors of 2."""
    parts = {"target": nn.Embedding(TOKENS + 1, 2, dtype=F, seed=0), "start": TOKENS, "seed": 2}
    parts["readout"] = nn.Linear(outputs, TOKENS, dtype=F, seed=1)
    return Seq2Seq(encoder, decoder, context, attention, **(parts | options))


@pytest.mark.parametrize("context", ["init", "every"])
def test_cells_of_ones_own(context):
    """Encoder and decoder; their parameters are found."""
    net = around(Leaky(2, 3), Leaky(2 + 3 * (context == "every"), 3), context, 3)
    assert {"encoder.W", "encoder.rate", "encoder.b", "decoder.b"} <= set(net.parameters())
    case = RAGGED._replace(encoder="gru", decoder="rnn", context=context, attention=None, embedded=False)
    inputs, targets = batch(case)
    hold(trained(case, targets), by_hand(net, case, shifted(targets)), net, inputs, 1)


def test_a_bias_is_a_summary_that_is_read_at_every_step():
    """By a matrix R below that of the cell, here one of a user's own."""
    net, case = around(Leaky(2, 3), Leaky(2, 4), "bias", 4), RAGGED._replace(attention=None, embedded=False)
    inputs, targets = batch(case)

    def every(net, inputs):
        wide, wide.decoder = copy.copy(net), copy.copy(net.decoder)
        wide.context, wide.R = "every", None
        wide.decoder.W = mg.concatenate([net.decoder.W, net.R])
        return trained(case, targets)(wide, inputs)

    hold(trained(case, targets), every, net, inputs, 1, order=2)


def test_a_cell_without_b_has_no_bias_to_add_to():
    with pytest.raises(TypeError, match=r'context="bias" adds to the b .* Leaky has none; context="every" does'):
        around(gru(2, 3), Leaky(2, 3, named="threshold"), "bias", 3)
    with pytest.raises(TypeError, match="LearnedState has none"):
        around(gru(2, 3), nn.LearnedState(Leaky(2, 3, named="threshold")), "bias", 3)
    around(gru(2, 3), Leaky(2 + 3, 3, named="threshold"), "every", 3)


def test_a_bias_is_added_to_a_copy():
    """The cell that stands in the net, perhaps at another place, too, keeps its own."""
    stack = nn.Deep([nn.Dropout(nn.Residual(gru(2, 2)), input=0.5), lstm(2, 3)])
    before, more = host(stack.layers[0].cell.cell.b).copy(), np.ones((5, 6))
    changed = with_bias(stack, more)
    assert bias_of(stack) is stack.layers[0].cell.cell.b
    same(host(bias_of(stack)), before)
    same(host(bias_of(changed)), before + more)
    assert changed.layers[1] is stack.layers[1]
    assert changed.layers[0].cell.cell.W_x is stack.layers[0].cell.cell.W_x


@pytest.mark.parametrize("context", CONTEXTS)
def test_one_cell_may_be_encoder_and_decoder(context):
    """Its gradient is that of both uses; told by a bias, only the decoder is."""
    wide = context in {"every", "both"}
    cell = gru(2 + 3 * wide, 3)
    net = around(cell, cell, context, 3)
    apart = around(gru(2 + 3 * wide, 3), gru(2 + 3 * wide, 3), context, 3)
    assert not [path for path in net.parameters() if path.startswith("decoder")]
    inputs = np.random.default_rng(0).normal(size=(4, 3, 2 + 3 * wide))
    targets = batch(RAGGED)[1]
    for one in (net, apart):
        (trained(RAGGED, targets)(one, inputs).logits ** 2).sum().backward()
    found, needed = net.parameters(), apart.parameters()
    for path, p in found.items():
        total = host(needed[path].grad)
        if path.startswith("encoder."):
            total = total + host(needed[path.replace("encoder", "decoder")].grad)
        agree(host(p.grad), total)


def test_one_embedding_may_be_source_and_target():
    shared = nn.Embedding(TOKENS + 1, 2, dtype=F, seed=0)
    net = around(gru(2, 3), gru(2, 3), "init", 3, source=shared, target=shared)
    assert [path for path in net.parameters() if path.endswith("W")] == ["source.W", "readout.W"]
    case = RAGGED._replace(encoder="gru", decoder="gru", attention=None)
    inputs, targets = batch(case)
    hold(trained(case, targets), by_hand(net, case, shifted(targets)), net, inputs, 1, order=2)


class Pairs:
    """A cell that reads trees of vectors and of integers."""

    outputs = 3

    def __init__(self):
        self.cell = gru(2, 3)

    def __call__(self, x, h):
        return self.cell(x["vector"] * mg.expand_dims(x["count"], 1), h)

    def zero_state(self, batch_size):
        return self.cell.zero_state(batch_size)


def test_inputs_may_be_trees():
    net = around(Pairs(), gru(2 + 3, 4), "init", 4 + 3, attention="dot")
    alone = around(net.encoder.cell, net.decoder, "init", 4 + 3, attention=net.attention)
    alone.bridge = net.bridge
    case = RAGGED._replace(embedded=False)
    vectors, targets = batch(case)
    counts = np.random.default_rng(0).integers(1, 4, vectors.shape[:2])
    needed = trained(case, targets)(alone, vectors * counts[:, :, None]).logits
    poisoned = {
        "vector": filled(vectors, case.source_length, np.nan),
        "count": filled(counts, case.source_length, 10**6),
    }
    agree(host(trained(case, targets)(net, poisoned).logits), host(needed))


def test_inputs_and_targets_may_be_lists():
    net, (inputs, targets) = built(RAGGED), batch(RAGGED)
    given = [inputs.tolist(), targets.tolist(), RAGGED.source_length, np.array(RAGGED.target_length)]
    same(list(net(*given).logits), list(trained(RAGGED, targets)(net, inputs).logits))


def test_a_vector_may_come_from_any_function():
    def squared(x):
        return x**2

    squared.outputs = 2
    net = around(squared, gru(2, 3), "bias", 3)
    case = Case("vectors", "gru", "bias", None)
    inputs, targets = batch(case)
    hold(trained(case, targets), by_hand(net, case, shifted(targets)), net, inputs, 1)
    squared.outputs = 5
    with pytest.raises(ValueError, match=r"the encoder has outputs=5, so it gives \(B, 5\), got \(3, 2\)"):
        trained(case, targets)(around(squared, gru(2, 3), "bias", 3), inputs)


def test_an_attention_of_ones_own_is_used():
    own = nn.AdditiveAttention(4, 3, units=7, dtype=F, seed=0)
    net = around(gru(2, 3), gru(2 + 3, 4), "init", 4 + 3, attention=own)
    assert net.attention is own
    assert net.parameters()["attention.v"].shape == (7, 1)
    twice = nn.Bidirectional(gru(2, 3), gru(2, 3, seed=9), merge=lambda a, b: a - b)
    case = RAGGED._replace(embedded=False)
    inputs, targets = batch(case)
    found = trained(case, targets)(around(twice, gru(2 + 3, 4), "init", 7, attention=own), inputs)
    assert found.weights.shape == (4, 4, 3)


def test_long_sequences():
    """Nothing recurses, and a checkpointed net is the same net."""
    case = Case("gru", "gru", "bias", "dot", True, (2, 2, 2), 2, (40, 3000), [40, 7], [3000, 1])
    net, (inputs, targets) = built(case), batch(case)
    gradients = []
    for run in (trained(case, targets), mg.checkpoint(trained(case, targets))):
        for p in net.parameters().values():
            p.grad = None
        run(net, inputs).logits.sum().backward()
        gradients.append({path: host(p.grad) for path, p in net.parameters().items()})
    same(*gradients)


def test_a_net_is_freed():
    """As soon as nobody holds it: what training recorded holds no cycles."""
    gc.collect()
    gc.disable()
    try:
        net, (inputs, targets) = built(RAGGED), batch(RAGGED)
        for options in MODES.values():
            trained(RAGGED, targets, **options)(net, inputs).logits.sum().backward()
        alive = weakref.ref(net)
        del net
        assert alive() is None
    finally:
        gc.enable()


# ---- parameters ------------------------------------------------------------------------------------------------------


def test_parameters_have_their_paths():
    net = built(RAGGED._replace(context="both", encoder="gru"))
    assert list(net.parameters()) == [
        "encoder.W_x", "encoder.W_h", "encoder.b", "decoder.W_x", "decoder.W_h", "decoder.b", "source.W", "target.W",
        "readout.W", "readout.b", "bridge.layers.0.W", "bridge.layers.0.b", "bridge.layers.1.W", "bridge.layers.1.b",
        "attention.W_query", "attention.W_memory", "attention.b", "attention.v",
    ]  # fmt: skip
    net = built(RAGGED._replace(context="bias", attention="dot", encoder="gru", embedded=False))
    assert list(net.parameters())[-2:] == ["R", "attention.W_memory"]
    assert net.R.shape == (2, 4 * 3)


@each_way
def test_a_state_goes_from_net_to_net(case):
    net, other = built(case), built(case._replace(seed=1))
    inputs, targets = batch(case)
    other.load_state_dict(net.state_dict())
    run = trained(case, targets)
    same(tree.flatten(run(other, inputs))[0], tree.flatten(run(net, inputs))[0])


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_dtype_is_kept(context):
    case = RAGGED._replace(context=context, embedded=False)
    net, (inputs, targets) = built(case), batch(case)
    half = net.astype("float32")
    for one, dtype in ((half, "float32"), (half.astype("float64"), "float64")):
        x = mg.tensor(inputs.astype(dtype), requires_grad=True)
        for options in ({}, MODES["scheduled, drawn"]):
            found = trained(case, targets, **options)(one, x)
            (found.logits**2).sum().backward()
            leaves = [*tree.flatten(found)[0], x.grad, *[p.grad for p in one.parameters().values()]]
            assert {leaf.dtype for leaf in leaves} == {np.dtype(dtype)}


def test_the_weights_that_are_made_here_have_a_seed():
    def made(seed):
        options = {"target": nn.Embedding(5, 2, seed=0), "readout": nn.Linear(4 + 3, 4, seed=0), "start": 4}
        encoder, decoder = nn.GRUCell(2, 3, seed=0), nn.LSTMCell(2 + 3, 4, seed=0)
        net = Seq2Seq(encoder, decoder, "init", "additive", seed=seed, **options)
        return net.state_dict()

    same(made(0), made(0))
    other = made(1)
    for path, array in made(0).items():
        drawn = path.startswith(("bridge", "attention")) and not path.endswith(".b")
        assert (array != other[path]).any() == drawn, path
    assert (made(0)["bridge.layers.0.W"] != made(0)["bridge.layers.1.W"]).any()
    assert {array.dtype for array in made(0).values()} == {np.dtype("float32")}


def test_a_bridge_reads_all_of_a_state():
    old, new = nn.Deep([lstm(2, 3), gru(3, 1)]), lstm(1, 2)
    bridge = Bridge(old.zero_state(1), new.zero_state(1), seed=0)
    assert [layer.inputs for layer in bridge.layers] == [7, 7]
    state = tree.map(lambda leaf: np.random.default_rng(0).normal(size=(5, leaf.shape[1])), old.zero_state(1))
    found = bridge(state)
    assert isinstance(found, nn.LSTMState)
    everything = np.concatenate([state[0].h, state[0].c, state[1]], axis=1)
    for got, layer in zip(found, bridge.layers, strict=True):
        agree(host(got), everything @ host(layer.W) + host(layer.b))


# ---- bad input -------------------------------------------------------------------------------------------------------


class Mute:
    """A cell of a state that has no h."""

    def zero_state(self, batch_size):
        return {"memory": np.zeros((batch_size, 3))}

    def __call__(self, x, state):
        memory = mg.tanh(state["memory"] + x.sum(axis=1, keepdims=True))
        return memory, {"memory": memory}


def refused(error, message, **changed):
    """Assert a Seq2Seq with these parts to be refused."""
    parts: dict[str, Any] = {"encoder": gru(2, 3), "decoder": gru(2, 3), "context": "init", "attention": None}
    parts |= {"target": nn.Embedding(5, 2, dtype=F), "readout": nn.Linear(3, 4, dtype=F), "start": 4, "seed": 0}
    with pytest.raises(error, match=message):
        Seq2Seq(**(parts | changed))


def test_options_that_there_are_not():
    refused(ValueError, 'context is "init", "every", "both" or "bias", got \'all\'', context="all")
    refused(ValueError, 'attention is "additive", "dot", an Attention or None, got \'luong\'', attention="luong")
    refused(ValueError, r"target knows the tokens 0\.\.4, got start=5", start=5)
    refused(ValueError, r"target knows the tokens 0\.\.4, got start=-1", start=-1)
    refused(TypeError, "start is a token, an integer, got 'a'", start="a")
    refused(ValueError, r"context is .* got \['init'\]", context=["init"])
    refused(ValueError, r"attention is .* got \['dot'\]", attention=["dot"])
    refused(TypeError, "a seed is an integer", seed="a", attention="dot")


def test_parts_that_cannot_stand_where_they_are():
    both_ways = nn.Bidirectional(gru(2, 3), gru(2, 3))
    refused(TypeError, "a decoder writes step by step, an encoder may read both ways", decoder=both_ways)
    refused(TypeError, "is a cell with zero_state", decoder=mg.tanh)
    refused(TypeError, "got the class GRUCell", decoder=nn.GRUCell)
    refused(TypeError, "an encoder is a net with zero_state or a function of vectors, got", encoder=nn.GRUCell)
    refused(TypeError, "an encoder is a net with zero_state or a function of vectors, got 3", encoder=3)
    refused(TypeError, "len has no zero_state, .* has an attribute outputs, the size C", encoder=len)
    linear = nn.Linear(2, 3, dtype=F)
    refused(TypeError, "reads the outputs of an encoder over sequences", encoder=linear, attention="dot")
    refused(TypeError, "Seq2Seq needs the h of a state.* got dict", encoder=Mute(), context="bias")
    refused(TypeError, "Seq2Seq needs the h of a state.* got dict", decoder=Mute(), attention="dot")
    pair = nn.Bidirectional(gru(2, 3), gru(2, 3), merge=None)
    refused(ValueError, r"how many features .* nn\.AdditiveAttention\(", encoder=pair, attention="additive")
    refused(ValueError, r"how many features .* nn\.DotAttention\(", encoder=pair, attention="dot")


def test_sizes_that_do_not_fit_name_their_sum():
    refused(ValueError, r"decoder reads 2 \(target\) = 2 features, got one of 9", decoder=gru(9, 3))
    refused(ValueError, r"decoder reads 2 \(target\) \+ 3 \(summary\) = 5 features, got one of 2", context="every")
    refused(
        ValueError,
        r"decoder reads 2 \(target\) \+ 3 \(summary\) \+ 3 \(attention\) = 8 features, got one of 5",
        context="both",
        attention="dot",
        decoder=gru(5, 3),
    )
    refused(
        ValueError,
        r"readout reads 3 \(decoder\) \+ 3 \(attention\) = 6 features, got one of 3",
        attention="additive",
        decoder=gru(5, 3),
    )
    refused(ValueError, r"readout reads 4 \(decoder\) = 4 features, got one of 3", decoder=gru(2, 4))
    both_ways = nn.Bidirectional(gru(2, 3), lstm(2, 1))
    refused(ValueError, r"2 \(target\) \+ 4 \(summary\) = 6 features", context="every", encoder=both_ways)
    refused(ValueError, "readout scores 6 tokens, and target knows 5", readout=nn.Linear(3, 6, dtype=F))


def test_a_seq2seq_is_called_itself_and_is_no_cell():
    net, (inputs, _) = built(RAGGED), batch(RAGGED)
    for state in (None, net.decoder.zero_state(4)):
        with pytest.raises(TypeError, match=r"a Seq2Seq is no cell, .* by itself: call net\(inputs, targets\)"):
            nn.dynamic_rnn(net, inputs, initial_state=state)


def test_inputs_that_do_not_fit():
    net, (inputs, targets) = built(RAGGED._replace(embedded=False)), batch(RAGGED._replace(embedded=False))
    with pytest.raises(ValueError, match=r"Seq2Seq takes inputs \(B, T, \.\.\.\), got inputs of shape \(3,\)"):
        net(np.zeros(3), targets)
    with pytest.raises(ValueError, match="Seq2Seq: got 2 lengths for 4 rows"):
        net(inputs, targets, [1, 2])
    with pytest.raises(ValueError, match="Seq2Seq: a length lies between 0 and the 3 steps there are, got 4"):
        net(inputs, targets, [4] * 4)
    with pytest.raises(ValueError, match="Seq2Seq: a length lies between 0 and the 4 steps there are, got 5"):
        net(inputs, targets, [3] * 4, [5] * 4)
    with pytest.raises(TypeError, match="lengths are integers"):
        net(inputs, targets, [3] * 4, [2.0] * 4)
    with pytest.raises(TypeError, match=r"parameters of dtype float64 and got an input of float32"):
        net(inputs.astype("float32"), targets)
    vectors = built(Case("vectors", "gru", "init", None))
    with pytest.raises(ValueError, match="a function of vectors, which have no source_length"):
        vectors(np.zeros((2, 2)), np.zeros((2, 3), int), [1, 1])
    with pytest.raises(IndexError, match="Embedding has a vocabulary of 5 tokens, .* got token 7"):
        built(RAGGED)(np.full((4, 3), 7), targets)


def test_targets_that_do_not_fit():
    net, (inputs, targets) = built(RAGGED), batch(RAGGED)
    for bad in (targets[0], targets[:2], targets[:, :, None]):
        with pytest.raises(ValueError, match=r"targets are \(B, T\) with the 4 rows of the inputs, got \("):
            net(inputs, bad)
    with pytest.raises(TypeError, match="targets are integers, got dtype float64"):
        net(inputs, targets.astype(float))
    for token in (-1, TOKENS + 1):
        for options in ({}, MODES["free"]):
            wrong = targets.copy()
            wrong[1, 2] = token
            with pytest.raises(IndexError, match=rf"nn\.Seq2Seq: label {token} lies outside 0\.\.4"):
                net(inputs, wrong, **options)


def test_what_is_drawn_needs_a_seed():
    net, (inputs, targets) = built(RAGGED), batch(RAGGED)
    for options, message in [
        ({"teacher_forcing": 0.5}, "scheduled sampling .* draw random numbers: pass a seed, and another one for every"),
        ({"teacher_forcing": 0.0, "feed": "sample"}, 'feed="sample" draw random numbers: pass a seed'),
        ({"teacher_forcing": 1.5}, r"teacher_forcing is a probability, from 0 to 1, got 1\.5"),
        ({"teacher_forcing": -0.1}, r"teacher_forcing is a probability, from 0 to 1, got -0\.1"),
        ({"teacher_forcing": np.nan}, "teacher_forcing is a probability, from 0 to 1, got nan"),
        ({"teacher_forcing": "all"}, "teacher_forcing is a probability, from 0 to 1, got 'all'"),
        ({"feed": "best"}, 'feed is "argmax" or "sample", got \'best\''),
    ]:
        with pytest.raises(ValueError, match=message):
            net(inputs, targets, **options)


def test_scores_of_another_shape_than_one_for_each_token_are_refused():
    for readout in (lambda x: x.sum(), lambda x: mg.stack([x, x], axis=1)):
        net, (inputs, targets) = built(RAGGED), batch(RAGGED)
        net.readout = readout
        with pytest.raises(ValueError, match=r"readout gives scores \(B, tokens\), got \("):
            net(inputs, targets)


def test_an_encoder_whose_state_has_no_h_can_give_a_first_state():
    net = nn.Seq2Seq(
        Mute(), gru(2, 3), target=nn.Embedding(5, 2, dtype=F, seed=0), readout=nn.Linear(3, 5, dtype=F, seed=1),
        start=0, seed=2,
    )  # fmt: skip
    net(np.ones((2, 3, 2)), [[1, 2], [3, 4]]).logits.sum().backward()
    assert all(np.abs(p.grad).sum() > 0 for p in net.bridge.parameters().values())


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_vectors_in_the_padding_never_reach_a_source(bad):
    """A source is applied to all steps at once, the padding too, so that it must not see what stands there."""

    def answers(filler):
        net = nn.Seq2Seq(
            gru(3, 3, seed=0), gru(5, 3, seed=1), attention="dot", source=nn.Linear(2, 3, dtype=F, seed=2),
            target=nn.Embedding(5, 2, dtype=F, seed=3), readout=nn.Linear(6, 5, dtype=F, seed=4), start=0, seed=5,
        )  # fmt: skip
        inputs = np.random.default_rng(0).normal(size=(2, 3, 2))
        inputs[1, 1:] = filler
        x = mg.tensor(inputs, requires_grad=True)
        logits = net(x, [[1, 2], [3, 4]], source_length=[3, 1]).logits
        (logits**2).sum().backward()
        return [logits.numpy(), x.grad, *[p.grad for p in net.parameters().values()]]

    clean, poisoned = answers(0.0), answers(bad)
    assert all(np.array_equal(a, b) for a, b in zip(clean, poisoned, strict=True))
    assert (poisoned[1][1, 1:] == 0).all()


def test_what_would_never_be_read_or_does_not_fit_is_refused():
    for context in ("init", "both"):
        refused(ValueError, "LearnedState learns is never read", decoder=nn.LearnedState(gru(2, 3)), context=context)
    wrong = nn.DotAttention(4, 3, dtype=F)
    refused(ValueError, "h, 3 queries, and reads the encoder's 3 features; got one of 4 queries", attention=wrong)
    refused(ValueError, "got one of 3 queries and 9 features", attention=nn.DotAttention(3, 9, dtype=F))
    refused(TypeError, "start is a token, an integer, got True", start=True)
    net = nn.Seq2Seq(
        nn.GRUCell(2, 3),
        gru(2, 3),
        "bias",
        target=nn.Embedding(5, 2, dtype=F),
        readout=nn.Linear(3, 5, dtype=F),
        start=0,
    )
    with pytest.raises(TypeError, match=r"a summary of float32.*astype"):
        net(np.ones((1, 2, 2), dtype="float32"), [[1, 2]])
