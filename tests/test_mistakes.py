"""Every mistake a user can make is refused with one clear line on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import einsum_cascade as ec
from validation.cli import app

SIZES = ["--sizes", "E=8,F=8,P=16,M=16"]
SIMULATE = ["simulate", "attention_1pass", "--on", "fusemax", "--mapping", "fusemax"]


def refused(*args: str) -> str:
    """Run a command that must be refused and return its message."""
    ran = CliRunner().invoke(app, list(args))
    assert ran.exit_code == 2, (ran.exit_code, ran.output, ran.exception)
    assert "Traceback" not in ran.output
    assert ran.stdout == ""
    message = ran.stderr.strip()
    assert message
    return message


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["check", "attention_1pas"], "did you mean 'attention_1pass'?"),
        (["bounds", "attention_3pass", "--sizes", "E=8,F=8,P=16"], "needs the size of M"),
        (["evaluate", "attention_3pass", *SIZES], "Missing option '--out'."),
        (["evaluate", "attention_3pass", *SIZES, "--out", "x.npz", "--seed", "a"], "'--seed'"),
        (
            ["evaluate", "attention_3pass", *SIZES, "--out", ""],
            "--out: expected a value, found an empty text",
        ),
        (["evaluate", "attention_3pass", *SIZES, "--out", "/nowhere/x.npz"], "cannot write /nowhere/x.npz"),
        (["kernels", "compile", "--targt", "sm_90"], "No such option: --targt"),
        (["chekc", "attention_1pass"], "No such command 'chekc'."),
        (["--jsn"], "No such option: --jsn"),
    ],
)
def test_asked_for_json_a_mistake_is_a_document_too(args: list[str], said: str) -> None:
    ran = CliRunner().invoke(app, [*args, "--json"])
    assert ran.exit_code == 2
    document = json.loads(ran.stdout)  # one document and nothing else
    assert document["ok"] is False
    assert said in document["error"]
    assert said in ran.stderr
    assert "Traceback" not in ran.output


def test_a_document_that_is_written_is_not_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"ok": False, "facts": [], "clashes": {"kernels": "elsewhere"}}
    monkeypatch.setattr("validation.doctor.examine", lambda: facts)
    ran = CliRunner().invoke(app, ["doctor", "--json"])
    assert ran.exit_code == 2
    assert json.loads(ran.stdout) == facts
    assert "elsewhere" in ran.stderr


def test_an_unknown_name_suggests_the_nearest() -> None:
    for command in (["show"], ["check"], ["passes"]):
        message = refused(*command, "attention_1pas")
        assert "attention_1pass" in message
        assert "\n" not in message
    assert "fusemax" in refused(
        "simulate", "attention_1pass", "--on", "fusemx", "--mapping", "fusemax", *SIZES
    )
    assert "fusemax" in refused(
        "simulate", "attention_1pass", "--on", "fusemax", "--mapping", "fusemx", *SIZES
    )
    assert "gna" in refused("validate", "gnaa")
    assert "h100" in refused("predict", "flash_attention", "--on", "h10", "--set", "batch=1")


def test_a_time_or_a_head_size_that_is_none_is_refused() -> None:
    for command in (["campaign", "--plan", "--out", "x.csv"], ["bench"]):
        for minutes in ("0", "-1", "nan"):
            assert "more than 0" in refused("kernels", *command, "--minutes", minutes)
    for head_dim in ("0", "-3"):
        assert "1 or more" in refused("kernels", "tune", "flash_attention", "--head-dim", head_dim)
    assert "expected 0" in refused("kernels", "tune", "squeeze_excite_gate", "--head-dim", "64")


def test_a_file_cannot_be_checked_for_a_target_and_is_shown_what_compiles_it() -> None:
    message = refused("kernels", "check", "mine.py", "--target", "sm_90")
    assert "cascade kernels compile mine.py --target sm_90" in message


def test_a_missing_size_is_named() -> None:
    message = refused("bounds", "attention_3pass", "--sizes", "E=8,F=8,P=16")
    assert "M" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "named"), [("E=-8", "E=-8"), ("E=1.5", "E=1.5"), ("E=x", "E=x"), ("E=0", "E=0")]
)
def test_a_size_is_a_positive_whole_number(text: str, named: str) -> None:
    message = refused("bounds", "attention_3pass", "--sizes", f"{text},F=8,P=16,M=16")
    assert named in message
    assert "\n" not in message


def test_an_unknown_rank_is_refused() -> None:
    assert "no rank X" in refused("bounds", "attention_3pass", "--sizes", "E=8,F=8,P=16,M=16,X=3")
    assert "X" in refused("passes", "attention_3pass", "--rank", "X")


def test_an_unknown_rank_in_a_cascade_is_shown_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "mine.cascade"
    path.write_text("cascade mine\nrank E M\ninput K[E, M]\noutput S[M]\nS[m] = K[e, n]\n")
    message = refused("check", str(path))
    assert f"{path}:5:13: variable n runs over rank N, which is not declared" in message


def hardware(tmp_path: Path, old: str, new: str) -> Path:
    from importlib import resources

    text = resources.files("simulator").joinpath("hardware/library/fusemax.yaml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "chip.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


def simulate_on(path: Path) -> str:
    return refused(
        "simulate", "attention_1pass", "--on", str(path), "--mapping", "fusemax", "--sizes", "BERT/1K"
    )


def test_a_field_of_yaml_misspelt(tmp_path: Path) -> None:
    message = simulate_on(hardware(tmp_path, "bandwidth:", "bandwith:"))
    assert "memories.DRAM.bandwith" in message
    assert "bandwidth" in message


def test_a_field_of_yaml_given_twice(tmp_path: Path) -> None:
    message = simulate_on(hardware(tmp_path, "clock:", "clock: 1 GHz\nclock:"))
    assert "clock" in message
    assert "chip.yaml" in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: spatial", "kind: [spatial]", "kind: expected one of spatial, gpu, found ['spatial']"),
        ("kind: spatial", "[[kind]]: spatial", "a key is a list or a table; expected a word before ':'"),
        # a number as a name stands among the known ones of the message
        ("clock: 940 MHz", "2: word\nclock: 940 MHz", "2: a field name has to be a word, found 2"),
        ("parameters: {N: 256", "parameters: {2024-01-01: 1, 7: 1, M: 256", "unknown name 'N'"),
    ],
)
def test_a_key_of_yaml_that_is_no_word(tmp_path: Path, old: str, new: str, said: str) -> None:
    message = simulate_on(hardware(tmp_path, old, new))
    assert said in message and "chip.yaml: " in message
    assert "\n" not in message


def test_an_infinite_register_file_is_refused_where_it_has_a_price(tmp_path: Path) -> None:
    from importlib import resources

    text = resources.files("simulator").joinpath("hardware/library/tpu_v4i.yaml").read_text(encoding="utf-8")
    path = tmp_path / "chip.yaml"
    path.write_text(text.replace("capacity: 64 B", "capacity: inf"))
    message = refused("simulate", "attention_1pass", "--on", str(path), *SIZES)
    assert message.startswith("tpu_v4i: memories.RF1D: registers: no capacity")


def test_a_quantity_without_a_unit(tmp_path: Path) -> None:
    message = simulate_on(hardware(tmp_path, "clock: 940 MHz", "clock: 940"))
    assert "write the unit" in message
    assert "clock" in message
    assert "write the unit" in refused("bounds", "attention_3pass", *SIZES, "--buffer", "16")


def test_a_tile_that_does_not_fit_its_buffer() -> None:
    message = refused(*SIMULATE, "--sizes", "BERT/64K", "--set", "hardware.L3=4 KiB")
    assert "GlobalBuffer" in message


def test_a_table_that_lacks_a_column(tmp_path: Path) -> None:
    path = tmp_path / "measured.csv"
    path.write_text("source,device,kernel\nme,H100,flash_attention\n")
    assert "latency_ms" in refused("validate", "gpu", "--measured", str(path))
    published = tmp_path / "published"
    published.mkdir()
    (published / "attn-binding.csv").write_text("model,seq_len,traffic\nBERT,1K,1\n")
    assert "latency" in refused("validate", "fusemax", "--published", str(published))


@pytest.mark.parametrize("content", [b"", b"\x00\x01\xff\xfe\x80"], ids=["empty", "binary"])
def test_an_empty_or_binary_file(tmp_path: Path, content: bytes) -> None:
    word = "empty" if not content else "binary"
    for name, command in {
        "a.cascade": ["check"],
        "a.csv": ["validate", "gpu", "--measured"],
        "a.yaml": ["simulate", "attention_1pass", "--mapping", "fusemax", "--sizes", "BERT/1K", "--on"],
        "s.yaml": ["sweep", "--out", str(tmp_path / "out")],
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert word in refused(*command, str(path)), name


def test_a_missing_file(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.csv")
    assert "none.csv" in refused("validate", "gpu", "--measured", missing)
    assert "none.csv" in refused("validate", "fusemax", "--published", missing)
    assert "none.csv" in refused("pareto", missing, "--min", "latency_s")


@pytest.mark.parametrize("command", ["pareto", "sensitivity", "explore"])
def test_a_file_where_the_folder_of_a_sweep_is_expected(command: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("latency_s\n1\n")
    message = refused(command, str(path))
    assert message == f"{path}: found a file, expected the folder that cascade sweep wrote"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["sweep", "{spec}", "--out", ""], "--out"),
        (["sweep", "{spec}", "--out="], "--out"),
        (["evaluate", "attention_1pass", *SIZES, "--inputs", " ", "--out", "{out}"], "--inputs"),
        (["show", "attention_1pass", "--graph", ""], "--graph"),
        (["check", ""], "an argument"),
        (["kernels", "bench", "--out", ""], "--out"),
    ],
)
def test_an_empty_argument_is_a_variable_that_was_not_set(
    command: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "cascade: attention_1pass\nhardware: fusemax\nsizes: BERT/1K\naxes: {hardware.N: [64, 128]}\n"
    )
    words = [word.format(spec=spec, out=tmp_path / "out.npz") for word in command]
    assert refused(*words) == f"{named}: expected a value, found an empty text"
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


ON = ["--on", "fusemax", *SIZES]
SPATIAL, DSE = "simulator.spatial", "simulator.dse"
# Commands that work before they write, what does the work, and the ending of the file.
WORK = {
    "map": (["map", "attention_1pass", *ON, "--out"], f"{SPATIAL}.mapper.find_mapping", ".yaml"),
    "simulate": (["simulate", "attention_1pass", *ON, "--plot"], f"{SPATIAL}.model.simulate", ".svg"),
    "bounds": (
        ["bounds", "attention_1pass", *SIZES, "--plot"],
        "einsum_cascade.analysis.bounds.bounds",
        ".png",
    ),
    "reduce": (
        ["reduce", "attention_3pass", "--rank", "M", "--out"],
        "einsum_cascade.rewrite.reduce.reduce_passes",
        "",
    ),
    "evaluate": (
        ["evaluate", "attention_1pass", *SIZES, "--out"],
        "einsum_cascade.evaluator.evaluate",
        ".npz",
    ),
    "pareto": (["pareto", "runs", "--plot"], f"{DSE}.commands.run_pareto", ".svg"),
    "bench": (["kernels", "bench", "--out"], "kernels.bench.run", ".csv"),
    "campaign": (["kernels", "campaign", "--tiny", "--out"], "kernels.campaign.run", ".csv"),
}


def no_work(*args: object, **kwargs: object) -> None:
    raise AssertionError("the work was begun")


@pytest.mark.parametrize("name", WORK)
def test_a_file_that_cannot_be_written_is_told_before_the_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, work, ending = WORK[name]
    monkeypatch.setattr(work, no_work)
    path = tmp_path / "none" / f"x{ending}"
    assert refused(*command, str(path)) == f"cannot write {path}: there is no folder {path.parent}"
    folder = tmp_path / f"folder{ending}"
    folder.mkdir()
    assert refused(*command, str(folder)) == f"cannot write {folder}: Is a directory"


@pytest.mark.parametrize("name", ["map", "simulate", "bounds", "pareto"])
def test_an_ending_that_names_no_format_is_told_before_the_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, work, _ = WORK[name]
    monkeypatch.setattr(work, no_work)
    assert "x.doc: expected a file that ends in " in refused(*command, str(tmp_path / "x.doc"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["demo"], ["reproduce", "fusemax"], ["gallery"]])
def test_a_folder_that_takes_no_file_is_told_before_the_work(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("validation.demo.CHAPTERS", (("describe", no_work),))
    monkeypatch.setattr("validation.reproduce.attention_table", no_work)
    monkeypatch.setattr("validation.gallery.page.rows", no_work)
    file = tmp_path / "file"
    file.write_text("kept")
    assert f"{file}" in refused(*command, "--out", str(file))
    assert file.read_text() == "kept"
    if Path("/proc/self").is_dir():  # a folder that is there and takes no file, not even from root
        assert "/proc" in refused(*command, "--out", "/proc")


def test_the_stored_table_of_resources_is_tried_before_kernels_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.report.store_path", lambda: tmp_path / "none" / "x.csv")
    monkeypatch.setattr("kernels.aot.compile_shipped", no_work)
    assert "there is no folder" in refused("kernels", "compile", "--write")


def test_the_page_of_a_sweep_is_tried_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, out, page = tmp_path / "spec.yaml", tmp_path / "out", tmp_path / "none" / "page.html"
    spec.write_text(
        "cascade: attention_1pass\nhardware: fusemax\nsizes: BERT/1K\naxes: {hardware.N: [64, 128]}\n"
    )
    ran = CliRunner().invoke(app, ["sweep", str(spec), "--out", str(out), "--jobs", "1"])
    assert ran.exit_code == 0, ran.output
    monkeypatch.setattr("simulator.dse.explorer.page_of", no_work)
    assert "there is no folder" in refused("explore", str(out), "--page", str(page))


def test_a_gpu_is_refused_before_its_fields(tmp_path: Path) -> None:
    on_gpu = ["--on", "h100", "--sizes", "BERT/1K"]
    message = (
        "h100 is a GPU; expected a spatial chip: edge, flat, fusemax, tpu_v4i; "
        "`cascade predict CASCADE --on h100 --sizes ...` lays a cascade on a GPU"
    )
    assert refused("simulate", "attention_1pass", *on_gpu, "--set", "hardware.N=64") == message
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "cascade: attention_1pass\nhardware: h100\nmapping: fusemax\nsizes: BERT/1K\naxes: {hardware.N: [64, 128]}\n"
    )
    assert refused("sweep", str(spec), "--out", str(tmp_path / "out")) == message


def test_an_unknown_chip_is_answered_with_the_names_of_all() -> None:
    message = refused("simulate", "attention_1pass", "--on", "xyzzy", *SIZES)
    assert "a100, " in message and message.endswith("tpu_v4i")
    assert "80GB" not in message  # an alias


def test_a_number_of_choices_is_none_of_the_negative_ones() -> None:
    message = refused("gna-tune", "--layout", "64", "--window", "16", "--on", "h100", "--top", "-1")
    assert message.endswith("--top: expected a number of choices, or 0 for all, found -1")
    assert "\n" not in message


@pytest.mark.parametrize("command", [["demo"], ["gallery"], ["reproduce", "gna"]])
def test_a_folder_that_cannot_be_written_is_told_before_the_work(command: list[str], tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    begun = time.process_time()
    message = refused(*command, "--out", str(taken))
    assert "taken" in message
    assert "\n" not in message
    # The shortest of them works for seconds when it may.
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    "given", ["attention_3pass", "Z[m] = A[m]\nY = sum(m) Z[m]", None, Path("a.cascade")]
)
def test_what_is_no_cascade_is_refused_by_every_verb_of_the_face(given: object) -> None:
    verbs = {
        "passes": {"rank": "M"}, "all_passes": {}, "bounds": {"sizes": "M=8"}, "reduce_passes": {"rank": "M"},
        "traffic_curve": {"sizes": "M=8", "buffers_bytes": [1.0]}, "render": {}, "latex": {},
        "evaluate": {"sizes": "M=8", "inputs": {}}, "random_inputs": {"sizes": "M=8"},
    }  # fmt: skip
    for verb, rest in verbs.items():
        with pytest.raises(ec.CascadeError, match=r"expected a Cascade, found .*.*zoo\.load") as found:
            getattr(ec, verb)(given, **rest)
        assert repr(given)[:9] in str(found.value)
