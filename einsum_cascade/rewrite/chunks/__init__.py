"""A recurrence in chunks: products of matrices inside a chunk, a state only from one chunk to the next.

linear    expressions as sums of products that hold one state each
prepare   the Einsums of the block made ready: linear in states, what is added a product of tensors
block     the block as states (gates and what is added) and other Einsums
writer    new Einsums with free names, and products contracted group by group
decay     what a gate leaves of a state between two steps of a chunk
paths     a state at any step of a chunk: what is carried into the chunk, and what is fed inside it
extremes  the same of a state that keeps the largest or smallest so far
reads     an Einsum that reads a state, taken apart into these
system    steps that wait for each other (delta rules), as linear equations
fed       what feeds states, by fewer or smaller tensors that wait for each other
solve     these equations solved: triangular systems
maker     the parts in order, and the new cascade
chunk     what users call, and the check
"""
