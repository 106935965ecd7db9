"""The GPU tile simulator's face: one call of a kernel on a device -> latency with its interval and its reasons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from einsum_cascade.cascade import Cascade
from einsum_cascade.errors import MappingError, nearest
from mappings.compiled import with_compiled
from mappings.gpu import KernelMapping, find_kernel_mapping, is_described, kernel_names, read_kernel_mapping
from mappings.tiles import TileMapping

from ..hardware.gpu import Gpu, find_gpu, gpu_of
from ..hardware.reader import names
from .calibration import Key, made, prior, shipped, uncalibrated, unknown
from .call import Call
from .efficiency import Efficiency, Times, memory_remarks, times
from .energy import constants, energy_names, power
from .fitting import Group, furthest, together
from .intervals import interval, kind_of, with_interval
from .launch import Launch, launch
from .likeness import joint
from .loops import CHAIN_CYCLES, TRIP_CYCLES, lay_grids
from .masks import Mask, masked_sizes
from .measured_rows import MeasuredRow, alike_rows, calibration_rows, is_own
from .occupancy import occupancy
from .prediction import Prediction
from .sizes import call_of

Floats = NDArray[np.float64]

# By which an autotuned kernel's tiles are compared before its own constants are known.
_TYPICAL = Efficiency(0.7)


def predict(
    kernel: str,
    *,
    on: str | Gpu,
    implementation: str = "triton",
    calibration: Efficiency | str | Path | None = None,
    mapping: KernelMapping | str | Path | None = None,
    tile: TileMapping | None = None,
    cascade: Cascade | None = None,
    **sizes: Any,
) -> Prediction:
    """Return the predicted latency of one kernel call, with its interval.

    Args:
        kernel: for example "flash_attention"; "flash_attention_gradients" is its forward and its backward pass, where
            `direction` says nothing else.
        on: a device by name or alias, or a `Gpu`.
        implementation: a name that measured tables use; it chooses tiles and constants.
        calibration: an efficiency, or a measured table whose rows of this device, implementation, head_dim and dtype
            calibrate, together with what rows of its other kernels and sizes on this device tell; None takes the
            shipped constants. Rows of a GPU of the library are of what the library says of it, whatever `on` changes.
        mapping: how the kernel is laid out, in place of the library's; `tile` replaces its tile.
        cascade: its `where` says which scores there are, in place of `causal` and `window`.
        **sizes: of the call: batch, heads, kv_heads, seq_q, seq_kv, head_dim, causal, window, dtype, kv_dtype,
            direction; and those ranks of the cascade that its mask needs beside them.

    Raises:
        ModelError: an unknown device, kernel, implementation or size.

    >>> p = predict("flash_attention", on="h100", batch=4, heads=32, seq_q=8192, seq_kv=8192, head_dim=128, causal=True)
    >>> p.low_s < p.latency_s < p.high_s, p.tiles["skipped"]
    (True, 258048)
    """
    gpu = gpu_of(on)
    if mapping is None:
        kernel, sizes = of_gradients(kernel, sizes)
    laid = _mapping(kernel, implementation, mapping)
    mask = None
    if cascade is not None:
        if laid.grids:
            raise MappingError(
                f"{laid.name}: expected a kernel of tiles of scores; it takes no mask of a cascade"
            )
        mask, sizes = masked_sizes(cascade, sizes)
    call = replace(call_of(laid, sizes), mask=mask)
    parts = ("fwd", "bwd") if call.direction == "fwdbwd" else (call.direction,)
    efficiencies = [
        _efficiency(call, gpu, laid, implementation, calibration, kernel=kernel, direction=d) for d in parts
    ]
    launches = [
        lay([call], gpu, mapping=laid, tile=tile, direction=d, by=e)
        for d, e in zip(parts, efficiencies, strict=True)
    ]
    results = [times(each, e) for each, e in zip(launches, efficiencies, strict=True)]
    return _prediction(
        launches, efficiencies, results, mask=mask, warnings=_warnings(implementation, laid, gpu)
    )


def lay(
    calls: list[Call],
    gpu: Gpu,
    *,
    mapping: KernelMapping,
    tile: TileMapping | None = None,
    direction: str = "fwd",
    by: Efficiency = _TYPICAL,
) -> Launch:
    """Return calls of one kind laid on a GPU with the tile that the kernel takes for them.

    Args:
        by: the constants by which the fastest tile of an autotuned kernel is found, one for all calls.
    """
    first = calls[0]
    kind: dict[str, Any] = {
        "head_dim": first.head_dim,
        "target": gpu.target,
        "dtype": mapping.products(target=gpu.target, dtype=first.dtype, kv_dtype=first.kv_dtype),
        "causal": first.causal,
        "window": first.windowed,
        "direction": direction,
    }
    if mapping.autotuned and tile is None:
        tried = [
            lay(calls, gpu, mapping=mapping, tile=each, direction=direction)
            for each in mapping.tiles_for(**kind)
        ]
        return min(tried, key=lambda laid: float(times(laid, by).latency_s.sum()))
    if mapping.grids:
        return lay_grids(calls, gpu, mapping=mapping, tile=tile)
    chosen = with_compiled(mapping, tile or mapping.tile(**kind), **kind)
    return launch(calls, gpu, mapping=mapping, tile=chosen, direction=direction)


def key_of(call: Call, gpu: Gpu, mapping: KernelMapping, implementation: str, direction: str = "fwd") -> Key:
    """Return what an efficiency of this call belongs to."""
    kv = call.kv_dtype or call.dtype
    products = mapping.products(target=gpu.target, dtype=call.dtype, kv_dtype=kv)
    # What costs a gradient of attention more than the attention, its blocks above all, costs a grid nothing: it says
    # itself what its blocks do.
    of_call = (call.head_dim, call.dtype, kv, "fwd" if mapping.grids else direction, products)
    return Key(gpu.name, gpu.target, mapping.family or mapping.name, implementation, *of_call)


def as_wide(key: Key, mapping: KernelMapping) -> Key:
    """Return the key whose constants say the most: that of the head dimension to which the kernel pads."""
    return replace(key, head_dim=mapping.width(key.head_dim))


def of_gradients(kernel: str, sizes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the kernel whose gradients are asked for and the direction; a kernel of its own as it is."""
    forward = str(kernel).removesuffix("_gradients")
    if forward == kernel or kernel in kernel_names() or forward not in kernel_names():
        return kernel, sizes
    return forward, {"direction": "fwdbwd"} | sizes


