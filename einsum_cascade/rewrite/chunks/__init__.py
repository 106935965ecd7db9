"""A recurrence in chunks: products of matrices inside a chunk, a state only from one chunk to the next.

linear    expressions as sums of products that hold one state each
writer    new Einsums with free names, and products contracted group by group
decay     what a gate leaves of a state between two steps of a chunk
block     the iterate block as states (gates and what is added) and other Einsums
paths     a state at any step of a chunk: what is carried into the chunk and what is fed inside it
reads     an Einsum that reads a state, taken apart into these
solve     steps that wait for each other (delta rules): a triangular system
chunk     the search for the parts in order, the new cascade, and the check
"""
