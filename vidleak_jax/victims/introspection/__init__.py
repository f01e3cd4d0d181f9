"""What a network is, found out from its equations: the layer graph.

  graph = introspect(logits, params, clip_shape)
  graph.head, structure.chain(graph), structure.blocks(graph)

`identifiability` counts equations against unknowns, layer by layer.
"""

from vidleak_jax.victims.introspection.graph import (
    LayerGraph,
    Node,
    evaluate,
    run,
    with_lowering,
)
from vidleak_jax.victims.introspection.identifiability import (
    Count,
    as_text,
    identifiability,
    shown_share,
)
from vidleak_jax.victims.introspection.planner import discrepancy, introspect

__all__ = ['Count', 'LayerGraph', 'Node', 'as_text', 'discrepancy', 'evaluate',
           'identifiability', 'introspect', 'run', 'shown_share',
           'with_lowering']
