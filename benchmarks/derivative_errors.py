"""dH/dR of models against central differences of the DFT, atom by atom.

    python benchmarks/derivative_errors.py displace RECIPE.toml FOLDER [--atoms 2] [--step 0.01]
    python benchmarks/derivative_errors.py measure FOLDER MODEL.h5 [MODEL.h5 ...]

`displace` moves some atoms of every structure of a recipe, one at a time, by plus and minus the step along a random
direction, and runs the recipe's engine on both.  `measure` gives the relative L2 error |dH - dH_DFT| / |dH_DFT| over
all entries of all displacements, raw and after the best a·S + b·∂S of each, a change of the zero of energy.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from ase_deeph import HamiltonianModel
from ase_deeph.derivatives import hamiltonian_derivatives
from ase_deeph.dft.generate import STRUCTURES, engine_function
from ase_deeph.dft.recipe import Sample, read_recipe
from ase_deeph.io.dataset import read_dataset
from ase_deeph.io.deeph import BASIS, write_basis_file, write_deeph
from trainers.slopes import KEY, middle, paired


def displace(recipe: Path, folder: Path, n_atoms: int, step: float) -> None:
    """Run the engine on both sides of every displacement that is not there yet."""
    for sample in read_recipe(recipe).samples():
        rng = np.random.default_rng([*sample.seed, 5])
        atoms = sample.atoms()
        for moved in rng.permutation(len(atoms))[:n_atoms]:
            direction = rng.normal(size=3)
            direction *= step / np.linalg.norm(direction)
            for sign in (1, -1):
                run(sample, folder, int(moved), sign * direction, sign)


def run(sample: Sample, folder: Path, moved: int, displacement: np.ndarray, sign: int) -> None:
    """One calculation, written as one folder."""
    pair = f"{sample.id}-atom{moved}"
    out = folder / STRUCTURES / f"{pair}{'+' if sign > 0 else '-'}"
    if out.exists():
        return
    atoms = sample.atoms()
    atoms.positions[moved] += displacement
    data = engine_function(sample.recipe.engine)(atoms, **sample.settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    if data.basis is not None and not (folder / BASIS).exists():
        write_basis_file(folder / BASIS, data.basis)
    data = replace(data, info={**data.info, KEY: {"name": pair, "sign": sign}})
    write_deeph(out, data, own_basis=False)
    print(out.name, flush=True)


def measure(folder: Path, models: list[Path]) -> None:
    """Print the errors of each model."""
    pairs = [p for p in paired(read_dataset([folder])) if p[2] is not None]
    for path in models:
        model = HamiltonianModel.load(path)
        sums = np.array([errors(model, *pair) for pair in pairs])
        raw, fixed, size, count = sums.sum(axis=0)
        print(
            f"{path}: {len(pairs)} displacements, |dH|/|entries|^½ = {np.sqrt(size / count):.3f} eV/Å, relative L2 "
            f"error {np.sqrt(raw / size):.2%} raw, {np.sqrt(fixed / size):.2%} gauge-fixed (worst displacement "
            f"{np.sqrt((sums[:, 1] / sums[:, 2]).max()):.2%})",
            flush=True,
        )


def errors(model: HamiltonianModel, name: str, plus, minus) -> tuple[float, float, float, int]:  # type: ignore[no-untyped-def]
    """(sum of squares of the error, the same gauge-fixed, sum of squares of dH, entries) of one displacement."""
    here, s = middle(name, plus, minus)
    direction = (plus.atoms.positions - minus.atoms.positions) / (2 * s)
    true = (plus.hamiltonian - minus.hamiltonian) * (0.5 / s)
    change = (plus.overlap - minus.overlap) * (0.5 / s)
    found = hamiltonian_derivatives(model, here.atoms, direction[None])[0]
    pairs = true.pairs.union(found.pairs)
    residual = (found.on(pairs) - true.on(pairs)).entries
    assert here.overlap is not None
    gauge = np.stack([here.overlap.restricted_to(pairs).entries, change.restricted_to(pairs).entries], axis=1)
    best = np.linalg.lstsq(gauge, residual, rcond=None)[0]
    fixed = residual - gauge @ best
    return float(residual @ residual), float(fixed @ fixed), float(np.sum(true.entries**2)), true.entries.size


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    first = verbs.add_parser("displace")
    first.add_argument("recipe", type=Path)
    first.add_argument("folder", type=Path)
    first.add_argument("--atoms", type=int, default=2)
    first.add_argument("--step", type=float, default=0.01)
    second = verbs.add_parser("measure")
    second.add_argument("folder", type=Path)
    second.add_argument("models", type=Path, nargs="+")
    given = parser.parse_args()
    if given.verb == "displace":
        displace(given.recipe, given.folder, given.atoms, given.step)
    else:
        measure(given.folder, given.models)


if __name__ == "__main__":
    main()
