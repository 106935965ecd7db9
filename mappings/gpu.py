"""How a kernel is laid on a GPU: tiles, warps, what is skipped; and what the compiler made of it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from einsum_cascade.errors import MappingError, nearest

from .caches import CacheCopy, cache_copies
from .grids import Grid, Text, check_parameters
from .reader import build, read_yaml
from .tiles import PerScore, TileMapping, require_order

LIBRARY = Path(__file__).parent / "library" / "gpu"


@dataclass(frozen=True, slots=True)
class KernelMapping:
    """A kernel as somebody implemented it: its tiles and the habits that change its time.

    Attributes:
        implementations: patterns (`*` matches anything) of the names that measured tables use.
        pack: the query heads that share a key head are rows of one tile.
        skips_window: tiles outside the window are not visited.
        skips_causal: tiles above the diagonal are not visited.
        split_keys: few query tiles are spread over the chip by splitting the keys (split-KV decode).
        split_slots: blocks an SM that the host plans for: keys are split into as many parts as fit there; zero where
            the kernel decides, by how full its waves are.
        split_least: keys of a part at the least in that plan.
        overlaps: products and softmax of a block run at the same time, in turns of its warp groups or stages.
        narrow: targets on which queries are brought to the type of a narrower cache and the products run in it.
        reads_given: the kernel reads the keys that the call brings, in the queries' type, and not the cache.
        appends: the timed call also copies the new keys and values into the cache.
        copies: how it does that; the first that serves the target is taken.
        order: in which order blocks are handed out.
        hides_ends: a block's first loads and last stores run beside the products of another block.
        mask_factor: cost of a tile that needs its mask, in full tiles.
        window_cycles: what the mask of a window adds to a visited tile, in cycles per score, before anything overlaps.
        walk_cycles: cost of a tile outside the window that the kernel walks over without its products, in cycles per
            score; zero where the loop starts at the window.
        chosen_on: data that the tiles or habits were chosen with after looking at it; empty where they come from
            the source of the kernel alone.
        launches: kernels that one call starts.
        score_bytes: bytes of each score that pass through memory, summed over writes and reads; zero where fused.
        mask_passes: what applying a causal mask moves more, as a part of `score_bytes`.
        remark: what a reader of the prediction has to know.
        runs_on: targets whose instructions it is written for; empty where its source is compiled for any.
        aliases: other names of the kernel.
        family: the mapping whose measured constants say the most about this one, where that is another: the same
            compiler and habits, other tiles.
        sole: the kernel has this one layout, whatever an implementation calls itself.
        compiled: names under which the tables of compiled resources hold it, "kernel" or "kernel/part", the first
            that holds a tile first; `compiled_backward` likewise.
        modifications: of the scores, as the last word of an implementation's name has them: a forward pass takes the
            tile that the tables hold for "kernel/causal word", and its resources.
        widths: head dimensions that its tiles are as wide as; another one is padded to the next. Empty where its tiles
            are as wide as any head.
        grids: in place of score tiles, for a kernel of another shape: its launches one after another.
        parameters: sizes that a call may leave out, each a number or an expression over those before it; of a word or
            size of every call (`causal`, `head_dim`), the one value that the kernel has where no expression reads it.
        needs: what the sizes have to be, in words, each with an expression that is then zero or more.
        autotuned: a call takes the fastest of the tiles that serve it.
        useful: operations of a call as measured tables count them, where there are grids; zero for all their products.
    """

    name: str
    kernel: str
    implementations: tuple[str, ...]
    source: str
    tiles: tuple[TileMapping, ...] = ()
    summary: str = ""
    pack: bool = False
    skips_window: bool = True
    skips_causal: bool = True
    split_keys: bool = False
    split_slots: int = 0
    split_least: int = 128
    overlaps: bool = True
    narrow: tuple[str, ...] = ()
    reads_given: bool = False
    appends: bool = False
    copies: tuple[CacheCopy, ...] = ()
    order: str = "longest_first"
    hides_ends: bool = False
    mask_factor: float = 1.0
    window_cycles: float = 0.0
    walk_cycles: float = 0.0
    per_score: PerScore = field(default_factory=PerScore)
    backward: PerScore = field(default_factory=lambda: PerScore(10.0, 1.0, 4.0, 2.0, 5.0))
    chosen_on: str = ""
    launches: int = 1
    score_bytes: float = 0.0
    mask_passes: float = 0.0
    remark: str = ""
    runs_on: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    family: str = ""
    sole: bool = False
    compiled: tuple[str, ...] = ()
    compiled_backward: tuple[str, ...] = ()
    modifications: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    grids: tuple[Grid, ...] = ()
    parameters: Mapping[str, Text] = field(default_factory=dict, hash=False)
    needs: Mapping[str, Text] = field(default_factory=dict, hash=False)
    useful: Text = 0.0
    autotuned: bool = False

    def __post_init__(self) -> None:
        if not self.tiles and not (self.grids and all(g.compiled for g in self.grids)):
            raise ValueError("tiles: expected at least one, or grids that say where they are compiled")
        if self.launches < 1 or min(self.score_bytes, self.mask_passes) < 0:
            raise ValueError("launches, score_bytes, mask_passes: expected numbers of at least 1, 0, 0")
        if self.split_slots < 0 or self.split_least < 1:
            raise ValueError("split_slots, split_least: expected numbers of at least 0 and 1")
        if list(self.widths) != sorted(set(self.widths)) or (self.widths and self.widths[0] < 1):
            raise ValueError(f"widths: expected numbers from 1 that rise, found {list(self.widths)}")
        require_order(self.order)
        check_parameters(self.parameters)

    def of_tile(self, tile: TileMapping) -> KernelMapping:
        """Return the mapping with the habits of the kernel that takes this tile."""
        own = {"pack": tile.pack, "order": tile.order}
        changed: dict[str, Any] = {name: word for name, word in own.items() if word is not None}
        return replace(self, **changed) if changed else self

    def products(self, *, target: str, dtype: str, kv_dtype: str) -> str:
        """Return the operand type of the products: that of the queries, or of a narrower cache.

        >>> find_kernel_mapping("flash_attention", "trtllm-1.3.0:torch_flow").products(
        ...     target="sm_90", dtype="bf16", kv_dtype="fp8"
        ... )
        'fp8'
        """
        return kv_dtype if kv_dtype.startswith("fp8") and target in self.narrow else dtype

    def width(self, head_dim: int) -> int:
        """Return the columns of the kernel's tiles for a head dimension; beyond the widest, as many as it has.

        >>> [find_kernel_mapping("flash_attention", "fa3").width(n) for n in (64, 80, 96, 128, 160)]
        [64, 96, 96, 128, 192]
        """
        return next((w for w in self.widths if w >= head_dim), head_dim)

    def copy(self, target: str) -> CacheCopy:
        """Return how the kernel's framework copies into the cache on a target."""
        return next((c for c in self.copies if not c.targets or target in c.targets), CacheCopy())

    def tile(self, **kind: Any) -> TileMapping:
        """Return the tile that the kernel, or one of its launches, takes for a call; arguments as of `tiles_for`.

        Raises:
            MappingError: the kernel has no tile for it.
        """
        return self.tiles_for(**kind)[0]

    def tiles_for(self, *, head_dim: int, target: str, dtype: str, **kind: Any) -> list[TileMapping]:
        """Return every tile that serves a call, the kernel's own choice first; arguments as of `TileMapping.serves`.

        Raises:
            MappingError: there is none.
        """
        wide = self.width(head_dim)
        found = [t for t in self.tiles if t.serves(head_dim=wide, target=target, dtype=dtype, **kind)]
        if found:
            return found
        raise MappingError(
            f"{self.name}: no tile for head_dim {head_dim}, {dtype} on {target}; expected "
            f"{self._served(target=target, dtype=dtype, **kind)}"
        )

    def _served(self, *, target: str, dtype: str, **kind: Any) -> str:
        """Return what the tiles are for, in words: head dimensions on a target, or the types or targets that are."""
        here = [t for t in self.tiles if not t.targets or target in t.targets]
        if not here:
            return "a GPU of " + " or ".join(sorted({name for t in self.tiles for name in t.targets}))
        if all(t.dtypes and dtype not in t.dtypes for t in here):
            return " or ".join(sorted({name for t in here for name in t.dtypes}))
        like = [t for t in here if t.serves(head_dim=t.head_dim, target=target, dtype=dtype, **kind)]
        return f"a head_dim up to {max(t.head_dim for t in like or here)}"


