"""A call of an attention-like kernel as numbers, its operations and its compulsory bytes."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from einsum_cascade.errors import DataError, nearest

from .visits import FAR, reach, visible_pairs

if TYPE_CHECKING:
    from .masks import Mask

BYTES = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "fp8e4": 1.0,
    "fp8e5": 1.0,
}
DTYPE_WORDS = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float8": "fp8"}
DIRECTIONS = ("fwd", "bwd", "fwdbwd")


# Beyond every machine; counting takes one array entry for each tile of queries.
MOST = {"batch": 2**24, "heads": 2**16, "seq_q": 2**26, "seq_kv": 2**26, "head_dim": 2**12}
_USUAL = {"batch": 1, "heads": 32, "seq_q": 4096, "head_dim": 128}  # sizes that no call can be without


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a kernel.

    Attributes:
        heads: query heads; `kv_heads`: key heads, each shared by heads / kv_heads query heads.
        window: keys that a query sees, itself included; 0 for all.
        kv_dtype: of the keys and values in memory; the empty string means as `dtype`.
        parameters: sizes that this kernel alone has, by name.
        mask: of a cascade's own text, in place of `causal` and `window`.
    """

    batch: int
    heads: int
    seq_q: int
    seq_kv: int
    head_dim: int
    causal: bool = False
    dtype: str = "bf16"
    window: int = 0
    kv_heads: int = 0
    direction: str = "fwd"
    kv_dtype: str = ""
    parameters: tuple[tuple[str, float], ...] = ()
    mask: Mask | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "heads", "seq_q", "seq_kv", "head_dim"):
            if getattr(self, name) < 1:
                raise DataError(f"{name}: expected at least 1, found {getattr(self, name)}")
            if getattr(self, name) > MOST[name]:
                raise DataError(f"{name}: expected at most {MOST[name]:,}, found {getattr(self, name):,}")
        if self.mask and (self.causal or self.window):
            raise DataError(f"causal, window: expected neither beside the mask of {self.mask.name}")
        if self.mask and (self.mask.seq_q, self.mask.seq_kv) != (self.seq_q, self.seq_kv):
            raise DataError(
                f"seq_q, seq_kv: expected {self.mask.seq_q} and {self.mask.seq_kv}, which the mask of "
                f"{self.mask.name} has; found {self.seq_q} and {self.seq_kv}"
            )
        if self.window < 0:
            raise DataError(f"window: expected 0 for none or a positive number of keys, found {self.window}")
        if self.kv_heads < 0 or (self.kv_heads and self.heads % self.kv_heads):
            raise DataError(f"kv_heads: expected a divisor of heads = {self.heads}, found {self.kv_heads}")
        for word, legal in (
            (self.dtype, BYTES),
            (self.kv_dtype or self.dtype, BYTES),
            (self.direction, DIRECTIONS),
        ):
            if word not in legal:
                raise DataError(f"unknown word '{word}' in a call; {nearest(word, legal)}")

    @property
    def key_heads(self) -> int:
        """Heads of the keys and values."""
        return self.kv_heads or self.heads

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.heads // self.key_heads

    @property
    def windowed(self) -> bool:
        """Whether the window cuts anything off that the mask would let through."""
        return 0 < self.window < max(self.seq_q, self.seq_kv)

    @property
    def pairs(self) -> int:
        """Visible (query, key) pairs of one head."""
        if self.mask:
            return self.mask.pairs
        return _pairs(self.seq_q, self.seq_kv, self.causal, self.window)

    def flops(self, *, tensor: float = 4.0) -> float:
        """Return the useful operations: `tensor` per visible pair, head and head dimension."""
        return tensor * self.batch * self.heads * float(self.pairs) * self.head_dim

    def query_bytes(self) -> float:
        """Return the bytes of the queries read and the outputs written; outputs are never narrower than 16 bits."""
        widths = BYTES[self.dtype] + max(2.0, BYTES[self.dtype])
        return widths * self.batch * self.heads * self.seq_q * self.head_dim

    def key_bytes(self, *, stored: bool = True) -> float:
        """Return the bytes of the keys and values, as stored in the cache or as the call receives them (16 bits)."""
        width = BYTES[self.kv_dtype or self.dtype] if stored else max(2.0, BYTES[self.dtype])
        seen = min(self.seq_kv, self.seq_q + self.window) if self.window else self.seq_kv
        return 2 * width * self.batch * self.key_heads * seen * self.head_dim

    def query_elements(self) -> float:
        """Return the elements of the queries."""
        return float(self.batch) * self.heads * self.seq_q * self.head_dim

    def new_elements(self, *, least: int = 0, most: int = 0) -> float:
        """Return the elements of the keys and values that a call brings, each token counted at `least`, at `most`."""
        row = max(self.key_heads * self.head_dim, least)
        return 2.0 * self.batch * self.seq_q * (min(row, most) if most else row)

    def widened_bytes(self) -> float:
        """Return the bytes of writing a cache narrower than the queries out in their type: read and written."""
        stored, width = BYTES[self.kv_dtype or self.dtype], BYTES[self.dtype]
        return (stored + width) * self.new_elements() if stored < width else 0.0

    def converted_bytes(self, *, always: bool = False) -> float:
        """Return the bytes of bringing 16-bit queries to a narrower type before the kernel: read and written.

        Args:
            always: count queries too that keep their type and are only brought into place.
        """
        width = BYTES[self.dtype]
        return (2.0 + width) * self.query_elements() if always or width < 2.0 else 0.0


