"""pyatb reads what write_pyatb writes: its own command gives our bands, its library our positions."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ase_deeph import ElectronicStructure
from ase_deeph.exporters import write_pyatb
from ase_deeph.exporters.cells import orbital_list
from ase_deeph.exporters.positions import positions_of
from ase_deeph.exporters.pyatb import abacus_order
from tests.systems_exporters import EXAMPLES, carbon_layer, dichalcogenide, generic_points, random_structure

STRUCTURES = {
    "graphene": carbon_layer,
    "MoTe2": dichalcogenide,
    "polarised": lambda: random_structure("collinear"),
    "spinor": lambda: random_structure("spinor"),
    "orthogonal spinor": lambda: random_structure("spinor", orthogonal=True),
}

READ = """
import copy, os, sys
import numpy as np
from pyatb import init_tb
from pyatb.io import input as reader
from pyatb.io.default_input import INPUT
for folder in sys.argv[1:]:
    os.chdir(folder)
    fresh = copy.deepcopy(INPUT)
    reader.INPUT = fresh
    reader.update_INPUT("Input")
    given, lattice = fresh["INPUT_PARAMETERS"], fresh["LATTICE"]
    k = np.load("k.npy")
    has_r = given["rR_route"] != []
    model = init_tb(
        package="ABACUS", nspin=given["nspin"], lattice_constant=lattice["lattice_constant"],
        lattice_vector=np.array(lattice["lattice_vector"]), HR_unit=given["HR_unit"],
        HR_route=given["HR_route"], SR_route=given["SR_route"],
        need_rR=has_r, rR_route=given["rR_route"], rR_unit=given["rR_unit"],
    )
    solvers = [model.tb_solver_up, model.tb_solver_dn] if given["nspin"] == 2 else [model.tb_solver]
    np.savez(
        "read.npz",
        energies=[s.diago_H_eigenvaluesOnly(k) for s in solvers], h=[s.get_Hk(k) for s in solvers],
        s=solvers[0].get_Sk(k), r=solvers[0].get_rk(k) if has_r else 0,
        velocities=[s.get_velocity_matrix(k)[1] for s in solvers] if has_r else 0,
        fermi_level=given["fermi_energy"],
    )
"""


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """What pyatb reads of each structure; it starts MPI and makes folders, so it runs in a process of its own."""
    if importlib.util.find_spec("pyatb") is None:
        pytest.skip("pyatb is not installed (pip install pyatb; it needs an MPI library)")
    folders = {}
    for name, build in STRUCTURES.items():
        if name == "MoTe2" and EXAMPLES is None:
            continue
        es = build()
        folders[name] = tmp_path_factory.mktemp("pyatb") / "written"
        write_pyatb(es, folders[name], positions="none" if name == "polarised" else "auto")
        np.save(folders[name] / "k.npy", generic_points(es))
    run = subprocess.run(
        [sys.executable, "-c", READ, *map(str, folders.values())],
        cwd=next(iter(folders.values())),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return {name: dict(np.load(folder / "read.npz")) for name, folder in folders.items()}


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_pyatb(name: str, read: dict[str, dict[str, np.ndarray]]) -> None:
    """Bands, Fermi level, and every element of H(k), S(k) and r(k) in pyatb's order and signs."""
    es = STRUCTURES[name]()
    k, got = generic_points(es), read[name]
    assert np.abs(got["energies"] - es.eigenvalues(k)).max() < 1e-6
    assert abs(float(got["fermi_level"]) - es.fermi_level()) < 1e-9
    orbitals = orbital_list(es.hamiltonian)
    order = abacus_order(orbitals, es.atoms.get_chemical_symbols())
    both = np.outer(orbitals[order].phases, orbitals[order].phases)
    r = [] if got["r"].ndim == 0 else positions_of(es)
    assert len(r) == (0 if name == "polarised" else 3)
    for number, point in enumerate(k):
        h = es.hamiltonian.at_k(point) if es.n_spins == 2 else es.hamiltonian.at_k(point)[None]
        assert np.abs(got["h"][:, number] - both * h[:, order][:, :, order]).max() < 1e-7
        if es.overlap is not None:
            s = es.overlap.at_k(point)[np.ix_(order, order)]
            assert np.abs(got["s"][number] - both * s).max() < 1e-8
        for axis, component in enumerate(r):
            ours = both * component.at_k(point)[np.ix_(order, order)]
            upper = np.triu_indices(len(order))
            assert np.abs(got["r"][number, axis] - ours)[upper].max() < 1e-8


def test_velocities(read: dict[str, dict[str, np.ndarray]]) -> None:
    """The diagonal of pyatb's velocities, which knows r, is our dE/dk."""
    es = carbon_layer()
    theirs = np.einsum("kaii->kia", read["graphene"]["velocities"][0]).real
    assert np.abs(theirs - es.group_velocities(generic_points(es))[0]).max() < 1e-5


def test_complex_without_spinors_is_refused(tmp_path: Path) -> None:
    es = random_structure()
    odd = replace(es.hamiltonian, entries=es.hamiltonian.entries.astype(complex))
    with pytest.raises(ValueError, match="spinors only"):
        write_pyatb(ElectronicStructure(odd, es.overlap), tmp_path)
