"""Full-size results of the co-design studies: written by one command, read by the notebooks, recomputed in part."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from einsum_cascade.errors import DataError, nearest
from simulator.dse.provenance import model_version

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parents[1] / "data" / "studies"
STUDIES = {"iso_area": ".iso_area", "crossovers": ".crossovers", "changed_h100": ".changed_h100"}
REWRITE = "python -m validation.studies"
# Twelve digits are written; what is left of the error is the order of additions on another machine.
TOLERANCE = 1e-9


def committed(name: str) -> pd.DataFrame:
    """Return the committed full-size table of a study.

    Raises:
        DataError: no such study, or its file is missing.
    """
    import pandas as pd

    path = _path(name)
    if not path.is_file():
        raise DataError(f"{path}: no such file; `{REWRITE} {name}` writes it")
    table = pd.read_csv(path, comment="#")
    texts = [c for c in table.columns if not pd.api.types.is_numeric_dtype(table[c])]
    return table.fillna(dict.fromkeys(texts, ""))


def provenance(name: str) -> str:
    """Return the first line of a study's file: what computed it, with which model."""
    with _path(name).open(encoding="utf-8") as file:
        return file.readline().removeprefix("# ").strip()


def compute(name: str, *, full: bool) -> pd.DataFrame:
    """Return the table of a study, of all its points or of a part that takes a few seconds.

    Raises:
        DataError: no such study.
    """
    _path(name)
    found: pd.DataFrame = importlib.import_module(STUDIES[name], __package__).table(full=full)
    return found


def write(name: str) -> Path:
    """Compute a study in full and write it with a line of provenance."""
    path, table = _path(name), compute(name, full=True)
    head = f"# computed by `{REWRITE} {name}`, model {model_version()}; no measurement in it\n"
    path.write_text(head + table.to_csv(index=False, float_format="%.12g"), encoding="utf-8")
    return path


def disagreements(name: str, recomputed: pd.DataFrame) -> Iterator[str]:
    """Yield what differs between recomputed rows and the committed ones: a row that is missing, or a value.

    Args:
        name: of the study.
        recomputed: rows of `compute`.
    """
    import pandas as pd

    table = committed(name)
    numbers = [c for c in recomputed.columns if pd.api.types.is_float_dtype(recomputed[c])]
    keys = [c for c in recomputed.columns if c not in numbers]
    both = recomputed.merge(table, on=keys, how="left", suffixes=("", " committed"), indicator=True)
    for row in both.to_dict("records"):
        place = ", ".join(f"{k}={row[k]}" for k in keys)
        if row["_merge"] != "both":
            yield f"{place}: not in the committed table; `{REWRITE} {name}` writes it anew"
            continue
        for column in numbers:
            now, was = row[column], row[f"{column} committed"]
            if not (abs(now - was) <= TOLERANCE * abs(was) or (pd.isna(now) and pd.isna(was))):
                yield f"{place}: {column} is {now!r}, committed {was!r}"


def _path(name: str) -> Path:
    if name not in STUDIES:
        raise DataError(f"unknown study '{name}'; {nearest(name, STUDIES)}")
    return FOLDER / f"{name}.csv"