def _mapping(kernel: str, implementation: str, given: KernelMapping | str | Path | None) -> KernelMapping:
    if given is None:
        return find_kernel_mapping(kernel, implementation)
    return given if isinstance(given, KernelMapping) else read_kernel_mapping(given)


def _efficiency(
    call: Call,
    gpu: Gpu,
    mapping: KernelMapping,
    implementation: str,
    given: Efficiency | str | Path | None,
    *,
    kernel: str,
    direction: str,
) -> Efficiency:
    if isinstance(given, Efficiency):
        return given
    key = key_of(call, gpu, mapping, implementation, direction)
    kind = kind_of(mapping, direction)
    if given is None:
        guess = uncalibrated(prior(as_wide(key, mapping)), kind=kind)
        if mapping.grids:
            return unknown(guess, of="kernel")
        return unknown(guess) if _unnamed(implementation, mapping) else guess
    kernels = (kernel, mapping.kernel, *mapping.aliases)
    rows = calibration_rows(
        given,
        kernels=kernels,
        key=key,
        direction=direction,
        call_of=lambda sizes, remarks: call_of(mapping, sizes, remarks=remarks),
    )
    own = [r for r in rows if is_own(r, key)]
    source = f"calibrated on {len(own)} row(s) of {Path(given).name}"
    if len(rows) > len(own):
        source += f", {len(rows) - len(own)} of its other kernels and sizes beside them"
    groups = _groups(rows, _as_measured(gpu), {implementation: mapping}, first=key)
    found = together(groups, known=joint([g.key for g in groups]))
    fitted = with_interval(made(np.exp(found[0])), state="measured", kind=kind)
    if (worst := furthest(groups[0], fitted)) > 1 + fitted.spread:
        source += f"; misses its own rows by a factor of up to {worst:.2g}"
    return replace(fitted, source=source)


def _as_measured(gpu: Gpu) -> Gpu:
    """Return the GPU on which rows of its name were measured: the library's, whatever has been changed of it here."""
    return find_gpu(gpu.name) if gpu.name in names("gpu") else gpu


