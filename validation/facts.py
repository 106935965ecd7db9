"""The stored facts of the zoo: passes as written and as reduced, arithmetic intensity. `python -m validation.facts`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path

from einsum_cascade import zoo
from einsum_cascade.zoo.entries import STATED_LENGTH, Change, sizes_at, table

WORD = "2 B"
HEAD = (
    "# Written by `python -m validation.facts`, which a test runs again: passes over a rank of the text as written >\n"
    "# after `cascade reduce`; operations (a multiply-accumulate is two) per compulsory byte at the length stated in\n"
    "# entries.py, words of 2 bytes. Source: computed by this package from the cascades.\n"
)


def passes_of_text(name: str, rank: str) -> int:
    """Return the passes of an entry over a rank, as written."""
    from einsum_cascade.analysis.passes import passes

    return passes(zoo.load(name), rank).count


def passes_of(name: str) -> dict[str, Change]:
    """Return the passes over the ranks that an entry tells of, as written and as reduced by the rules."""
    from einsum_cascade.rewrite.reduce import reduce_passes

    out = {}
    for rank in table()[name].over:
        naive = passes_of_text(name, rank)
        out[rank] = Change(naive, reduce_passes(zoo.load(name), rank).after if naive > 1 else naive)
    return out


def intensity_of(name: str, length: int = STATED_LENGTH) -> float:
    """Return operations per compulsory byte at a length; a multiply-accumulate is two operations.

    >>> round(intensity_of("gemm"))
    1820
    """
    from einsum_cascade.analysis.bounds import bounds

    found = bounds(zoo.load(name), sizes_at(name, length), word=WORD)
    return work(found.operations) / found.compulsory_bytes


def work(operations: Mapping[str, int]) -> int:
    """Return the number of operations of all classes, a multiply-accumulate counted twice."""
    return sum(n * (2 if op == "mac" else 1) for op, n in operations.items())


def rows() -> Iterator[tuple[str, str, str]]:
    """Yield name, passes and intensity of every entry, as stored."""
    for name in table():
        passes = " ".join(f"{rank}:{c.naive}>{c.best}" for rank, c in passes_of(name).items())
        yield name, passes, f"{intensity_of(name):.4g}"


def main() -> None:
    """Write the facts anew."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "passes", "intensity"))
    writer.writerows(rows())
    path = Path(str(resources.files(zoo).joinpath("facts.csv")))
    path.write_text(HEAD + text.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    main()
