"""What the FuseMax artifact does besides its model: each quirk as data, and the accounting that applies it.

Nothing here is known to the simulator. A run "as published" takes the simulator's nests and access counts, applies the
quirks, and lets the simulator add up energy, traffic and time again; a "corrected" run applies none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

from simulator.result import Estimate
from simulator.spatial.access import Usage, words
from simulator.spatial.energy import actions, summed
from simulator.spatial.lowering import with_nests
from simulator.spatial.model import Plan, assemble, count_all, gathered
from simulator.spatial.nest import Loop, Nest, Operand, SizeTable
from simulator.spatial.programs import loops_within, tile_of
from simulator.spatial.spill import spilled

_SIZE_T = 2**64


@dataclass(frozen=True, slots=True)
class Quirks:
    """Which quirks are on; the text of each is in `WHAT`."""

    wrap: bool = True
    one_register_file: bool = True
    no_exp_energy: bool = True
    two_cycle_exp: bool = True
    small_tile: bool = True
    missing_ranks: bool = True
    missed_tile: bool = True
    deep_gemm_registers: bool = True
    placeholder_areas: bool = True


AS_PUBLISHED = Quirks()
# The four errors of bookkeeping put right, the artifact's own problem files and choices of tile left as they are.
CORRECTED = Quirks(wrap=False, one_register_file=False, no_exp_energy=False, missed_tile=False)
# No quirk at all: what `cascade simulate` says.
SIMULATED = Quirks(**{f.name: False for f in fields(Quirks)})

WHAT: Mapping[str, str] = {
    "wrap": "Timeloop sizes the partitions of an output as partition * tile / span in 64 bits; from 64K tokens on the "
    "product wraps, first reads are no longer left out, and outputs seem to be read once too often",
    "one_register_file": "register-file counts are those of one element, functional-unit counts those of all",
    "no_exp_energy": "+Cascade looks up 'exponential' in a table that says 'exponentiatial': its energy is lost",
    "two_cycle_exp": "+Cascade takes subtraction and exponential one after another, FLAT pipelines them on that array",
    "small_tile": "+Cascade tiles for a buffer of 16 MiB and is charged for one of 32 MiB",
    "missing_ranks": "sld.yaml leaves the inner key rank off its input, slnv.yaml the key-block rank off its output",
    "missed_tile": "the random search of the unfused baseline found a quarter of the best tile at 256K",
    "deep_gemm_registers": "the projections on FuseMax's chip run with 16-entry register files, attention with 12",
    "placeholder_areas": "wires and pins enter the area as 1 um^2 each",
}

# (Einsum, tensor) -> the rank variable that the artifact's problem file leaves off
MISSING_RANKS: Mapping[tuple[str, str], str] = {("SLD", "SLN"): "m0", ("SLNV", "SLNV"): "m1"}
SMALL_TILE_BUFFER = "16 MiB"
# lengths at which the published search of the unfused baseline ended on a smaller tile, and by which factor
MISSED_TILE: Mapping[int, int] = {2**18: 4}
GEMM_REGISTERS = 16


def account(
    settled: Plan,
    quirks: Quirks,
    *,
    dropped_units: Iterable[str] = (),
) -> Estimate:
    """Return the estimate of a plan under some quirks.

    Args:
        settled: the plan as the simulator made it.
        quirks: which of them are on.
        dropped_units: functional units whose energy is lost.
    """
    if quirks.missing_ranks:
        layout = settled.layout
        settled = replace(settled, layout=with_nests(layout, map(_without_ranks, layout.nests)))
    usages = count_all(settled)
    if quirks.wrap:
        whole = count_all(replace(settled, spills={}))
        usages = [_repaired(u) for u in spilled(_wrapped(settled, whole), settled.chip, settled.spills)]
    charged = [u._replace(instances=1) for u in usages] if quirks.one_register_file else usages
    lost = frozenset(dropped_units)
    acts = actions(settled.chip, settled.layout.nests, charged, settled.sizes)
    kept = summed(a for a in acts if a.subject not in lost)
    return assemble(settled, gathered(usages), kept)


def _without_ranks(nest: Nest) -> Nest:
    def cut(operand: Operand) -> Operand:
        gone = MISSING_RANKS.get((nest.einsum, operand.tensor))
        kept = tuple(d for d in operand.dimensions if all(v != gone for v, _ in d.terms))
        return replace(operand, dimensions=kept)

    return replace(nest, operands=tuple(cut(o) for o in nest.operands))


def _repaired(usage: Usage) -> Usage:
    """Return what spills without the reads that seem to come with every update: the artifact's own repair."""
    return usage._replace(reads=0) if usage.spilled_from and usage.reads == usage.updates else usage


def _wrapped(settled: Plan, usages: Iterable[Usage]) -> Iterable[Usage]:
    nests = {n.einsum: n for n in settled.layout.nests}
    for usage in usages:
        if not usage.operand.output:
            yield usage
            continue
        nest = nests[usage.einsum]
        level = [at.memory for at in nest.levels].index(usage.memory)
        first = wrapped_first_reads(nest, usage.operand, settled.sizes)[level]
        shift = usage.elided - first
        wrapped = usage._replace(
            reads=usage.reads + shift,
            fills=0 if usage.outermost else usage.fills + shift,
            elided=first,
        )
        if usage.memory == settled.chip.outermost and wrapped.reads == wrapped.updates:
            wrapped = wrapped._replace(reads=0)  # the artifact's own repair, at DRAM only
        yield wrapped


def wrapped_first_reads(nest: Nest, operand: Operand, sizes: SizeTable) -> tuple[int, ...]:
    """Return, by level, the first reads that 64-bit arithmetic finds for an output.

    Timeloop walks inwards and computes partition * tile / span at every level; each axis of a fan-out is a level.
    """
    within = loops_within(nest.levels)

    def tile(loops: Mapping[str, tuple[str, ...]]) -> int:
        return int(words(tile_of(operand, loops), sizes))

    partition = tile(within[0])
    out = [partition]
    for i in range(1, len(nest.levels)):
        fan_out = list(nest.levels[i - 1].fan_out)
        while fan_out:
            span = tile(_with(within[i], fan_out))
            fan_out.pop(0)
            partition = partition * tile(_with(within[i], fan_out)) % _SIZE_T // span
        own = tile(within[i])
        partition = partition * own % _SIZE_T // own
        out.append(partition)
    return tuple(out)


def _with(loops: Mapping[str, tuple[str, ...]], fan_out: Iterable[Loop]) -> dict[str, tuple[str, ...]]:
    out = dict(loops)
    for loop in fan_out:
        out[loop.variable] = (*out.get(loop.variable, ()), loop.part)
    return out
