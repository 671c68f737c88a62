"""`deeph dataset rank`: the candidate structures that a committee knows least about, as a table and as a recipe."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

    from ase_deeph.dft.selection import Engine
    from ase_deeph.sources import Committee
    from ase_deeph.uncertainty_ranking import RankedStructure

_OUTPUTS = (".toml", ".xyz", ".extxyz", ".traj")


@dataclass(frozen=True)
class _Candidates:
    """Named structures, and the engine and meshes their recipe names."""

    structures: list[tuple[str, Atoms]]
    engine: Engine | None = None
    kpts: dict[str, tuple[int, int, int]] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CANDIDATES, models, how many, and where to."""
    parser.add_argument(
        "candidates",
        metavar="CANDIDATES",
        help="a file of many frames that ase.io reads, or a recipe (.toml)",
    )
    parser.add_argument(
        "--model", metavar="M", action="append", default=[], help="name or HDF5 file; give two or more"
    )
    parser.add_argument("-n", "--number", type=int, default=10, metavar="N", help="chosen (default 10)")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="chosen ones: .toml (a recipe), .xyz, .extxyz or .traj"
    )
    parser.add_argument("--kpts", metavar="K", help="mesh N1,N2,N3 or density of the levels (default 2.0)")
    parser.add_argument("--no-levels", action="store_true", help="H alone, without the spread of levels")
    parser.add_argument("--device", help="cpu or gpu (default: what JAX finds)")


def run(arguments: argparse.Namespace) -> int:
    """Rank, print, write.

    Raises
    ------
    ValueError, KeyError : fewer than two models, an unreadable file, or candidates that no model can predict.
    """
    from ase_deeph.cli.options import check_output, parse_kpts
    from ase_deeph.cli.progress import progress
    from ase_deeph.sources import Committee
    from ase_deeph.uncertainty_ranking import KPTS, choose, rank

    if len(arguments.model) < 2:
        raise ValueError(
            f"--model: expected two or more, a committee, received {len(arguments.model)}; repeat --model"
        )
    if arguments.number < 1:
        raise ValueError(f"-n: expected at least 1, received {arguments.number}")
    output = check_output(arguments.output, _OUTPUTS) if arguments.output else None
    if output is not None and Path(arguments.candidates).resolve() in _files(output):
        raise ValueError(f"-o {output}: it would replace the candidates; expected another name")
    kpts = KPTS if arguments.kpts is None else parse_kpts(arguments.kpts)
    committee = Committee(arguments.model, device=arguments.device)
    candidates = _read(Path(arguments.candidates))
    bar = progress(candidates.structures, "ranking", quiet=arguments.quiet)
    ranked = rank(bar, committee, kpts=None if arguments.no_levels else kpts)
    chosen = choose(ranked, arguments.number)
    _print(ranked, {r.name for r in chosen})
    if output is not None:
        _write(output, [(r.name, r.atoms) for r in chosen], candidates, committee)
        if not arguments.quiet:
            print(f"{output}: {len(chosen)} of {len(ranked)} candidates")
    return 0


def _files(output: Path) -> list[Path]:
    """What -o writes: the file, and beside a recipe its structures."""
    return [output.resolve(), output.with_suffix(".xyz").resolve() if output.suffix == ".toml" else output]


def _read(path: Path) -> _Candidates:
    """The candidates of a recipe or of a file with frames."""
    if not path.is_file():
        raise ValueError(
            f"candidates {str(path)!r}: no such file; give a recipe (.toml) or what ase.io reads"
        )
    if path.suffix.lower() != ".toml":
        return _Candidates(list(_frames(path)))
    from ase_deeph.dft.recipe import read_recipe

    recipe = read_recipe(path)
    samples = list(recipe.samples())
    meshes = {s.id: s.entry.kpts for s in samples if s.entry.kpts is not None}
    return _Candidates([(s.id, s.atoms()) for s in samples], (recipe.engine, recipe.settings), meshes)


def _frames(path: Path) -> Iterator[tuple[str, Atoms]]:
    from ase.io import read

    try:
        frames: Any = read(path, index=":")
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"candidates {str(path)!r}: ase.io cannot read them: {reason}") from error
    stem = path.stem.strip(". ").replace(" ", "_") or "candidate"
    for n, atoms in enumerate(frames):
        if len(atoms):
            yield f"{stem}-{n:04d}", atoms


def _print(ranked: list[RankedStructure], chosen: set[str]) -> None:
    """One line per candidate; * marks the chosen ones, energies in meV."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{1e3 * value:.3f}"

    width = max(len(r.name) for r in ranked)
    print(
        f"  {'id':<{width}}  {'atoms':>5}  {'H (meV)':>9}  {'levels (meV)':>12}  outside the training domain"
    )
    for r in ranked:
        note = f"refused: {r.refused}" if r.refused else "; ".join(r.outside_domain)
        mark = "*" if r.name in chosen else " "
        print(
            f"{mark} {r.name:<{width}}  {len(r.atoms):>5}  {number(r.spread):>9}  {number(r.levels):>12}  "
            f"{' '.join(note.split())}".rstrip()
        )


def _write(
    output: Path, chosen: list[tuple[str, Atoms]], candidates: _Candidates, committee: Committee
) -> None:
    """The chosen structures; a recipe takes engine and settings of the candidates' recipe or the models' data."""
    from ase_deeph.dft.selection import engine_of, write_frames, write_selection

    if output.suffix.lower() != ".toml":
        write_frames(output, chosen)
        return
    known = [engine_of(getattr(m, "provenance", {})) for m in committee.members]
    engine = candidates.engine or next((e for e in known if e is not None), ("gpaw", {}))
    write_selection(output, chosen, engine=engine, kpts=candidates.kpts)
