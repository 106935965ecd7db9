"""The chapters of the demo's report; each returns its section and one line that says what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import einsum_cascade as ec
import simulator as sim
from simulator.gpu.plots import predicted_against_measured

from . import cpu as cpu_ratios
from . import gna, plots
from .report import Figure, Listing, Section, Table, picture
from .suites import run_one

MEASURED = Path(__file__).parent / "data" / "measured"

TILE = 256  # queries of one tile: one row of blocks on FuseMax's array
LENGTHS = ("1K", "4K", "16K", "64K", "256K", "1M")
TOLD = ("attention_3pass", "attention_2pass", "attention_2pass_local", "attention_1pass", "linear_chunked")


def describe() -> tuple[Section, str]:
    """Return the text of textbook attention, the passes of its relatives, and what the tool makes of it."""
    rows = []
    for name in TOLD:
        for rank, found in ec.all_passes(ec.zoo.load(name)).items():
            rows.append((name, rank, found.count, " -> ".join(found.chain)))
    passes = pd.DataFrame(rows, columns=["cascade", "rank", "passes", "chain that forces them"])
    textbook = ec.zoo.load("attention_3pass")
    reduced = ec.reduce_passes(textbook, "M")
    steps = pd.DataFrame(
        [(s.rule, s.einsum, s.why) for s in reduced.steps], columns=["rule", "Einsum", "why it may be used"]
    )
    sizes = dict.fromkeys(textbook.free_ranks, 24)
    agrees = ec.same_result(textbook, reduced.cascade, sizes)
    parts = (
        "Attention as in a textbook, written as a cascade of Einsums:",
        Listing(str(textbook)),
        Table(
            "passes", "Passes over each reduced rank, and the chain that forces each further pass.", passes
        ),
        f"From this text alone the tool derives a cascade of {reduced.after} pass over M (from {reduced.before}); "
        f"evaluated on random inputs the two {'agree' if agrees else 'DISAGREE'}:",
        Table("reduce_steps", "Rules used, in order.", steps),
        Listing(str(reduced.cascade)),
    )
    line = f"attention_3pass: {reduced.before} passes, reduced to {reduced.after}; results equal: {agrees}"
    return Section("Describe: passes, and fewer of them", parts), line


def bounds() -> tuple[Section, str]:
    """Return the least off-chip traffic of a tile of queries, by passes, length and buffer."""
    names = ("attention_3pass", "attention_2pass", "attention_1pass")
    rows = []
    for length in LENGTHS:
        for name in names:
            cascade = ec.zoo.load(name)
            found = ec.bounds(cascade, ec.parse_sizes(f"BERT/{length},P={TILE}", cascade), buffer="64 KiB")
            macs = found.operations["mac"]
            traffic = (found.compulsory_bytes, found.traffic_bytes, found.free_pass_buffer_bytes)
            rows.append((length, name, macs, *traffic))
    columns = [
        "length",
        "cascade",
        "mac",
        "compulsory [B]",
        "traffic bound at 64 KiB [B]",
        "free-pass buffer [B]",
    ]
    table = pd.DataFrame(rows, columns=columns)
    buffers = np.geomspace(2**12, 2**22, 120)
    curves = []
    for name in names:
        cascade = ec.zoo.load(name)
        sizes = ec.parse_sizes(f"BERT/64K,P={TILE}", cascade)
        traffic = ec.traffic_curve(cascade, sizes, buffers_bytes=buffers)
        curves.append(pd.DataFrame({"cascade": name, "buffer_bytes": buffers, "traffic_bytes": traffic}))
    title = f"BERT, {TILE} queries against 64K keys: no machine moves less"
    figure = picture(plots.traffic_against_buffer(pd.concat(curves), title=title))
    bound = table.set_index(["length", "cascade"])["traffic bound at 64 KiB [B]"]
    ratio = bound["64K", "attention_3pass"] / bound["64K", "attention_1pass"]
    parts = (
        "What no machine can avoid: lower bounds on off-chip traffic, from the text and the sizes alone. A pass over "
        "the keys is free only while the scores of a query fit on chip; below that buffer size every further pass "
        "reads the keys again.",
        Table("bounds", f"BERT (B=64, H=12, E=F=64), {TILE} queries, 2-byte words.", table),
        Figure("bounds", "Lower bound on off-chip traffic against buffer size, log-log.", figure),
    )
    return Section(
        "Bound: what no machine can avoid", parts
    ), f"64K keys, 64 KiB: 3-pass / 1-pass bound = {ratio:.3g}"


def fusemax() -> tuple[Section, str]:
    """Return FuseMax as published against simulated, and the headline ratios, published and corrected."""
    result = run_one("fusemax")
    cases = pd.DataFrame(result["cases"])
    files = cases.assign(file=cases["case"].str.split("/").str[0])
    summary = (
        files.groupby("file")
        .agg(cells=("ok", "size"), largest=("relative_error", "max"), within=("ok", "all"))
        .reset_index()
        .rename(columns={"largest": "largest relative error", "within": "within tolerance"})
    )
    headline = pd.DataFrame(result["headline"])
    parts = (
        "The eight tables that the FuseMax artifact publishes took its authors about nine hours of Timeloop and "
        "Accelergy; here they come from one simulator and from hardware, mapping and binding files. 'As published' "
        "switches the artifact's own quirks on (in validation, never in the simulator); 'corrected' is what the "
        "simulator says.",
        Table("fusemax_files", "Published cells against simulated ones, by file.", summary),
        Table(
            "fusemax_headline",
            "Headline ratios: published, as published by our simulator, corrected.",
            headline,
        ),
        Figure(
            "fusemax",
            "Published against simulated, every public cell (log-log; s, B, pJ as published).",
            picture(plots.published_against_simulated(cases)),
        ),
        Table("fusemax_cells", "Every cell.", cases, rows_shown=6),
    )
    line = f"{result['cells']} published cells, largest relative error {result['max_relative_error']:.2g}"
    return Section("Predict: FuseMax, published against simulated", parts), line


def sweep() -> tuple[Section, str]:
    """Return a sweep of FuseMax's array, buffer and bandwidth, with its Pareto front."""
    space = sim.Space(
        {
            "hardware.N": [64, 128, 256, 512],
            "hardware.L3": ["2 MiB", "4 MiB", "8 MiB", "16 MiB", "32 MiB", "64 MiB"],
            "hardware.memories.DRAM.bandwidth": [
                "50 GiB/s",
                "100 GiB/s",
                "200 GiB/s",
                "400 GiB/s",
                "800 GiB/s",
            ],
        }
    )
    table = sim.sweep(
        space, cascade="attention_1pass", hardware="fusemax", mapping="fusemax", sizes="BERT/64K"
    )
    good = table[table["error"].isna()] if "error" in table else table
    objectives = ["latency_s", "energy_j", "area_mm2"]
    front = sim.pareto(good, minimize=objectives)
    shown = front[[*space.axes, *objectives, "bound_by"]]
    parts = (
        "The same simulator in a loop: every combination of array size, global buffer and DRAM bandwidth, for BERT "
        "at 64K tokens.",
        Figure(
            "pareto",
            "Latency against area of every design; the Pareto front over latency, energy and area is marked.",
            picture(plots.design_space(good, front, title="BERT at 64K tokens on FuseMax-like arrays")),
        ),
        Table("pareto", "The Pareto front (minimise latency, energy and area).", shown, rows_shown=40),
        Table("sweep", "Every design point.", table, rows_shown=5),
    )
    return Section("Explore: a Pareto front", parts), f"{len(table)} designs, {len(front)} on the front"


