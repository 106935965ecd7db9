"""One measured point, and the table of them: the schema that `cascade validate gpu --measured` reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from einsum_cascade.errors import DataError

from .masks import visible_pairs

if TYPE_CHECKING:
    import pandas as pd

# How our own kernels are called in the column `implementation`: tables of other people call theirs "triton", and those
# have other tiles. Words after it tell what distinguishes a case.
OURS = "triton-cascade"
COLUMNS = (
    "source", "device", "kernel", "implementation", "direction", "dtype", "batch", "heads", "seq_q", "seq_kv",
    "head_dim", "causal", "extra", "latency_ms", "tflops", "kv_heads", "window", "kv_dtype", "power_w",
    "q25_ms", "q75_ms", "rounds", "threads", "ratio", "ratio_q25", "ratio_q75",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """What is computed: one attention problem.

    Attributes:
        window: keys that a query sees, itself included; None for all.
    """

    batch: int
    heads: int
    seq: int
    head_dim: int
    dtype: str = "fp32"
    causal: bool = False
    window: int | None = None
    kv_heads: int | None = None

    @property
    def pairs(self) -> int:
        """Query-key pairs of one head that are visible."""
        return visible_pairs(self.seq, causal=self.causal, window=self.window)

    @property
    def flops(self) -> float:
        """Useful operations, forward: two products of 2 D operations for each visible pair.

        >>> Setting(1, 1, 4, 8, causal=True).flops
        320.0
        """
        return 4.0 * self.batch * self.heads * self.head_dim * self.pairs


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of the table; see `COLUMNS`.

    Attributes:
        latency_ms: median over the rounds; q25_ms and q75_ms are the quartiles.
        ratio: median over the rounds of this time over the dense baseline's time in the same round.
        threads: CPU threads, or None on a GPU.
    """

    source: str
    device: str
    kernel: str
    implementation: str
    direction: str
    dtype: str
    batch: int
    heads: int
    seq_q: int
    seq_kv: int
    head_dim: int
    causal: int
    extra: str
    latency_ms: float
    tflops: float | None
    kv_heads: int
    window: int | None
    kv_dtype: str
    power_w: float | None
    q25_ms: float
    q75_ms: float
    rounds: int
    threads: int | None
    ratio: float | None
    ratio_q25: float | None
    ratio_q75: float | None


def as_table(rows: Iterable[Measurement]) -> pd.DataFrame:
    """Return the measurements as a table with the columns of the schema."""
    import pandas as pd

    frame = pd.DataFrame([[getattr(r, c) for c in COLUMNS] for r in rows], columns=list(COLUMNS))
    return frame.astype({"window": "Int64", "threads": "Int64"})


def read_table(path: Path) -> pd.DataFrame:
    """Return a table of measurements from CSV; empty where there is no file yet."""
    import pandas as pd

    if not path.exists():
        return as_table(())
    return pd.read_csv(path).astype({"window": "Int64", "threads": "Int64"})


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table of measurements as CSV.

    Raises:
        DataError: the folder is not there or the file cannot be written.
    """
    try:
        table.to_csv(path, index=False, float_format="%.6g")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
