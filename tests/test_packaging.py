"""The wheel, installed alone in an empty environment, imports from any folder and finds its data files."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PROBE = textwrap.dedent(
    """
    import importlib, sys
    from importlib import resources
    for name in ("einsum_cascade", "simulator", "mappings", "kernels", "validation"):
        module = importlib.import_module(name)
        assert sys.prefix in module.__file__, module.__file__
    wanted = [
        ("einsum_cascade", "grammar.lark"),
        ("einsum_cascade", "zoo/attention_1pass.cascade"),
        ("einsum_cascade", "zoo/workloads.csv"),
        ("einsum_cascade", "py.typed"),
        ("mappings", "library/fusemax.yaml"),
        ("simulator", "hardware/library/fusemax.yaml"),
        ("simulator", "hardware/units.txt"),
        ("validation", "data/published/gna_counts.json"),
    ]
    for package, file in wanted:
        assert resources.files(package).joinpath(file).is_file(), (package, file)
    import einsum_cascade as ec
    assert ec.zoo.load("attention_3pass").name == "attention_3pass"
    print("found everything")
    """
)


@pytest.mark.slow
@pytest.mark.xdist_group("packaging")
def test_wheel_installed_in_an_empty_environment(tmp_path: Path) -> None:
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        str(source),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")

    # The libraries come from the environment that runs this test; only our own five packages are installed anew.
    empty = tmp_path / "empty"
    venv.create(empty, with_pip=True)
    python = empty / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    # A .pth file would also run our own editable finder; a plain path beside the installed wheel does not.
    libraries = next(p for p in sys.path if p.endswith("site-packages"))
    probe = f"import sys; sys.path.append({libraries!r})\n" + PROBE
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ran = subprocess.run(
        [str(python), "-c", probe], cwd=elsewhere, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "found everything"


def test_a_foreign_neighbour_is_noticed(tmp_path: Path) -> None:
    """Another distribution's `kernels` that stands first on the path causes a warning that names it."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("")
    first = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    code = f"{first}; import einsum_cascade as ec; print(ec.foreign_neighbours())"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "'import kernels' gives another package" in ran.stderr
    assert str(tmp_path / "kernels") in ran.stdout
