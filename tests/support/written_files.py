"""Files of written kernels for tests: written, loaded, and run on inputs of the evaluator in Triton's interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from kernels import written
from kernels.written import WrittenFile, load_written
from simulator.gpu.writing.program import write_program


def written_file(folder: Path, cascade, sizes, **more) -> WrittenFile:
    path = folder / f"{cascade.name}.py"
    path.write_text(write_program(cascade, sizes, **more).text)
    return load_written(path)


def run(file: WrittenFile, inputs) -> dict[str, np.ndarray]:
    """Return the outputs of a file for inputs of the evaluator."""
    order = [s.tensor for s in file.cascade.inputs]
    laid = [torch.from_numpy(np.asarray(inputs[t])).to(file.tensors[t][1]).contiguous() for t in order]
    with written.runnable(file):
        found = file.run(*laid, empty=written.poisoned_tensor)
    found = found if isinstance(found, tuple) else (found,)
    return {
        s.tensor: t.double().numpy() if t.is_floating_point() else t.clamp(min=0).double().numpy()
        for s, t in zip(file.cascade.outputs, found, strict=True)
    }