def read_kernel_mapping(path: str | Path) -> KernelMapping:
    """Return the kernel mapping of a file.

    Raises:
        MappingError: missing, malformed, or not of `kind: gpu`.
    """
    documents = read_yaml(path)
    data = dict(documents[0]) if isinstance(documents[0], dict) else {}
    if len(documents) != 1 or data.pop("kind", None) != "gpu":
        raise MappingError(f"{path}: kind: expected one document of 'kind: gpu'")
    return build(KernelMapping, data, where=str(path))


@functools.cache
def kernel_mappings() -> tuple[KernelMapping, ...]:
    """Return every kernel mapping of the library, by name."""
    return tuple(read_kernel_mapping(path) for path in sorted(LIBRARY.glob("*.yaml")))


@functools.cache
def find_kernel_mapping(kernel: str, implementation: str) -> KernelMapping:
    """Return the mapping of an implementation of a kernel.

    The longest pattern that fits the implementation's name wins. How the new keys get into the cache is a habit of
    the framework, in a table of its own.

    Raises:
        MappingError: no such kernel, or none of its mappings serves the implementation.

    >>> find_kernel_mapping("flash_attention", "vllm-0.24.0:vllm_flash_attn_fa3").name
    'flash_attention_3_paged'
    """
    served = [m for m in kernel_mappings() if kernel in (m.kernel, *m.aliases)]
    if not served:
        raise MappingError(f"unknown kernel '{kernel}'; {_nearest_kernel(kernel)}")
    fits = [
        (len(p.strip("*")), m) for m in served for p in m.implementations if fnmatchcase(implementation, p)
    ]
    if not fits:
        raise MappingError(
            f"{kernel}: unknown implementation '{implementation}'; {nearest(implementation, _words(served))}"
        )
    found = max(fits, key=lambda pair: pair[0])[1]
    if (word := implementation.rpartition(" ")[2]) in found.modifications:
        from .compiled import with_modified  # reads mappings itself

        found = with_modified(found, word)
    if not found.appends or found.copies:
        return found
    return replace(found, copies=tuple(c for p, c in cache_copies() if fnmatchcase(implementation, p)))


