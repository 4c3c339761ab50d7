"""Rewriting a body so that less of it has to stay in the loop. No rule here knows a cell; each is a law of algebra.

`forward` is applied to a body before it is differentiated, `backward` to what differentiation gives:

- equal values are computed once;
- products that share an operand become one product, and the same operation on adjacent slices one operation on all;
- sigmoid(z) is tanh(z / 2) / 2 + 1 / 2, so that one tanh serves all gates; the halves move into the weights;
- sums and products are reassociated by what changes when: first what is the same at all steps, then what is known for
  all steps at once, last what the loop makes; common factors of the loop are taken out of sums. Never across a `where`;
- sums over time move inwards, where a product of two stacks takes them up;
- products over an axis of length 1 are done element by element.
"""

from __future__ import annotations

from minigrad.backend import Backend
from minigrad.scan.names import name_by_inputs
from minigrad.scan.rewrite.concatenations import into_pieces, slices_to_concatenations
from minigrad.scan.rewrite.graph import Graph
from minigrad.scan.rewrite.one_tanh import one_tanh
from minigrad.scan.rewrite.over_time import sums_over_time
from minigrad.scan.rewrite.regroup import regroup
from minigrad.scan.rewrite.scales import scales_into_weights
from minigrad.scan.rewrite.side_by_side import merge_products, merge_slices
from minigrad.scan.rewrite.simplify import outer_product
from minigrad.scan.trace import Body


def forward(body: Body, backend: Backend) -> Body:
    """A body that computes the same with less in its loop."""
    graph = Graph(body, backend)
    with graph.rewriting():
        graph.apply(graph.shared)
        merge_products(graph)
        merge_slices(graph)
        one_tanh(graph)
        regroup(graph)
        graph.apply(graph.shared)
    name_by_inputs(graph.order)
    return graph.body


def backward(body: Body, backend: Backend, packed: bool) -> Body:
    """The same for the body of a derivative; with `packed` rows, or not."""
    graph = Graph(body, backend)
    with graph.rewriting():
        graph.apply(graph.shared)
        graph.apply(lambda node: sums_over_time(node, graph.leaves, packed))
        slices_to_concatenations(graph)
        scales_into_weights(graph)
        regroup(graph)
        into_pieces(graph)
        regroup(graph)
        graph.apply(lambda node: sums_over_time(node, graph.leaves, packed))
        graph.apply(outer_product)
        graph.apply(graph.shared)
    name_by_inputs(graph.order)
    return graph.body
