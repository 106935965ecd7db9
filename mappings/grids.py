"""A kernel call as grids of thread blocks, each of which walks a loop: what any GPU kernel is, as data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import reduce
from types import MappingProxyType
from typing import Any

import numpy as np

from einsum_cascade.errors import MappingError

from .expression import evaluate_expression, names_in

Text = str | float

# In which order blocks are handed out: the longest of the whole call first; in some order of a launch, nobody knows
# which; the first query tiles of all heads first, whose blocks a causal mask leaves the shortest; the query tiles of a
# head one after another, then the next head; a sequence after another, each from its longest blocks on.
ORDERS = ("longest_first", "launch", "shortest_first", "head_by_head", "sequence_by_sequence")
# Names of a call in an expression.
SIZES = ("batch", "heads", "kv_heads", "seq_q", "seq_kv", "head_dim", "window", "causal")
# Names that stand for something else in an expression than a size that somebody gives.
RESERVED = ("word", "group", "block_m", "block_n", "operand_rows", "i")


@dataclass(frozen=True, slots=True)
class StepWork:
    """What one step of a block's loop does, each an expression over the sizes of the call and of the tile.

    Attributes:
        tensor: operations of products, a multiply and an add counted as two.
        exp, fma, alu: exponentials and the like; multiply-adds and the like; comparisons, conversions and integers.
            Where the compiled loop is known, its instructions take the place of these three.
        loads: bytes that the step asks of the L2 cache.
        shared: bytes that pass through shared memory; twice the loads where not given.
        chain: products of which each waits for the one before, and the next step for the last.
        trips: times that a step waits for memory at the least: one, where it has what was asked for a step ahead.
    """

    tensor: Text = 0.0
    exp: Text = 0.0
    fma: Text = 0.0
    alu: Text = 0.0
    loads: Text = 0.0
    shared: Text = ""
    chain: Text = 0.0
    trips: Text = 0.0

    def __post_init__(self) -> None:
        _refuse_empty(self, but=("shared",))


@dataclass(frozen=True, slots=True)
class Grid:
    """One launch: how many blocks, how many steps each takes, and what a step does; expressions over sizes.

    Names in an expression: the sizes of a call (`batch`, `heads`, `kv_heads`, `group` = heads / kv_heads, `seq_q`,
    `seq_kv`, `head_dim`, `window`, `causal`), `word` (bytes of an element), the tile (`block_m`, `block_n`,
    `operand_rows`), the parameters of the mapping, what `let` names, and in `steps` and `masked` the number `i` of a
    block. Functions: `cdiv(a, b)`, the quotient rounded up; `padded(n)`, the next power of two, at least 16; `ceil`,
    `floor`, `min`, `max`.

    Attributes:
        name: of the launch.
        lanes: how often the blocks occur, for example once a head of a batch.
        blocks: of one lane.
        steps: of block i; `masked`: those of them that take the loop for masked steps.
        step: what one step does.
        reads, writes: bytes that the launch reads and writes at the least, each address once.
        parts: blocks that make a part each of the same sums, which a second kernel adds up; `partial`: elements of
            those sums.
        order: in which order the blocks are handed out.
        compiled: "kernel" or "kernel/variant" under which the tables of compiled resources hold it.
        of_compiled: how many steps of the compiled loop one step is, where a size of the call changes the step.
        let: names for parts of these expressions, each an expression over those before it.
    """

    name: str
    steps: Text
    step: StepWork
    lanes: Text = "batch * heads"
    blocks: Text = 1.0
    masked: Text = 0.0
    reads: Text = 0.0
    writes: Text = 0.0
    parts: Text = 1.0
    partial: Text = 0.0
    order: str = "launch"
    compiled: str = ""
    of_compiled: Text = 1.0
    let: Mapping[str, Text] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _refuse_empty(self, but=_WORDS)
        if self.order not in ORDERS:
            raise ValueError(f"order: expected one of {', '.join(ORDERS)}, found {self.order}")
        check_parameters(self.let, what="let")
        for name in self.let:
            if name in SIZES:
                raise ValueError(f"let: '{name}' is a size of every call; take another name")

    def each_block(self, *texts: Text, where: str) -> bool:
        """Return whether one of some expressions reads the number of a block, itself or by a name of `let`.

        Raises:
            MappingError: one of them is no expression.
        """
        own = {"i"}
        for name, text in self.let.items():
            if names_in(text, where=where) & own:
                own.add(name)
        return any(names_in(text, where=where) & own for text in texts)

    def named(self, names: Mapping[str, Any], *, where: str) -> dict[str, Any]:
        """Return names with those of `let` beside them; without an `i`, with those that need none.

        Raises:
            MappingError: an expression that is none, reads an unknown name or has no value of at least zero.
        """
        found = dict(names)
        for name, text in self.let.items():
            if "i" in names or not self.each_block(text, where=where):
                found[name] = value_of(text, found, where=f"{where}: let.{name}")
        return found

    def reads_names(self, *, where: str) -> frozenset[str]:
        """Return the names that the expressions read.

        Raises:
            MappingError: one of them is no expression.
        """
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _WORDS}
        work = {f"step.{f.name}": getattr(self.step, f.name) for f in fields(self.step)}
        place = f"{where}: grids.{self.name}"
        parts = {f"let.{n}": text for n, text in self.let.items()}
        texts = {n: text for n, text in (own | work | parts).items() if text != ""}
        read = frozenset().union(*(names_in(text, where=f"{place}: {n}") for n, text in texts.items()))
        return read - {*self.let}


_WORDS = ("name", "step", "order", "compiled", "let")


def _refuse_empty(of: StepWork | Grid, *, but: tuple[str, ...]) -> None:
    for f in fields(of):
        if f.name not in but and getattr(of, f.name) == "":
            raise ValueError(f"{f.name}: expected a number or an expression, found an empty text")


def check_parameters(names: Iterable[str], *, what: str = "parameters") -> None:
    """Refuse names of parameters, or of `what` else, that no expression could tell from another size.

    Raises:
        ValueError: no word, or a name that stands for something else.
    """
    for name in names:
        if not name.isidentifier():
            raise ValueError(f"{what}: expected names of letters, digits and _, found '{name}'")
        if name in RESERVED:
            raise ValueError(f"{what}: '{name}' means something else in an expression; take another name")


def padded(n: Any) -> Any:
    """Return the next power of two that is no less, and 16 at the least: the shape that a tile of n takes.

    >>> padded(np.array([3, 16, 17, 80])).tolist()
    [16.0, 16.0, 32.0, 128.0]
    """
    least = np.maximum(np.asarray(n, dtype=np.float64), 16.0)
    return 2.0 ** np.ceil(np.log2(least))


def _folded(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda *args: reduce(function, args)


FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "cdiv": lambda a, b: -(-a // b),
        "ceil": np.ceil,
        "padded": padded,
        "min": _folded(np.minimum),
        "max": _folded(np.maximum),
    }
)


def value_of(text: Text, names: Mapping[str, Any], *, where: str) -> Any:
    """Return the value of an expression of a grid: a number, or an array where a name is one.

    Raises:
        MappingError: no expression, an unknown name, or a value that is no finite number of at least zero.

    >>> value_of("cdiv(seq_q, block_m)", {"seq_q": 100, "block_m": 64}, where="example")
    2
    """
    if isinstance(text, float) and 0.0 <= text < math.inf:
        return text
    with np.errstate(all="ignore"):
        found = evaluate_expression(text, names, where=where, functions=FUNCTIONS)
        if isinstance(found, complex):  # a root of a negative number
            found = math.nan
        try:
            each = np.ravel(np.asarray(found, dtype=np.float64))
        except OverflowError:  # a whole number beyond every float
            each = np.array([math.inf])
    bad = each[~(np.isfinite(each) & (each >= 0))]
    if bad.size:
        raise MappingError(f"{where}: '{text}' is {bad[0]:g}; expected a finite number of at least zero")
    return found
