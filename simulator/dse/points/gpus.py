"""The GPU that a point of a sweep asks for: a name of the library, with the numbers that its axes change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from einsum_cascade.errors import DataError, HardwareError, ModelError
from mappings.remembered import by_file


def gpu_of(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> Any:
    """Return the GPU of a point: `hardware` of the point or the inputs, its fields set as `hardware.FIELD` says.

    Raises:
        ModelError: no such GPU or field, or a value that cannot be read.

    >>> gpu_of({"hardware.exp_per_cycle": "x2"}, inputs={"hardware": "h100"}).exp_per_cycle
    32.0
    """
    given = point.get("hardware", inputs.get("hardware"))
    fields = tuple((k.removeprefix("hardware."), v) for k, v in point.items() if k.startswith("hardware."))
    if given is None:
        raise DataError(f"missing field 'hardware'; 'hardware.{fields[0][0]}' is a number of it")
    if isinstance(given, str):
        return _gpu(given, fields)
    if fields:
        raise DataError(
            f"'hardware.{fields[0][0]}' cannot be set on an object; give hardware by name or path"
        )
    return _checked(given, getattr(given, "name", given))


def is_gpu(hardware: Any) -> bool:
    """Tell whether a name, a file or an object means a GPU; what cannot be read is none."""
    from ...hardware.gpu import Gpu

    if not isinstance(hardware, str):
        return isinstance(hardware, Gpu)
    try:
        return isinstance(_named(hardware), Gpu)
    except ModelError:
        return False


@by_file(64)
def _named(name: str) -> Any:
    from ...hardware.gpu import find_gpu
    from ...hardware.reader import load_hardware, names

    if name in names() or name.endswith((".yaml", ".yml")):
        return load_hardware(name)
    return find_gpu(name)


@by_file(1 << 14)
def _gpu(name: str, fields: tuple[tuple[str, Any], ...]) -> Any:
    from ...hardware.gpu import find_gpu
    from ...hardware.reader import load_hardware

    if not fields and not name.endswith((".yaml", ".yml")):
        return find_gpu(name)
    _described(name)  # what is wrong without the fields is said first
    return _checked(load_hardware(name, dict(fields)), name)


@by_file(64)
def _described(name: str) -> Any:
    from ...hardware.reader import load_hardware

    return _checked(load_hardware(name), name)


def _checked(found: Any, name: Any) -> Any:
    from ...hardware.gpu import Gpu

    if not isinstance(found, Gpu):
        raise HardwareError(f"{name} is not a GPU; a kernel runs on one, for example h100")
    return found