def neighbourhood() -> tuple[Section, str]:
    """Return the exact tile bounds of generalised neighbourhood attention beside the published bars."""
    result = run_one("gna")
    cases = pd.DataFrame(result["cases"])
    bars = gna.bars()
    agree = bool((bars["worst-tile figure"].round(1) == bars["published bar"]).all())
    parts = (
        "NATTENSim's published 'theoretical max' is the number of KV tiles divided by those of the worst query tile: "
        "no bound, for most query tiles at an edge visit fewer. The exact tile bound counts every tile.",
        Table(
            "gna_bars",
            "Published bars (chart labels, one decimal) and what we count; all are speedups.",
            bars,
        ),
        Figure(
            "gna",
            "Speedup bounds of neighbourhood attention, four definitions.",
            picture(plots.gna_bars(bars)),
        ),
        Table("gna_cases", "Exact counts and published bars, case by case.", cases, rows_shown=6),
    )
    line = f"{result['cells']} cells, {result['failed']} off; published bars to their digit: {agree}"
    return Section("Predict: neighbourhood attention, published bounds against exact ones", parts), line


def gpu() -> tuple[Section, str]:
    """Return predicted against measured on published GPU measurements, with roofline treated the same way."""
    result = run_one("gpu")
    sets = pd.DataFrame(result["sets"])
    large = sets[sets["n"] >= 5]
    cases = pd.DataFrame(result["cases"])
    weighted = {
        column: float(np.average(large[column], weights=large["n"]))
        for column in ("mape_calibrated", "mape_roofline")
    }
    parts = (
        "Published measurements of attention kernels. One row a set, the dense one of median size, calibrates one "
        "scalar; every other row is predicted. The roofline is calibrated by the same row. Errors are fractions of the "
        "measured latency.",
        Table(
            "gpu_sets", "Error by set (device, implementation, head_dim, dtype, window).", sets, rows_shown=40
        ),
        Figure(
            "gpu",
            "Predicted against measured latency, log-log, with a 10 % band.",
            picture(predicted_against_measured(cases)),
        ),
        *result.get("notes", ()),
    )
    line = (
        f"{len(sets)} sets; mean error {weighted['mape_calibrated']:.1%}, "
        f"roofline {weighted['mape_roofline']:.1%} (sets of five or more rows)"
    )
    return Section("Measure: predicted against measured on published GPU tables", parts), line


