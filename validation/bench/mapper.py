"""How fast the search for a mapping is, and how much memory it takes: attention of 64K tokens on FuseMax's chip."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

# A product, a row operation and a product: what other mappers call a three-Einsum attention.
_THREE = """
cascade attention_3
rank E F M P
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m]
SN[m, p] = exp(QK[m, p])
AV[f, p] = SN[m, p] * V[f, m]
"""
_CASES = (
    ("3 Einsums", f"parse({_THREE!r})"),
    ("6 Einsums, 3 passes", "zoo.load('attention_3pass')"),
    ("12 Einsums, 1 pass", "zoo.load('attention_1pass')"),
)
_PROGRAM = """
import json, time
from einsum_cascade import zoo
from einsum_cascade.parser import parse
from einsum_cascade.sizes import parse_sizes
from simulator import load_hardware
from validation.bench.memory import peak_mib
import numpy
empty = peak_mib()
from simulator.spatial.mapper import find_mapping
cascade, chip = {cascade}, load_hardware("fusemax")
begun = time.process_time()
found = find_mapping(cascade, parse_sizes("BERT/64K", cascade), chip)
seconds = time.process_time() - begun
print(json.dumps([seconds, peak_mib() - empty, found.gap, found.estimate.latency_s]))
"""


def bench() -> list[dict[str, Any]]:
    """Return rows: CPU seconds and memory of one search, each in a process of its own.

    AccelForge takes 13.8 s and 340 MB for three Einsums, 139 s and 2.6 GB for six, on a machine of two cores.
    """
    rows = []
    for what, cascade in _CASES:
        program = _PROGRAM.format(cascade=cascade)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
        seconds, mebibytes, gap, latency_s = json.loads(done.stdout)
        note = f"traffic {gap:.3f} x bound, attention in {latency_s:.3f} s"
        rows.append({"what": f"map, {what}", "value": seconds, "unit": "s", "target": "< 1 s", "ratio": note})
        rows.append(
            {
                "what": f"map, {what}: memory",
                "value": mebibytes,
                "unit": "MiB",
                "target": "< 200 MiB",
                "ratio": "above Python and NumPy",
            }
        )
    return rows