def _groups(
    rows: list[MeasuredRow], gpu: Gpu, mappings: dict[str, KernelMapping], *, first: Key
) -> list[Group]:
    """Return the rows laid on a GPU, by key; rows of other implementations where the library can lay them."""
    laid: dict[Key, list[tuple[Launch, Floats]]] = {first: []}
    for alike in alike_rows(rows):
        name, call = alike[0].implementation, alike[0].call
        try:
            mapping = mappings.get(name) or find_kernel_mapping(alike[0].kernel, name)
            # A step of a grid may depend on any size, an autotuned tile too.
            each = [[r] for r in alike] if mapping.grids or mapping.autotuned else [alike]
            found = [
                lay([r.call for r in some], gpu, mapping=mapping, direction=first.direction) for some in each
            ]
        except MappingError:
            if name in mappings:
                raise
            continue
        seconds = [np.array([r.seconds for r in some]) for some in each]
        key = key_of(call, gpu, mapping, name, first.direction)
        laid.setdefault(key, []).extend(zip(found, seconds, strict=True))
    return [Group(key, tuple(x for x, _ in pairs), tuple(s for _, s in pairs)) for key, pairs in laid.items()]


@cache
def _measured(mapping: str) -> frozenset[str]:
    """Return the implementations of a mapping that the shipped table has constants of."""
    return frozenset(e.key.implementation for e in shipped() if e.key.mapping == mapping)


def _unnamed(implementation: str, mapping: KernelMapping) -> bool:
    """Tell whether neither a mapping nor the shipped table names an implementation."""
    named = is_described(implementation, mapping) or implementation in _measured(mapping.name)
    return not (mapping.sole or named)


def _warnings(implementation: str, mapping: KernelMapping, gpu: Gpu) -> tuple[str, ...]:
    """Return what to tell somebody whose implementation nobody knows, or does not run on his GPU."""
    out = []
    if _unnamed(implementation, mapping):
        words = {
            w for e in shipped() for w in (e.key.implementation, e.key.implementation.partition(":")[2]) if w
        }
        out.append(
            f"implementation '{implementation}' is not known; {nearest(implementation, words)}; "
            f"tiles of {mapping.name} and the constants of its neighbours, with the widest interval"
        )
    if mapping.runs_on and gpu.target not in mapping.runs_on:
        out.append(
            f"{mapping.name} is written for {' and '.join(mapping.runs_on)}; it does not run on {gpu.name} "
            f"({gpu.target}), and the time is that of such tiles there, if they ran"
        )
    return tuple(out)


def _prediction(
    launches: list[Launch],
    efficiencies: list[Efficiency],
    results: list[Times],
    *,
    mask: Mask | None = None,
    warnings: tuple[str, ...] = (),
) -> Prediction:
    latency = sum(float(t.latency_s[0]) for t in results)
    widest = max(efficiencies, key=lambda e: e.spread)
    low, high = interval(latency, widest)
    main = _longest(launches[-1], results[-1]) if launches[-1].then else launches[-1]
    energy, spread = _energy(launches, results)
    useful = sum(float(each.flops[0]) for each in launches)
    parts = {
        "launch": sum(
            e.launch_s * laid.mapping.launches for e, laid in zip(efficiencies, launches, strict=True)
        ),
        "append": sum(float(t.append_s[0]) for t in results),
        "memory": sum(float(t.memory_s[0]) for t in results),
        "compute": sum(float(t.compute_s[0]) for t in results),
    }
    return Prediction(
        latency_s=latency,
        low_s=low,
        high_s=high,
        tflops=useful / latency / 1e12,
        bound_by=_bound_by(main, parts, efficiencies[-1]),
        tiles=_tiles(launches),
        waves=float(main.blocks[0] / main.slots[0]),
        scalar=efficiencies[-1].scalar,
        scalar_source=widest.source,
        roofline_s=sum(float(t.roofline_s[0]) for t in results),
        parts_s=parts,
        pipes_cycles=dict(main.tile_times.pipes),
        resources=_resources(main),
        power_w=energy / latency,
        energy_j=energy,
        energy_low_j=energy * (1 - spread) * low / latency,
        energy_high_j=min(energy / latency * (1 + spread), main.gpu.board_power_w) * high,
        assumptions=(*warnings, *_of_mask(mask), *_assumptions(main)),
        warnings=warnings,
        launches=tuple(_steps(launches, results, efficiencies)) if main.name else (),
    )


def _longest(laid: Launch, found: Times) -> Launch:
    """Return the launch of a call that takes the longest."""
    each = (laid, *laid.then)
    return each[max(range(len(each)), key=lambda i: float(found.launches[i][0][0]))]


