"""The direction of imports, and what the library never does: print, pickle, eval, global JAX settings."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ase_deeph"

FLOORS = [
    {"basis", "compilation_cache", "processes", "workers"},
    {"neighbours"},
    {"pairs", "harmonics", "coupling", "spin_coupling"},
    {"bloch"},
    {"matrix", "graph", "reference", "domain", "pauli", "moments", "predictable"},
    {"kpoints", "eigen", "eigen_batched", "occupation", "network", "two_center", "io", "dft"},
    {"large"},
    {
        "model",
        "potential",
        "spin",
        "bands",
        "band_derivatives",
        "dos",
        "orthogonalization",
        "sparse",
        "hosts",
    },
    {"electronic_structure"},
    {"calculator", "sources", "exporters", "transport", "pretrained", "validation"}
    | {"calculator_bands", "calculator_energies", "calculator_prediction"}
    | {"populations", "spin_states", "electronic_trajectory", "derivatives"}
    | {"uncertainty", "uncertainty_levels", "uncertainty_ranking", "workflow"},
    {"cli", "trainers"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ALLOWED_UPWARD = {("cli", "trainers")}
"""The cli calls trainers, lazily; both live on the top floor."""

SOURCES = sorted(PACKAGE.rglob("*.py")) + sorted((ROOT / "trainers").rglob("*.py"))
LIBRARY = [s for s in SOURCES if "cli" not in s.relative_to(ROOT).parts and "trainers" not in s.parts]


def room(source: Path) -> str:
    """The part of the house that a file belongs to."""
    parts = source.relative_to(ROOT).with_suffix("").parts
    return "trainers" if parts[0] == "trainers" else parts[1]


def imported_rooms(tree: ast.Module) -> set[str]:
    """The parts of the house that a file imports, at the top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            names |= (
                {f"{node.module}.{alias.name}" for alias in node.names}
                if node.module == "ase_deeph"
                else {node.module or ""}
            )
    ours = (name.split(".") for name in names if name.split(".")[0] in ("ase_deeph", "trainers"))
    rooms = {"trainers" if parts[0] == "trainers" else parts[1] for parts in ours if parts != ["ase_deeph"]}
    return rooms & FLOOR_OF.keys()


def identifier(source: Path) -> str:
    return str(source.relative_to(ROOT))


@pytest.mark.parametrize("source", [s for s in SOURCES if s != PACKAGE / "__init__.py"], ids=identifier)
def test_imports_go_down(source: Path) -> None:
    own = room(source)
    assert own in FLOOR_OF, f"{own} has no floor in the house; give it one here and in docs"
    for other in imported_rooms(ast.parse(source.read_text())) - {own}:
        assert FLOOR_OF[other] <= FLOOR_OF[own], (
            f"{identifier(source)} imports {other}, which stands above it"
        )
        if own == "trainers":
            assert other != "cli"


def test_no_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for source in SOURCES:
        if source != PACKAGE / "__init__.py":
            graph.setdefault(room(source), set()).update(
                imported_rooms(ast.parse(source.read_text())) - {room(source)}
            )
    while graph:
        leaves = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert leaves, f"import cycle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in leaves}


@pytest.mark.parametrize("source", SOURCES, ids=identifier)
def test_size_and_first_line(source: Path) -> None:
    text = source.read_text()
    assert text.count("\n") < 400, "over 400 lines: more than one idea"
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "the first docstring line says what the file is about"


@pytest.mark.parametrize("source", LIBRARY, ids=identifier)
def test_library_stays_quiet_and_safe(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec"), f"{node.func.id} at line {node.lineno}"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {"pickle", "dill", "cloudpickle", "joblib", "marshal"} & {
                m.split(".")[0] for m in modules
            }


@pytest.mark.parametrize("source", LIBRARY, ids=identifier)
def test_library_leaves_jax_settings_alone(source: Path) -> None:
    if source.name == "compilation_cache.py":
        pytest.skip("sets the cache directory within a block and restores it, see test_calculator")
    assert "jax.config.update" not in source.read_text()


def test_public_names_resolve() -> None:
    import ase_deeph

    for name in ase_deeph.__all__:
        assert getattr(ase_deeph, name) is not None


def test_importing_the_package_does_no_work() -> None:
    import subprocess
    import sys

    code = "import sys, ase_deeph; assert not {'jax', 'scipy', 'ase'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_conventions_cite_tests_that_exist() -> None:
    import re

    page = (ROOT / "docs" / "conventions.md").read_text()
    cited = re.findall(r"`(test_\w+\.py)::(test_\w+)`", page)
    assert len(cited) > 15
    for module, name in cited:
        assert f"def {name}(" in (ROOT / "tests" / module).read_text(), (
            f"{module}::{name} is cited and not there"
        )
