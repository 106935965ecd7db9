"""Energy and area of a component from its attributes: the tables, and a marked interpolation where they end.

Energies per access are kept to 1e-6 pJ, as the energy reference tables of Accelergy are, so that figures computed
from those tables come out the same to the last digit.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from einsum_cascade.errors import HardwareError, nearest

_PJ, _UM2_PER_MM2 = 1e-12, 1e6


@dataclass(frozen=True, slots=True)
class Cost:
    """Energy of one read and one write (of one operation, for a unit), and area of one instance.

    Attributes:
        assumption: what was assumed because the tables do not say; empty where they do.
    """

    read_j: float
    write_j: float
    area_mm2: float
    assumption: str = ""


@functools.lru_cache(maxsize=4096)
def cost(component: str, *, row_bits: float = 0, rows: float = 0, kind: str = "", node_nm: int = 45) -> Cost:
    """Return energy and area of a component.

    Args:
        component: `dram`, `sram`, `registers`, `wires`, or a functional unit such as `mac`.
        row_bits: what one access moves.
        rows: number of rows; unused for `dram` and units.
        kind: row of the table of the component, for `dram`.
        node_nm: technology node.

    Raises:
        HardwareError: an unknown component, kind or node.

    >>> round(cost("sram", row_bits=4096, rows=32768).read_j * 1e12, 6)
    12512.760572
    >>> cost("mac").area_mm2
    0.001545
    """
    if component == "wires":
        return Cost(0.0, 0.0, 0.0)
    if component == "dram":
        return _dram(kind, row_bits)
    if component == "registers":
        return _registers(rows, node_nm)
    if component == "sram":
        return _sram(row_bits, rows, node_nm)
    return _unit(component, node_nm)


def _table(name: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(f"tables/{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _pj(value: float) -> float:
    return round(value, 6) * _PJ


@functools.cache
def _units() -> dict[tuple[str, int], tuple[float, float]]:
    return {
        (r["unit"], int(r["node_nm"])): (float(r["energy_pj"]), float(r["area_um2"])) for r in _table("units")
    }


def _unit(name: str, node_nm: int) -> Cost:
    table = _units()
    if (name, node_nm) not in table:
        nodes = sorted({node for unit, node in table if unit == name})
        if nodes:
            raise HardwareError(f"{name}: no energy at {node_nm} nm; the table has {nodes}")
        known = {unit for unit, _ in table} | {"dram", "sram", "registers", "wires"}
        raise HardwareError(f"unknown component '{name}'; {nearest(name, known)}")
    energy, area = table[name, node_nm]
    return Cost(_pj(energy), _pj(energy), area / _UM2_PER_MM2)


def _dram(kind: str, row_bits: float) -> Cost:
    rows = {r["kind"]: r for r in _table("dram")}
    if kind not in rows:
        raise HardwareError(f"unknown kind of dram '{kind}'; {nearest(kind, rows)}")
    read, write = (float(rows[kind][column]) * row_bits for column in ("read_pj_per_bit", "write_pj_per_bit"))
    return Cost(_pj(read), _pj(write), 0.0)


@functools.cache
def _register_constants() -> dict[str, float]:
    return {r["quantity"]: float(r["value"]) for r in _table("registers")}


def _address(rows: float) -> tuple[float, float]:
    """Energy (pJ) and area (um^2) of the address generator of a memory of so many rows."""
    k = _register_constants()
    bits = math.ceil(math.log2(rows)) if rows > 1 else 0
    return k["address_base"] + k["address_bit"] * bits, k["address_area"] * bits


def _registers(depth: float, node_nm: int) -> Cost:
    if node_nm != 45:
        raise HardwareError(f"registers: no energy at {node_nm} nm; the table has [45]")
    k = _register_constants()
    address_pj, address_um2 = _address(depth)
    write = k["bits_switched"] * k["write"] + address_pj
    read = write + k["bits_read"] * k["read"]
    area = max(k["least_depth"], depth) * (k["bits_read"] * k["bit_area"] + k["word_area"]) + address_um2
    return Cost(_pj(read), _pj(write), area / _UM2_PER_MM2)


@dataclass(frozen=True, slots=True)
class _Sram:
    row_bits: float
    rows: float
    read_pj: float
    write_pj: float
    area_um2: float


@functools.cache
def _srams(node_nm: int) -> tuple[_Sram, ...]:
    columns = ("row_bits", "rows", "read_pj", "write_pj", "area_um2")
    return tuple(
        _Sram(*(float(r[c]) for c in columns)) for r in _table("sram") if int(r["node_nm"]) == node_nm
    )


def _sram(row_bits: float, rows: float, node_nm: int) -> Cost:
    table = _srams(node_nm)
    if not table:
        raise HardwareError(f"sram: no energy at {node_nm} nm")
    address_pj, address_um2 = _address(rows)
    for row in table:
        if (row.row_bits, row.rows) == (row_bits, rows):
            read, write, area, assumption = row.read_pj, row.write_pj, row.area_um2, ""
            break
    else:
        read, write, area = _between(table, row_bits, rows)
        kib = row_bits * rows / 8192
        assumption = (
            f"SRAM of {kib:g} KiB in rows of {row_bits:g} bits is not in the table: energy and area are interpolated "
            "between its neighbours, linearly in the logarithms of row width, rows and value (rows of the table "
            "that are left out come back within 6 % in the median, 33 % at worst)"
        )
    return Cost(
        _pj(read + address_pj), _pj(write + address_pj), (area + address_um2) / _UM2_PER_MM2, assumption
    )


def _between(table: Sequence[_Sram], row_bits: float, rows: float) -> tuple[float, float, float]:
    """Interpolate (beyond the table: extrapolate) log-linearly, first along the rows, then along the row width."""
    widths = sorted({r.row_bits for r in table})
    low, high = _bracket(widths, row_bits)
    at = [_along_rows([r for r in table if r.row_bits == w], rows) for w in (low, high)]
    return tuple(_log_line((low, a), (high, b), row_bits) for a, b in zip(*at, strict=True))  # type: ignore[return-value]


def _along_rows(column: Sequence[_Sram], rows: float) -> tuple[float, ...]:
    by_rows = {r.rows: r for r in column}
    low, high = _bracket(sorted(by_rows), rows)
    a, b = by_rows[low], by_rows[high]
    return tuple(
        _log_line((low, getattr(a, f)), (high, getattr(b, f)), rows)
        for f in ("read_pj", "write_pj", "area_um2")
    )


def _bracket(values: Sequence[float], x: float) -> tuple[float, float]:
    """Return the neighbours of x, or the outermost two where x lies beyond."""
    if len(values) == 1:
        return values[0], values[0]
    i = next((i for i, v in enumerate(values[1:-1], start=1) if x <= v), len(values) - 1)
    return values[i - 1], values[i]


def _log_line(a: tuple[float, float], b: tuple[float, float], x: float) -> float:
    if a[0] == b[0]:
        return a[1]
    slope = math.log(b[1] / a[1]) / math.log(b[0] / a[0])
    return float(a[1] * (x / a[0]) ** slope)


def tables() -> dict[str, list[dict[str, Any]]]:
    """Return every table of energies and areas, with the source of each row."""
    return {name: [dict(r) for r in _table(name)] for name in ("units", "dram", "registers", "sram")}