@functools.lru_cache(maxsize=4096)
def _pairs(seq_q: int, seq_kv: int, causal: bool, window: int) -> int:
    left, right = reach(causal=causal, window=window)
    return int(visible_pairs(seq_q, seq_kv, left=left, right=right)[0])


def make_call(*, parameters: Collection[str] = (), **values: Any) -> Call:
    """Return a call from words and numbers, as a command line or a table gives them.

    Args:
        parameters: names of sizes that the kernel has beside those of every call.

    Raises:
        DataError: a word that a call does not have, a number missing, not whole, or out of range.

    >>> make_call(batch="4", heads=32, seq_q="8K", seq_kv=8192, head_dim=128, causal="1").seq_q
    8192
    """
    legal = sorted({*SIZES, *parameters})
    given: dict[str, Any] = {}
    own: dict[str, float] = {}
    for name, value in values.items():
        if name in parameters and name not in SIZES:
            own[name] = whole(name, value)
        elif name not in legal:
            raise DataError(f"unknown size '{name}' of a call; {nearest(name, legal)}")
        elif name in ("dtype", "kv_dtype", "direction"):
            given[name] = _dtype(value)
        elif name == "causal":
            given[name] = _truth(value)
        else:
            given[name] = 0 if value is None and name == "kv_heads" else whole(name, value)
    if "seq_kv" not in given and "seq_q" in given:
        given["seq_kv"] = given["seq_q"]
    missing = [f"{n}={size}" for n, size in _USUAL.items() if n not in given]
    if missing:
        names = ", ".join(each.partition("=")[0] for each in missing)
        raise DataError(f"a call needs {names} too, for example {','.join(missing)}")
    return Call(**given, parameters=tuple(sorted(own.items())))


SIZES = frozenset(f.name for f in fields(Call)) - {"parameters", "mask"}


def _dtype(value: Any) -> str:
    word = str(value or "").strip().lower()
    return DTYPE_WORDS.get(word, word)


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in ("1", "true", "yes", "1.0"):
        return True
    if word in ("0", "false", "no", "0.0"):
        return False
    raise DataError(f"causal: expected 0 or 1, found '{value}'")


def whole(name: str, value: Any) -> int:
    """Return a whole number that a command line or a table gives: 8K is 8192.

    Raises:
        DataError: no number, not whole, or beyond every machine.
    """
    if type(value) is int and abs(value) <= FAR:
        return value
    text = str(value).strip()
    scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper(), 1)
    try:
        number = float(text[:-1] if scale > 1 else text) * scale
    except ValueError:
        raise DataError(f"{name}: expected a whole number, found '{value}'") from None
    if not math.isfinite(number) or number != int(number):
        raise DataError(f"{name}: expected a whole number, found '{value}'")
    if abs(number) > FAR:
        raise DataError(f"{name}: expected at most {FAR:,}, found '{value}'")
    return int(number)