def _steps(
    launches: list[Launch], results: list[Times], efficiencies: list[Efficiency]
) -> Iterator[dict[str, Any]]:
    """Yield what there is to tell of each launch of a kernel that is described by its launches."""
    for first, found, efficiency in zip(launches, results, efficiencies, strict=True):
        for laid, seconds in zip((first, *first.then), found.launches, strict=True):
            busy, compute, memory, _ = (float(s[0]) for s in seconds)
            yield {
                "name": laid.name,
                "blocks": int(laid.blocks[0]),
                "steps": int(laid.counts[:2, 0].sum()),
                "blocks_per_sm": laid.most,
                "waves": float(laid.blocks[0] / laid.slots[0]),
                "bound_by": _bound_by(laid, {"memory": memory, "compute": compute}, efficiency),
                "latency_s": busy,
                "bytes": float(laid.bytes_moved[0]),
            }


def _energy(launches: list[Launch], results: list[Times]) -> tuple[float, float]:
    """Return the joules of a call and the relative half-width of its power's interval."""
    found = [power(laid, t.latency_s) for laid, t in zip(launches, results, strict=True)]
    return sum(float(p.energy_j[0]) for p in found), max(p.spread for p in found)


def _bound_by(laid: Launch, parts: Mapping[str, float], efficiency: Efficiency) -> str:
    largest = max(parts, key=lambda name: parts[name])
    if largest != "compute":
        return "memory" if largest == "append" else largest
    if laid.blocks[0] < laid.gpu.sms:
        return "waves"
    if laid.chain_cycles:
        clock = laid.gpu.clock_hz
        alone_s = laid.tile_times.seconds(clock, efficiency.scalar, share=laid.port_share)
        tile_s = alone_s * float(laid.crowding[0])
        if laid.chain_cycles / clock > tile_s:
            return "chain"
    return laid.tile_times.bound_by


def _tiles(launches: list[Launch]) -> dict[str, int]:
    laid = [*launches, *(one for each in launches for one in each.then)]
    full, masked, skipped = (int(n) for n in sum([one.counts[:, 0] for one in laid], np.zeros(3)))
    return {"full": full, "masked": masked, "skipped": skipped}


def _resources(laid: Launch) -> dict[str, Any]:
    tile, made = laid.tile, laid.tile.resources
    out: dict[str, Any] = {"query": tile.query, "key": tile.key, "warps": tile.warps, "stages": tile.stages}
    if made is None:
        return {
            **out,
            "blocks_per_sm": tile.blocks_per_sm,
            "limited_by": "not compiled",
            "resources": "estimated",
            "source": laid.mapping.source,
        }
    held = occupancy(laid.gpu, made, warps=tile.warps)
    return {
        **out,
        "registers": made.registers,
        "shared_bytes": made.shared_bytes,
        "spill_bytes": made.spill_bytes,
        "stack_bytes": made.stack_bytes,
        "blocks_per_sm": held.blocks,
        "limited_by": held.limited_by,
        "resources": f"compiled {made.made_by}",
        "source": made.made_by,
    }


def _of_mask(mask: Mask | None) -> tuple[str, ...]:
    if mask is None:
        return ()
    return (f"the kernel skips tiles outside the mask of {mask.name}: tile and constants of the dense one",)


def _assumptions(laid: Launch) -> tuple[str, ...]:
    out = [f"{laid.gpu.name}: {word} assumed" for word in laid.gpu.assumed]
    if laid.chain_cycles:
        out.append(
            f"a step takes {laid.chain_cycles:.0f} cycles at the least, {CHAIN_CYCLES:.0f} for each product that waits "
            f"for the one before, {TRIP_CYCLES:.0f} for what it waits for from memory: microbenchmarks of other GPUs"
        )
    made = laid.tile.resources
    if made and made.loop and made.loop.local:
        out.append(
            f"the compiled loop spills: {made.loop.local} instructions on a stack of {made.stack_bytes:,} bytes"
        )
    if laid.mapping.chosen_on:
        out.append(f"{laid.mapping.name}: tiles chosen after looking at {laid.mapping.chosen_on}")
    if laid.mapping.remark:
        out.append(f"{laid.mapping.name}: {laid.mapping.remark}")
    out += memory_remarks(laid)
    table = constants()
    out += [
        f"energy of {name}: {table[name].source}" for name in energy_names(laid.gpu) if table[name].assumed
    ]
    return tuple(out)