def campaign(folder: Path = MEASURED) -> tuple[Section, str]:
    """Return predicted against measured for our own kernels on the GPUs that were measured."""
    results = {path.stem: run_one("gpu", measured=path) for path in measured_files(folder)}
    parts: list[Any] = [
        "Our own Triton kernels as measured by `cascade kernels campaign`. The constants of a device come from its "
        "dense rows alone; the time of every variant, and its speedup over the dense kernel, is predicted.",
    ]
    for name, result in results.items():
        sets, told = (pd.DataFrame(result[key]) for key in ("sets", "variants"))
        parts += [
            Table(f"campaign_{name}_sets", f"{name}: error by set.", sets, rows_shown=40),
            Figure(
                f"campaign_{name}", f"{name}: predicted against measured latency, log-log, with a 10 % band.",
                picture(predicted_against_measured(pd.DataFrame(result["cases"]))),
            ),
        ]  # fmt: skip
        if result["speedups"]:
            parts += [
                Table(f"campaign_{name}_speedups", f"{name}: speedups over dense.", pd.DataFrame(result["speedups"])),
                Figure(f"campaign_{name}_speedup", f"{name}: predicted against measured speedup.",
                       picture(plots.speedups(told.dropna(subset=["speedup error"])))),
            ]  # fmt: skip
        parts += result["notes"]
    errors = [r["median error"] for result in results.values() for r in result["speedups"]]
    line = f"{len(results)} tables; median error of a variant's speedup {float(np.median(errors or [np.nan])):.1%}"
    return Section("Measure: our kernels on a GPU", tuple(parts)), line


def measured_files(folder: Path = MEASURED) -> list[Path]:
    """Return the tables of our own measurements, without the lists of what failed."""
    return sorted(path for path in folder.glob("*.csv") if not path.name.endswith(".failed.csv"))


def cpu() -> tuple[Section, str]:
    """Return measured and predicted ratios of attention variants on the CPU that runs this."""
    table = cpu_ratios.measure_and_predict(quick=True)
    errors = cpu_ratios.errors(table)
    parts = (
        "Real timings on this machine's CPU: eager naive attention, torch's fused attention, causal, and a blocked "
        "sliding window. Predicted is the *ratio* to dense fused attention, from the operations that each variant "
        "executes and from the rates measured in the same rounds. Several threads are judged where they had their CPUs "
        "for most of the time; on a machine that others use as well they wait for each other.",
        Table(
            "cpu",
            "Measured and predicted ratios to dense fused attention; medians of interleaved rounds.",
            table,
        ),
        Figure("cpu", "Predicted against measured ratio on this CPU.", picture(plots.ratios(table))),
    )
    return Section(
        "Measure: this machine's CPU", parts
    ), f"{len(table)} variants timed, median error of the {len(errors)} ratios judged {errors.median():.0%}"
