"""Energy and area from the hwcomponents libraries, where somebody has installed them (they need Python 3.12).

Run against hwcomponents-cacti 1.0.40 on Python 3.13: CACTI gives the table's reads, writes and areas of 16 and 32 MiB
in rows of 4096 bits to five digits, and other sizes of the table to three. The Python that this project is tested with
cannot install it, so `make test` there puts a stand-in in its place.
"""

from __future__ import annotations

import importlib
from typing import Any

from einsum_cascade.errors import HardwareError

LIBRARY = "hwcomponents"
_MODULE = "hwcomponents_cacti"
# kind of the dram table -> class of the library
_DRAM = {"lpddr4": "LPDDR4", "ddr3": "DDR3", "hbm2": "HBM2", "hbm3": "HBM3"}
_M2_PER_MM2 = 1e-6


def sram(row_bits: float, rows: float, node_nm: float) -> tuple[float, float, float, float]:
    """Return the energies of reading and of writing a row in J, the area in mm^2 and the leakage in W.

    Raises:
        HardwareError: the library is not installed.
    """
    width = round(row_bits)
    made = _library().SRAM(tech_node=node_nm * 1e-9, width=width, size=width * round(rows))
    return _energy(made.read()), _energy(made.write()), float(made.area) / _M2_PER_MM2, float(made.leak_power)


def dram(kind: str, row_bits: float) -> tuple[float, float] | None:
    """Return the energies of reading and of writing so many bits in J, or None for a kind that the library lacks.

    Raises:
        HardwareError: the library is not installed.
    """
    if kind not in _DRAM:
        return None
    made = getattr(_library(), _DRAM[kind])()
    bits = float(made.width)
    return _energy(made.read()) * row_bits / bits, _energy(made.write()) * row_bits / bits


def _energy(cost: Any) -> float:
    """Return the energy of an action: a field of its cost, or in older releases the first of a tuple."""
    return float(cost.energy if hasattr(cost, "energy") else cost[0])


def _library() -> Any:
    try:
        return importlib.import_module(_MODULE)
    except ImportError:
        raise HardwareError(
            f"library: {LIBRARY} is not installed: pip install hwcomponents hwcomponents-cacti (Python 3.12 or later), "
            "or choose a library of the tables"
        ) from None
