"""Energy and area of a component from its attributes: the tables, and marked derivations where they end.

A library is a set of figures of functional units that belong together: `accelergy` is what the FuseMax artifact uses,
`horowitz` what Horowitz published for 45 nm and Jouppi et al. for 7 nm; `hwcomponents` asks the libraries of that name
for memories, where they are installed. Nodes without a row are scaled from 45 nm (scaling.py). Energies per access are
kept to 1e-6 pJ, as the energy reference tables of Accelergy are, so that figures computed from those tables come out
the same to the last digit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from einsum_cascade.errors import HardwareError, nearest

from . import external, scaling
from .published import NAMES, table

_PJ, _UM2_PER_MM2 = 1e-12, 1e6
_BASE_LIBRARY = "accelergy"
_MOST = 2.0**50  # rows, and bits of a row: far beyond any memory, and far from where powers overflow


@dataclass(frozen=True, slots=True)
class Cost:
    """Energy of one read and one write (of one operation, for a unit), and area of one instance.

    Attributes:
        assumption: what was assumed because the tables do not say; empty where they do.
        leakage_w: power of one instance that does nothing; 0 where the tables do not say.
    """

    read_j: float
    write_j: float
    area_mm2: float
    assumption: str = ""
    leakage_w: float = 0.0


@functools.lru_cache(maxsize=4096)
def cost(
    component: str,
    *,
    row_bits: float = 0,
    rows: float = 0,
    kind: str = "",
    node_nm: int = 45,
    library: str = _BASE_LIBRARY,
) -> Cost:
    """Return energy and area of a component.

    Args:
        component: `dram`, `sram`, `registers`, `wires`, or a functional unit such as `mac`.
        row_bits: what one access moves.
        rows: number of rows; unused for `dram` and units.
        kind: row of the table of the component, for `dram`.
        node_nm: technology node, from 45 to 7.
        library: `accelergy`, `horowitz`, or `hwcomponents`.

    Raises:
        HardwareError: an unknown component, kind, node or library, or a memory without bounds.

    >>> round(cost("sram", row_bits=4096, rows=32768).read_j * 1e12, 6)
    12512.760572
    >>> cost("mac").area_mm2
    0.001545
    >>> round(cost("mac", node_nm=7, library="horowitz").read_j * 1e12, 2)
    0.59
    """
    known = libraries()
    if library not in known:
        raise HardwareError(f"library: unknown library '{library}'; {nearest(library, known)}")
    tabled = _BASE_LIBRARY if library == external.LIBRARY else library
    if component == "wires":
        return Cost(0.0, 0.0, 0.0)
    _require_component(component, tabled)
    if component == "dram":
        return _dram(kind, row_bits, library)
    if math.isinf(rows):
        raise HardwareError(
            f"{component}: no capacity, so that there is no energy or area; write one, as in 'capacity: 16 MiB', or "
            "'component: wires' for an ideal buffer that costs nothing"
        )
    if max(row_bits, rows) > _MOST:
        raise HardwareError(f"{component}: {rows:g} rows of {row_bits:g} bits; expected at most 2^50 of each")
    if component == "registers":
        return _registers(row_bits, rows, node_nm, tabled)
    if component == "sram":
        if library == external.LIBRARY:
            return Cost(*_outside(external.sram(row_bits, rows, node_nm)))
        return _sram(row_bits, rows, node_nm)
    return _unit(component, node_nm, tabled)


def libraries() -> tuple[str, ...]:
    """Return the libraries of figures that a chip may name.

    >>> libraries()
    ('accelergy', 'horowitz', 'hwcomponents')
    """
    return (*dict.fromkeys(r["library"] for r in table("units")), external.LIBRARY)


def _outside(found: tuple[float, float, float, float]) -> tuple[float, float, float, str, float]:
    read, write, area, leakage = found
    return read, write, area, f"SRAM by {external.LIBRARY}", leakage


def _pj(value: float) -> float:
    return round(value, 6) * _PJ


@dataclass(frozen=True, slots=True)
class _Unit:
    energy_pj: float
    area_um2: float
    basis: str


@functools.cache
def _units() -> dict[tuple[str, str, int], _Unit]:
    return {
        (r["library"], r["unit"], int(r["node_nm"])): _Unit(
            float(r["energy_pj"]), float(r["area_um2"]), r["basis"]
        )
        for r in table("units")
    }


def _require_component(name: str, library: str) -> None:
    known = {unit for of, unit, node in _units() if (of, node) == (library, scaling.BASE_NM)}
    known |= {"dram", "sram", "registers", "wires"}
    if name not in known:
        raise HardwareError(f"unknown component '{name}'; {nearest(name, known)}")


def _unit(name: str, node_nm: int, library: str) -> Cost:
    rows = _units()
    found = rows.get((library, name, node_nm))
    if found is not None:
        assumption = (
            "" if found.basis == "published" else f"energy and area of '{name}': {found.basis}, see the table"
        )
        return _unit_cost(found.energy_pj, found.area_um2, assumption)
    scaling.check_node(node_nm, name)
    base = rows[library, name, scaling.BASE_NM]
    return _unit_cost(
        base.energy_pj * scaling.logic_energy(node_nm),
        base.area_um2 * scaling.area(node_nm),
        _scaled(node_nm, "functional units"),
    )


def _unit_cost(energy_pj: float, area_um2: float, assumption: str) -> Cost:
    return Cost(_pj(energy_pj), _pj(energy_pj), area_um2 / _UM2_PER_MM2, assumption)


def _scaled(node_nm: float, what: str) -> str:
    return (
        f"{what} at {node_nm} nm: scaled from {scaling.BASE_NM} nm, energies between the figures of Horowitz (2014) "
        "and Jouppi et al. (2021), areas after Stillmaker and Baas (2017)"
    )


def _dram(kind: str, row_bits: float, library: str) -> Cost:
    rows = {r["kind"]: r for r in table("dram")}
    if kind not in rows:
        raise HardwareError(f"unknown kind of dram '{kind}'; {nearest(kind, rows)}")
    if library == external.LIBRARY and (found := external.dram(kind, row_bits)) is not None:
        return Cost(*found, 0.0)
    row = rows[kind]
    read, write = (float(row[column]) * row_bits for column in ("read_pj_per_bit", "write_pj_per_bit"))
    basis = row["basis"]
    assumption = "" if basis == "published" else f"energy of {kind}: {basis}: {row['source']}"
    return Cost(_pj(read), _pj(write), 0.0, assumption)


@functools.cache
def _register_constants(library: str) -> dict[str, float]:
    return {r["quantity"]: float(r["value"]) for r in table("registers") if r["library"] == library}


def _address(rows: float, library: str = _BASE_LIBRARY) -> tuple[float, float]:
    """Energy (pJ) and area (um^2) of the address generator of a memory of so many rows."""
    k = _register_constants(library)
    bits = math.ceil(math.log2(rows)) if rows > 1 else 0
    return k["address_base"] + k["address_bit"] * bits, k["address_area"] * bits


def _registers(row_bits: float, depth: float, node_nm: int, library: str) -> Cost:
    scaling.check_node(node_nm, "registers")
    k = _register_constants(library)
    address_pj, address_um2 = _address(depth, library)
    selected = k.get("bits_read", row_bits)
    write = k.get("bits_switched", row_bits) * k["write"] + address_pj
    read = (write if k["read_switches"] else address_pj) + selected * k["read"]
    area = max(k["least_depth"], depth) * (selected * k["bit_area"] + k["word_area"]) + address_um2
    if node_nm == scaling.BASE_NM:
        return Cost(_pj(read), _pj(write), area / _UM2_PER_MM2)
    factor = scaling.logic_energy(node_nm)
    area_mm2 = area * scaling.area(node_nm) / _UM2_PER_MM2
    return Cost(_pj(read * factor), _pj(write * factor), area_mm2, _scaled(node_nm, "registers"))


@dataclass(frozen=True, slots=True)
class _Sram:
    row_bits: float
    rows: float
    read_pj: float
    write_pj: float
    area_um2: float
    leakage_mw: float


_COLUMNS = ("row_bits", "rows", "read_pj", "write_pj", "area_um2", "leakage_mw")


@functools.cache
def _srams(node_nm: int) -> tuple[_Sram, ...]:
    return tuple(
        _Sram(*(float(r[c]) for c in _COLUMNS)) for r in table("sram") if int(r["node_nm"]) == node_nm
    )


def _sram(row_bits: float, rows: float, node_nm: int) -> Cost:
    scaling.check_node(node_nm, "sram")
    exact = _srams(node_nm)
    known = exact or _srams(scaling.BASE_NM)
    row = next((r for r in known if (r.row_bits, r.rows) == (row_bits, rows)), None)
    notes = []
    if row is not None:
        read, write, area, leakage = row.read_pj, row.write_pj, row.area_um2, row.leakage_mw
    else:
        read, write, area, leakage = _between(known, row_bits, rows)
        notes.append(
            f"SRAM of {row_bits * rows / 8192:g} KiB in rows of {row_bits:g} bits is not in the table: energy and area "
            "are interpolated between its neighbours, linearly in the logarithms of row width, rows and value (rows of "
            "the table that are left out come back within 6 % in the median, 33 % at worst)"
        )
    address_pj, address_um2 = _address(rows)
    energy, size = 1.0, 1.0
    if not exact:
        energy, size = scaling.sram_energy(row_bits * rows / 8, node_nm), scaling.area(node_nm)
        notes.append(_scaled(node_nm, "SRAM"))
    return Cost(
        _pj((read + address_pj) * energy),
        _pj((write + address_pj) * energy),
        (area + address_um2) * size / _UM2_PER_MM2,
        "; ".join(notes),
        leakage / 1e3,
    )


def _between(known: Sequence[_Sram], row_bits: float, rows: float) -> tuple[float, ...]:
    """Interpolate (beyond the table: extrapolate) log-linearly, first along the rows, then along the row width."""
    widths = sorted({r.row_bits for r in known})
    low, high = _bracket(widths, row_bits)
    at = [_along_rows([r for r in known if r.row_bits == w], rows) for w in (low, high)]
    return tuple(_log_line((low, a), (high, b), row_bits) for a, b in zip(*at, strict=True))


def _along_rows(column: Sequence[_Sram], rows: float) -> tuple[float, ...]:
    by_rows = {r.rows: r for r in column}
    low, high = _bracket(sorted(by_rows), rows)
    a, b = by_rows[low], by_rows[high]
    return tuple(_log_line((low, getattr(a, f)), (high, getattr(b, f)), rows) for f in _COLUMNS[2:])


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
    return {name: [dict(r) for r in table(name)] for name in NAMES}