@functools.cache
def kernel_names() -> tuple[str, ...]:
    """Return every kernel that the library lays on a GPU.

    >>> "flash_attention" in kernel_names()
    True
    """
    return tuple(sorted({name for m in kernel_mappings() for name in (m.kernel, *m.aliases)}))


def is_described(implementation: str, mapping: KernelMapping) -> bool:
    """Return whether a mapping names an implementation, rather than serving every name there is."""
    return any(p != "*" and fnmatchcase(implementation, p) for p in (mapping.name, *mapping.implementations))


# Its time depends on layouts, strides and tile pairs, which are no sizes of a call.
_ELSEWHERE = {
    "neighborhood_attention": "`cascade gna-tune` and `simulator.tune_gna` predict it",
}


def _nearest_kernel(kernel: str) -> str:
    """Return the closest name where there is one, and in any case all of them."""
    if kernel in _ELSEWHERE:
        return _ELSEWHERE[kernel]
    legal = kernel_names()
    every = f"can be predicted: {', '.join(legal)}"
    hint = nearest(kernel, legal)
    return f"{hint}; {every}" if hint.startswith("did you mean") else every


def _words(mappings: Iterable[KernelMapping]) -> list[str]:
    return [p for m in mappings for p in (m.name, *m.implementations) if "*" not in p]
