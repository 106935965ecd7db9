"""YAML -> dataclasses: what is refused, and how the message reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import pytest

from einsum_cascade.errors import DataError, MappingError
from mappings.reader import build, parse_yaml, read_yaml
from mappings.schema import Unit, legal_keys


@dataclass(frozen=True, slots=True)
class Store:
    capacity_bytes: Annotated[float, Unit("byte", "capacity")]
    ports: int = 1


@dataclass(frozen=True, slots=True)
class Machine:
    name: str
    stores: dict[str, Store]
    shape: tuple[int, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if not self.stores:
            raise ValueError("stores: at least one is needed")


GOOD = {"name": "x", "stores": {"A": {"capacity": 4.0}}, "shape": [1, 2]}


def test_build():
    assert build(Machine, GOOD, where="f") == Machine("x", {"A": Store(4.0)}, (1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nam": "x"}, "f: nam: unknown field; did you mean 'name'?"),
        ({"stores": {"A": {"capacty": 1}}}, "f: stores.A.capacty: unknown field; did you mean 'capacity'?"),
        ({"stores": {"A": {"capacity": "much"}}}, "f: stores.A.capacity: "),
        ({"stores": {"A": {}}}, "f: stores.A.capacity: this field is required"),
        ({"stores": {}}, "f: stores: at least one is needed"),
        ({"stores": [1]}, "f: stores: "),
        ({"shape": [1, "b"]}, "f: shape.1: "),
        ({"stores": {3: {"capacity": 1}}}, "f: stores.3: a field name has to be a word"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(MappingError) as caught:
        build(Machine, {**GOOD, **change}, where="f")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_not_a_mapping(data):
    with pytest.raises(DataError, match="expected fields such as 'name: "):
        build(Machine, data, where="f", error=DataError)


def test_words_of_the_file():
    assert legal_keys(Machine, ("stores", "A")) == ("capacity", "ports")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", ":3:1: "),
        ("a: [1, 2\n", "expected"),
        ("a: b: c\n", ":1:5: "),
        ("# only a comment\n", "comments only"),
        ("a: &x [*x]\n", ""),
        ("a: !!python/object:os.system x\n", ""),
    ],
)
def test_yaml_mistakes_have_a_place(tmp_path, text, message):
    path = tmp_path / "f.yaml"
    path.write_text(text)
    try:
        read_yaml(path)
    except MappingError as e:
        assert message in str(e)
        assert str(path) in str(e)
    else:
        assert message == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"\x89PNG\xff\xfe", "not a text file"),
        (b"a\x00b", "zero byte"),
    ],
)
def test_files_that_are_no_descriptions(tmp_path, content, message):
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(MappingError, match=message):
        read_yaml(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_yaml(tmp_path / "none.yaml", error=DataError)
    with pytest.raises(DataError, match="cannot be read"):
        read_yaml(tmp_path, error=DataError)


def test_huge_file(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_bytes(b"a" * (5 << 20))
    with pytest.raises(MappingError, match="too many"):
        read_yaml(path)


def test_yaml_12():
    assert parse_yaml("a: 1e9\nno: off\nb: 0o17\n", "f") == [{"a": 1e9, "no": "off", "b": 15}]
