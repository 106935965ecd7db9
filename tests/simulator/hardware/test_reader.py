"""Hardware files: units, parameters, overrides, and what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade.errors import HardwareError
from simulator.hardware.model import SpatialChip
from simulator.hardware.reader import load_hardware, names, quantity


def test_every_chip_of_the_library_loads():
    for name in names():
        assert load_hardware(name).name


def test_fusemax_in_si_units():
    chip = load_hardware("fusemax")
    assert isinstance(chip, SpatialChip)
    assert chip.clock_hz == 940e6
    assert chip.memories["DRAM"].bandwidth_bytes_per_s == 400 * 2**30
    assert chip.memories["GlobalBuffer"].capacity_bytes == 16 * 2**20
    assert chip.memories["GlobalBuffer"].row_bytes == 512
    assert chip.hierarchy("PE2D") == ("DRAM", "GlobalBuffer", "ColumnBuffer", "RF2D")


def test_parameters_reach_every_expression():
    chip = load_hardware("fusemax", N="128", L3="4 MiB")
    assert chip.arrays["PE2D"].shape == (128, 128)
    assert chip.memories["GlobalBuffer"].row_bytes == 256
    assert chip.memories["GlobalBuffer"].capacity_bytes == 4 * 2**20
    assert chip.parameters["N"] == 128


def test_any_field_by_its_path():
    chip = load_hardware("fusemax", {"memories.DRAM.bandwidth": "200 GiB/s"})
    assert chip.memories["DRAM"].bandwidth_bytes_per_s == 200 * 2**30
    assert load_hardware("fusemax", {"arrays.PE2D.shape.0": 64}).arrays["PE2D"].shape == (64, 256)
    for shape in ("64,128", "[64, 128]", [64, 128]):
        assert load_hardware("fusemax", {"arrays.PE2D.shape": shape}).arrays["PE2D"].shape == (64, 128)
    assert load_hardware("fusemax", {"arrays.PE2D.shape": "N/2,2*N"}).arrays["PE2D"].shape == (128, 512)
    assert load_hardware("fusemax", {"clock": "1 GHz"}).clock_hz == 1e9
    assert (
        load_hardware("fusemax", {"memories.GlobalBuffer.bandwidth": "1 TiB/s"})
        .memories["GlobalBuffer"]
        .bandwidth_bytes_per_s
        == 2**40
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"L3": 16}, "memories.GlobalBuffer.capacity: L3 has no unit; write the unit: '16 MiB'"),
        ({"static_power": "-5 W"}, "static_power: expected a finite power of zero or more, found -5"),
        ({"arrays.PE2D.ops": "mac"}, "arrays.PE2D.ops: expected 'name: value' pairs, found 'mac'"),
        ({"L3": "16 GHz"}, "expected a quantity like '16 MiB', found 'L3'"),
        ({"L3": "16 radian"}, "'radian' is not defined"),
        ({"L3": "16 MB )("}, "is not a quantity"),
        ({"memories.DRAM.bandwidth": "3 GHz"}, "expected a quantity like '400 GiB/s', found '3 GHz'"),
        ({"memories.DRAM.bandwidth": 3}, "3 has no unit; write the unit: '400 GiB/s'"),
        ({"memories.DRAM.bandwith": "3 GB/s"}, "unknown field; did you mean 'bandwidth'?"),
        ({"memories.DRM.bandwidth": "3 GB/s"}, "did you mean 'DRAM'?"),
        ({"memories.DRAM.bandwidth": "0 B/s"}, "expected more than zero"),
        ({"memories.DRAM.bandwidth": "-1 B/s"}, "expected more than zero"),
        ({"Q": 4}, "no parameter or field 'Q'"),
        ({"N": "16 MiB"}, "expected a quantity like '16 MiB', found 'N * word'"),
        ({"N": 1.5}, "fractional"),
        ({"N": 0}, "memories.GlobalBuffer: row: expected more than zero"),
        ({"N": "K"}, "unknown name 'K'"),
        ({"N": "2 +"}, "is not an expression"),
        ({"N": "1 / 0"}, "cannot be computed"),
        ({"N": True}, "expected a number"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(HardwareError) as caught:
        load_hardware("fusemax", changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("clock: 940 MHz", "clok: 940 MHz", "clok: unknown field; did you mean 'clock'?"),
        (
            "clock: 940 MHz",
            "clock: true",
            "clock: expected a number, a quantity or an expression, found True",
        ),
        ("exp: {mac: 6}", "exp: {mac: true}", "ops.exp.mac: expected a number"),
        ("clock: 940 MHz", "clock: 940", "940 has no unit; write the unit: '940 MHz'"),
        ("kind: spatial", "kind: spacial", "kind: expected one of spatial, gpu, found 'spacial'"),
        ("of: PE2D,", "of: PE3D,", "no array 'PE3D'; did you mean"),
        ("exp: {mac: 6}", "exq: {mac: 6}", "unknown operation 'exq'"),
        ("exp: {mac: 6}", "exp: {mack: 6}", "unknown unit 'mack'"),
        ("name: fusemax", "name: fusemax\nname: again", "once"),
        ("part_of: RF1D", "part_of: RF3D", "no memory 'RF3D'"),
    ],
)
def test_malformed_files(tmp_path, old, new, message):
    from simulator.hardware.reader import find_hardware

    text = find_hardware("fusemax").read_text()
    assert old in text
    path = tmp_path / "chip.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(HardwareError) as caught:
        load_hardware(path)
    assert message in str(caught.value)


def test_files_that_are_none(tmp_path):
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\x00\xff\x89")
    for path, message in ((empty, "empty"), (binary, "not a text file"), (tmp_path / "no.yaml", "no such")):
        with pytest.raises(HardwareError, match=message):
            load_hardware(path)
    with pytest.raises(HardwareError, match="did you mean 'fusemax'"):
        load_hardware("fusemx")


@pytest.mark.parametrize(
    ("chip", "key", "factor", "field"),
    [
        ("h100", "exp_per_cycle", "x2", lambda c: c.exp_per_cycle),
        ("h100", "l2", "x0.5", lambda c: c.l2_bytes),
        ("h100", "sms", "x0.5", lambda c: c.sms),
        ("h100", "tensor.bf16", "x 1.5", lambda c: c.tensor.bf16),
        ("h100", "memory_bandwidth", "×4", lambda c: c.memory_bandwidth_bytes_per_s),
        ("fusemax", "N", "x.25", lambda c: c.arrays["PE1D"].shape[0]),
        ("fusemax", "L3", "x3", lambda c: c.memories["GlobalBuffer"].capacity_bytes),
        ("fusemax", "memories.DRAM.bandwidth", "x2", lambda c: c.memories["DRAM"].bandwidth_bytes_per_s),
        ("fusemax", "arrays.PE2D.shape.0", "x2", lambda c: c.arrays["PE2D"].shape[0]),
        (
            "fusemax",
            "memories.GlobalBuffer.capacity",
            "x2",
            lambda c: c.memories["GlobalBuffer"].capacity_bytes,
        ),
    ],
)
def test_a_factor_multiplies_what_the_file_says(chip, key, factor, field):
    times = float(factor.strip("x× "))
    assert field(load_hardware(chip, {key: factor})) == times * field(load_hardware(chip))


@pytest.mark.parametrize(
    ("chip", "changes", "message"),
    [
        ("h100", {"tensor": "x2"}, "tensor: 'x2' multiplies one number; the file says {'fp16'"),
        ("h100", {"energy.idle": "x2"}, "energy"),
        (
            "h100",
            {"tensor_memory_columns": "x2"},
            "tensor_memory_columns: 'x2' multiplies one number; the file says None",
        ),
        ("h100", {"sms": "x0.3"}, "sms"),
        ("h100", {"clock": "x0"}, "clock: expected a positive number"),
        ("h100", {"clock": "x-1"}, "clock"),
    ],
)
def test_a_factor_of_what_is_no_number(chip, changes, message):
    with pytest.raises(HardwareError) as caught:
        load_hardware(chip, changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(
    st.floats(1e-3, 1e6),
    st.sampled_from([("KiB", 2**10), ("MiB", 2**20), ("kB", 1e3), ("GB", 1e9), ("B", 1)]),
)
def test_quantities(number, unit):
    name, factor = unit
    assert math.isclose(quantity(f"{number!r} {name}", "byte", where="t"), number * factor, rel_tol=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_quantity_or_one_clear_line(text):
    try:
        quantity(text, "byte", where="t")
    except HardwareError as e:
        assert str(e).startswith("t: ")


@pytest.mark.parametrize(("field", "says"), [("clock", "clock"), ("memories.GlobalBuffer.row", "row")])
def test_what_has_to_be_finite(field, says):
    with pytest.raises(HardwareError, match=rf"{says}: expected a finite number"):
        load_hardware("fusemax", {field: "inf"})
