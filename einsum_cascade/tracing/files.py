"""Functions in a user's own file, and example tensors made for them."""

from __future__ import annotations

import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from ..errors import DataError, ModelError, nearest, raised_at
from ..evaluator import LIMIT_BYTES
from ..pairs import literal

_SHAPE = re.compile(r"(\d+(?:x\d+)*)(?::(bool|int<\d+))?")
_MOST_LETTERS = 200


@contextmanager
def of_file(path: Path) -> Iterator[None]:
    """Execute what stands in a file inside the block; whatever it raises is told in one line, with its place.

    Raises:
        DataError: it raised something; what this package raises goes on as it is.
    """
    try:
        yield
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # the file is a stranger's, who raises what he likes
        place = raised_at(path, error)
        if isinstance(error, SyntaxError) and error.lineno:
            place = f"{path}:{error.lineno}"
        said = " ".join(str(error).split())[:_MOST_LETTERS]
        raise DataError(f"{place}: {type(error).__name__}: {said}") from error


def load_function(place: str) -> tuple[Callable[..., Any], Path]:
    """Return the function or module at "FILE.py:NAME", and the file; of a class of modules one made without arguments.

    The file is executed as `python FILE.py` does it, its folder first on the path.

    Raises:
        DataError: no such file or name, something else than a function, or an error while it is executed.
    """
    file, colon, name = place.rpartition(":")
    if not colon or not file or not name:
        raise DataError(f"'{place}': expected FILE.py:FUNCTION")
    path = Path(file)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"traced_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise DataError(f"{path}: expected a Python file, *.py")
    module = importlib.util.module_from_spec(spec)
    with of_file(path), mock.patch.object(sys, "path", [str(path.resolve().parent), *sys.path]):
        spec.loader.exec_module(module)
    found = {n: x for n, x in vars(module).items() if callable(x) and not n.startswith("_")}
    own = [n for n, x in found.items() if getattr(x, "__module__", "") == module.__name__]
    if name not in found:
        raise DataError(f"{path}: no function '{name}': {nearest(name, own)}")
    function = found[name]
    if inspect.isclass(function):
        with of_file(path):
            function = function()
        if not callable(function):
            raise DataError(f"{path}: '{name}' makes nothing that can be called")
    return function, path


def example_for(
    function: Callable[..., Any], shapes: Mapping[str, str], constants: Mapping[str, str]
) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments for a function, by position and by name: random tensors, and constants as they are.

    Args:
        shapes: of tensors by the names of parameters: `2x8x4` of normal numbers, `8:int<5` of whole ones below 5,
            `8x8:bool` of true and false.
        constants: Python literals by the names of parameters, or words.

    Raises:
        DataError: a name that the function has not, one that it needs, or a shape that is none.
    """
    given: dict[str, Any] = {name: _tensor(name, shape) for name, shape in shapes.items()}
    for name, text in constants.items():
        if name in given:
            raise DataError(f"'{name}' is given as a tensor and as a constant")
        given[name] = literal(text)
    try:
        parameters = inspect.signature(getattr(function, "forward", function)).parameters.values()
    except (TypeError, ValueError):  # some of torch's own tell nothing
        return list(given.values()), {}
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return list(given.values()), {}
    names = [p.name for p in parameters]
    for name in given:
        if name not in names:
            raise DataError(f"the function has no parameter '{name}': {nearest(name, names)}")
    lacking = [p.name for p in parameters if p.name not in given and p.default is p.empty]
    if lacking:
        raise DataError(f"the function needs {', '.join(lacking)}; give a shape: --inputs {lacking[0]}=8x4")
    # By position as far as all stand there; a loop is traced from such examples alone.
    front: list[Any] = []
    for p in parameters:
        if p.name not in given or p.kind is p.KEYWORD_ONLY:
            break
        front.append(given.pop(p.name))
    return front, given


def _tensor(name: str, text: str) -> Any:
    import torch

    match = _SHAPE.fullmatch(text.strip())
    if match is None:
        raise DataError(f"{name}={text}: expected a shape such as 2x8x4, 8:int<5 or 8x8:bool")
    shape: Sequence[int] = [int(n) for n in match[1].split("x")]
    kind = match[2] or ""
    if 0 in shape or kind == "int<0":
        raise DataError(
            f"{name}={text}: a rank has at least one element, and whole numbers one below the limit"
        )
    # Whole numbers are of 8 bytes each; of the others one draws numbers of 4 first.
    if (takes := math.prod(shape) * 8) > LIMIT_BYTES:
        raise DataError(
            f"{name}={text}: the example would take {takes:,} bytes, at most {LIMIT_BYTES:,}; ranks stay open"
        )
    if kind == "bool":
        return torch.rand(shape) < 0.5
    return torch.randint(int(kind[4:]), shape) if kind else torch.randn(shape)
