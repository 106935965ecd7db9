"""A step of a compiled kernel on every GPU of the library: the simulator's numbers, and its time of a tile."""

from __future__ import annotations

import csv

import pytest

from kernels import probe, registry, report, steps, tuning
from kernels.aot import TARGETS, Resources
from kernels.sass import PIPES, Loop
from kernels.tileir import Work
from kernels.tiles import Tile
from mappings.compiled import with_compiled
from mappings.gpu import find_kernel_mapping
from simulator.gpu.occupancy import blocks_per_sm
from simulator.gpu.tile import l2_per_cycle, tile_time
from simulator.hardware.reader import library, load_hardware, names


@pytest.mark.parametrize("name", names("gpu"))
def test_every_gpu_of_the_library_is_taken_by_name_and_alias(name):
    """Its numbers are those that the simulator reads off the same file."""
    gpu, machine = load_hardware(name), steps.machine_of(name)
    aliases = [alias for alias, path in library().items() if path.stem == name]
    assert len(aliases) > 1
    assert {steps.machine_of(a) for a in (*aliases, *map(str.upper, aliases))} == {machine}
    assert machine.target == gpu.target
    assert steps.target_of(machine) in TARGETS
    rates = (
        machine.tensor_flops_per_cycle,
        machine.exp_per_cycle,
        machine.fma_per_cycle,
        machine.alu_per_cycle,
    )
    assert rates == (gpu.tensor.fp16, gpu.exp_per_cycle, gpu.fma_per_cycle, gpu.alu_per_cycle)
    assert machine.issue_per_cycle == gpu.issue_per_cycle
    assert machine.l2_bytes_per_cycle == pytest.approx(l2_per_cycle(gpu))
    assert machine.shared_bytes_per_cycle == gpu.shared_bytes_per_cycle
    held = (machine.registers, machine.register_granule, machine.warps, machine.blocks)
    assert held == (gpu.registers_per_sm, gpu.register_granule, gpu.max_warps, gpu.max_blocks)
    assert machine.shared_bytes_per_sm == gpu.shared_bytes_per_sm
    assert machine.shared_bytes_per_block == gpu.shared_bytes_per_block
    assert machine.shared_bytes_reserved == gpu.shared_reserved_bytes
    assert machine.tensor_memory_columns == gpu.tensor_memory_columns


def stored_attention(target):
    """Yield the stored 16-bit builds of attention."""
    for row in csv.DictReader(report.store_path().read_text().splitlines()):
        if (row["kernel"], row["dtype"], row["target"]) != ("flash_attention", "bf16", target):
            continue
        tile = Tile(*(int(row[n]) for n in ("block_m", "block_n", "warps", "stages")))
        head_dim = int(row["head_dim"])
        work = Work(float(row["step_product_flops"]), float(row["step_load_bytes"]))
        pipes = {p: int(row.get(f"loop_{p}") or 0) for p in (*PIPES, "other")}
        yield Resources(
            row["kernel"], row["variant"], target, "bf16", head_dim, tile, int(row["registers"]),
            int(row["shared_bytes"]), 0, (Loop(int(row["loop_instructions"]), pipes),), {"local": 0}, work=work,
            tensor_memory_columns=int(row["tensor_memory_columns"]),
        )  # fmt: skip


def busiest_of(r, machine):
    """Return what `kernels probe` says, which knows a generation alone."""
    alone = machine is steps.rates(TARGETS[r.target])
    return probe.assess(r).bound_by if alone else steps.busiest(steps.step_cycles(r, machine))


@pytest.mark.parametrize("name", ["a100", "rtx_3090", "h100", "h20", "b200", "gb300", "rtx_pro_6000"])
def test_a_step_takes_what_the_simulator_says_of_its_tile(name):
    """Pipe by pipe, and as products and exponentials follow each other; the L2 cache bounds neither."""
    gpu, machine = load_hardware(name), steps.machine_of(name)
    mapping = find_kernel_mapping("flash_attention", "triton-cascade")
    tried = 0
    for r in stored_attention(steps.target_of(machine)):
        if r.variant in registry.find("flash_attention").modified:
            continue  # an implementation of its own, with these rows and no others
        window = "window" in r.variant
        kind = {"head_dim": r.head_dim, "target": gpu.target, "dtype": "bf16", "causal": r.variant != "dense"}
        tile = mapping.tile(**kind, window=window)
        if (tile.query, tile.key, tile.warps, tile.stages) != (
            r.tile.block_m, r.tile.block_n, r.tile.warps, r.tile.stages
        ):  # fmt: skip
            continue
        tile = with_compiled(mapping, tile, **kind, window=window)
        said = tile_time(
            gpu,
            tile,
            head_dim=r.head_dim,
            dtype="bf16",
            per_score=mapping.per_score,
            overlaps=mapping.overlaps,
        )
        assert steps.step_cycles(r, machine) == pytest.approx(dict(said.pipes)), r
        ranked = tuning.judge(r, machine)
        scores = r.tile.block_m * r.tile.block_n
        assert ranked.cycles_per_kilo_unit == pytest.approx(1000 * max(said.bound, said.l2) / scores)
        assert ranked.bound_by == said.bound_by == busiest_of(r, machine)
        assert ranked.blocks_per_sm == blocks_per_sm(gpu, tile)
        tried += 1
    assert tried >= 3
