"""The sweep of the face: a space and the inputs of a simulator in, a table out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import engine
from .provenance import commit, fingerprint, model_version
from .search import Search
from .space import Space
from .subjects import check_objectives, context_of, evaluator, evaluator_of_many, searched_for, subject_of
from .workers import Workers

if TYPE_CHECKING:
    import pandas as pd


def sweep(
    space: Space | Mapping[str, Sequence[Any]],
    *,
    out: str | Path | None = None,
    jobs: int = 1,
    workers: Workers | None = None,
    progress: bool = False,
    objectives: Mapping[str, Sequence[str]] | None = None,
    search: str = "",
    **inputs: Any,
) -> pd.DataFrame:
    """Return one row a design point: the axes, latency, energy, traffic, area, utilisation, and `error` where none.

    Args:
        space: axes by path: `hardware.N`, `hardware.memories.DRAM.bandwidth`, `mapping.sizes.P1`, `sizes.seq`, or a
            whole input (`mapping`). Quantities are texts: `"16 MiB"`.
        out: a folder that keeps every point; the same call goes on where it was interrupted.
        jobs: processes.
        workers: another executor, for example that of a cluster.
        progress: whether to show a bar on stderr.
        objectives: written into the manifest: `{"minimize": [...], "maximize": [...]}`. Without a mapping each point
            gets one that is searched for the first of `minimize` that is made of latency, energy and traffic alone.
        search: `optuna` or `pymoo` chooses `space.samples` points towards the objectives.
        **inputs: `cascade`, `hardware`, `mapping` and `sizes`, by name, path or object; in the place of `mapping`
            an `objective` that mappings are searched for. Fields of an object that was read from a file can be axes.

    Raises:
        ModelError: an unknown axis, input or objective, a folder that cannot be written or holds another sweep, or
            every point fails.

    >>> space = Space({"hardware.N": [128, 256]})
    >>> fixed = dict(cascade="attention_1pass", hardware="fusemax", mapping="fusemax", sizes="BERT/1K")
    >>> table = sweep(space, **fixed)
    >>> bool(table.latency_s[1] < table.latency_s[0])
    True
    """
    space = space if isinstance(space, Space) else Space(space)
    subject = subject_of([*inputs, *space.names], hardware=inputs.get("hardware", space.axes.get("hardware")))
    for name in inputs:
        if name not in subject.legal:
            raise TypeError(
                f"sweep() got an unexpected keyword argument '{name}'; inputs: {', '.join(subject.legal)}"
            )
    if wanted := searched_for(subject, [*inputs, *space.names], (objectives or {}).get("minimize", ())):
        inputs["objective"] = wanted
    shown = {k: v if isinstance(v, (str, int, float)) else fingerprint(v) for k, v in inputs.items()}
    evaluate = evaluator(subject, space, inputs)
    check_objectives(space, evaluate, objectives or {})
    provenance = {"model": model_version(), "commit": commit(), "inputs": shown, **(objectives or {})}
    return engine.sweep(
        space,
        evaluate=evaluate,
        evaluate_many=evaluator_of_many(subject, inputs),
        out=out,
        jobs=jobs,
        workers=workers,
        context=context_of(space, inputs),
        provenance=provenance,
        progress=progress,
        search=Search(search, **{k: tuple(v) for k, v in (objectives or {}).items()}) if search else None,
    )
