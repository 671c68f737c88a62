"""Files of SIESTA, ABACUS and FHI-aims written from a small known crystal, independently of their readers.

Every writer takes dense matrices M(R)[a, b] = ⟨a, 0|M|b, R⟩ in our order and puts order, signs, R and the atoms'
cells as the code has them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree, Rydberg

from ase_deeph.basis import GridRadial, OrbitalBasis, SpeciesBasis
from ase_deeph.io.proof import spin_orbit
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.reference import ReferenceData
from ase_deeph.two_center import overlap

Dense = Mapping[tuple[int, int, int], np.ndarray]


def _radial(l: int, width: float) -> GridRadial:
    """A normalised smooth function of range 5.5 Bohr on the grid that SIESTA and ABACUS use."""
    r = np.linspace(0.0, 5.5, 551)
    values = r**l * np.exp(-((r / width) ** 2)) * (1 - (r / 5.5) ** 2) ** 3
    values /= np.sqrt(np.sum(r * r * values * values) * (r[1] - r[0]))
    return GridRadial(l, r * Bohr, values * Bohr**-1.5)


@cache
def crystal(spin: str = "none") -> ReferenceData:
    """A skewed BN crystal, s p and s p d, one atom outside the home cell; H, S, electrons, Fermi level."""
    basis = OrbitalBasis(
        {
            "B": SpeciesBasis((0, 1), 3, (_radial(0, 1.6), _radial(1, 1.8))),
            "N": SpeciesBasis((0, 1, 2), 5, (_radial(0, 1.5), _radial(1, 1.6), _radial(2, 1.7))),
        }
    )
    cell = [[3.3, 0.1, 0.0], [0.7, 3.4, 0.2], [0.1, -0.4, 3.6]]
    atoms = Atoms("BN", scaled_positions=[[0.02, 0.1, 0.03], [1.43, 0.54, -0.42]], cell=cell, pbc=True)
    S = overlap(atoms, basis)
    rng = np.random.default_rng(3)
    noise = replace(S, entries=S.entries * rng.normal(size=len(S.entries))).hermitian_part()
    H = -6.0 * S + 4.0 * noise
    if spin == "collinear":
        H = RealSpaceMatrix(basis, H.pairs, atoms, np.stack([H.entries, 1.1 * H.entries]), "collinear")
    elif spin == "spinor":
        H = _spinor(H)
    return ReferenceData(atoms, H, S, n_electrons=8.0, fermi_level=-4.25, basis=basis)


def _spinor(H: RealSpaceMatrix) -> RealSpaceMatrix:
    """With a Zeeman field and spin-orbit coupling of 0.3 eV, and hopping that turns spins."""
    blocks, rng = [], np.random.default_rng(5)
    for n, (i, j) in enumerate(zip(H.pairs.i, H.pairs.j, strict=True)):
        b = H.block(int(i), int(j), tuple(H.pairs.R[n]))
        rows = len(b)
        full = np.kron(np.eye(2), b).astype(complex)
        full += 0.05 * np.abs(full).max() * (rng.normal(size=full.shape) + 1j * rng.normal(size=full.shape))
        if H.pairs.on_site[n]:
            full += np.kron(np.array([[0.2, 0.1 - 0.05j], [0.1 + 0.05j, -0.2]]), np.eye(rows))
            start = 0
            for l in H.basis.shells(H.atoms.get_chemical_symbols()[i]):
                inside = np.concatenate([np.arange(start, start + 2 * l + 1) + s * rows for s in (0, 1)])
                full[np.ix_(inside, inside)] += 3.0 * spin_orbit(l).reshape(len(inside), len(inside))
                start += 2 * l + 1
        blocks.append(full)
    return RealSpaceMatrix.from_blocks(H.basis, H.pairs, H.atoms, blocks, "spinor").hermitian_part()


def dense(matrix: RealSpaceMatrix) -> dict[tuple[int, int, int], np.ndarray]:
    """R -> (n, n), (2, n, n) for collinear, (2, 2, n, n) for spinors."""
    n = matrix.basis.n_orbitals(matrix.atoms.get_chemical_symbols())
    first = matrix.basis.offsets(matrix.atoms.get_chemical_symbols())
    shape = {"none": (n, n), "collinear": (2, n, n), "spinor": (2, 2, n, n)}[matrix.spin]
    found: dict[tuple[int, int, int], np.ndarray] = {}
    for (i, j, R), block in zip(
        zip(matrix.pairs.i, matrix.pairs.j, map(tuple, matrix.pairs.R.tolist()), strict=True),
        matrix.blocks(),
        strict=True,
    ):
        full = found.setdefault(R, np.zeros(shape, dtype=block.dtype))
        rows, columns = slice(first[i], first[i + 1]), slice(first[j], first[j + 1])
        if matrix.spin == "spinor":
            r, c = first[i + 1] - first[i], first[j + 1] - first[j]
            full[:, :, rows, columns] = block.reshape(2, r, 2, c).transpose(0, 2, 1, 3)
        else:
            full[..., rows, columns] = block
    return found


def _magnetic_numbers(data: ReferenceData) -> np.ndarray:
    shells = [l for s in data.atoms.get_chemical_symbols() for l in data.basis.shells(s)]
    return np.concatenate([np.arange(-l, l + 1) for l in shells])


def _record(*parts: bytes) -> bytes:
    content = b"".join(parts)
    mark = struct.pack("<i", len(content))
    return mark + content + mark


def _ints(*values: int) -> bytes:
    return np.array(values, dtype="<i4").tobytes()


def _stored_by_siesta(data: ReferenceData) -> tuple[list, np.ndarray, np.ndarray]:
    """Cells, S (n_cells, n, n) and H (n_components, n_cells, n, n) in Ry as SIESTA stores them."""
    sign = np.where(_magnetic_numbers(data) % 2, -1.0, 1.0)
    H, S = dense(data.hamiltonian), dense(data.overlap)
    cells = sorted(S, key=lambda R: (R != (0, 0, 0), R))
    flip = np.outer(sign, sign)
    stored_S = np.stack([S[-R[0], -R[1], -R[2]].T * flip for R in cells])
    parts = []
    for R in cells:
        h = np.swapaxes(H[-R[0], -R[1], -R[2]], -1, -2) * flip / Rydberg
        if data.hamiltonian.spin == "spinor":
            (uu, ud), (du, dd) = h
            h = np.stack([uu.real, dd.real, ud.real, -ud.imag, uu.imag, dd.imag, du.real, du.imag])
        parts.append(h if h.ndim == 3 else h[None])
    return cells, stored_S, np.stack(parts, axis=1)


def _columns(S: np.ndarray, H: np.ndarray) -> list[np.ndarray]:
    """The stored orbitals of the supercell in each row: where S or H is not zero."""
    held = np.any(H != 0, axis=0) | (S != 0)
    return [np.nonzero(held[:, p].ravel())[0] for p in range(S.shape[1])]


def _quantum(data: ReferenceData, symbol: str) -> np.ndarray:
    return np.array([(l + 1, l, 1) for l in data.basis.shells(symbol) for _ in range(2 * l + 1)], dtype="<i4")


def write_hsx(path: Path, data: ReferenceData, *, version: int = 1, double: bool = True) -> None:
    """HSX of version 0, 1 or 2; .true. as 1, or as -1 (another compiler) in version 2."""
    cells, S, H = _stored_by_siesta(data)
    symbols, kind = data.atoms.get_chemical_symbols(), "<f8" if double and version else "<f4"
    species = sorted(set(symbols))
    n, n_cells, n_spin = S.shape[1], len(cells), len(H)
    columns = _columns(S, H)
    last = np.cumsum([data.basis.n_orbitals(s) for s in symbols])
    isa = [species.index(s) + 1 for s in symbols]
    header = b"".join(
        s.ljust(20).encode() + struct.pack("<di", data.basis.valence_electrons(s), data.basis.n_orbitals(s))
        for s in species
    )
    out = []
    if version:
        out += [_record(_ints(version)), _record(_ints(-1 if version == 2 else int(double)))]
        out += [_record(_ints(len(symbols), n, n_spin, len(species), n_cells, 1, 1))]
        totals = np.array([data.fermi_level / Rydberg, data.n_electrons, 0.002])
        out += [_record((data.atoms.cell.array / Bohr).tobytes(), totals.tobytes())]
        out += [
            _record(
                _ints(*np.ravel(cells)), (data.atoms.positions / Bohr).tobytes(), _ints(*isa), _ints(*last)
            )
        ]
        out += [_record(header), *(_record(_quantum(data, s).tobytes()) for s in species)]
        if version == 2:
            out += [_record(_ints(*np.diag([3, 3, 3]).ravel()), np.zeros(3).tobytes())]
        out += [_record(_ints(*(len(c) for c in columns)))]
    else:
        out += [_record(_ints(n, n * n_cells, n_spin, sum(map(len, columns)))), _record(_ints(0))]
        out += [_record(_ints(*(np.arange(n * n_cells) % n + 1))), _record(_ints(*(len(c) for c in columns)))]
    out += [_record(_ints(*(c + 1))) for c in columns]
    out += [_record(h[:, p].ravel()[c].astype(kind).tobytes()) for h in H for p, c in enumerate(columns)]
    out += [_record(S[:, p].ravel()[c].astype(kind).tobytes()) for p, c in enumerate(columns)]
    if not version:
        owner = np.repeat(np.arange(len(symbols)), [data.basis.n_orbitals(s) for s in symbols])
        x = data.atoms.positions
        out += [_record(np.array([data.n_electrons, 0.002]).tobytes())]
        for p, c in enumerate(columns):
            R = np.array(cells)[c // n] @ data.atoms.cell.array
            out += [_record(((x[owner[c % n]] + R - x[owner[p]]) / Bohr).astype("<f4").tobytes())]
        out += [_record(_ints(len(species))), _record(header)]
        out += [_record(row.tobytes()) for s in species for row in _quantum(data, s)]
        out += [_record(_ints(len(symbols))), _record(_ints(*isa)), _record(_ints(*([1] * 2 * n)))]
    path.write_bytes(b"".join(out))


def write_tshs(path: Path, data: ReferenceData) -> None:
    """TSHS of version 1."""
    cells, S, H = _stored_by_siesta(data)
    n, n_cells = S.shape[1], len(cells)
    columns = _columns(S, H)
    last = np.cumsum([0, *(data.basis.n_orbitals(s) for s in data.atoms.get_chemical_symbols())])
    totals = np.array([data.fermi_level / Rydberg, data.n_electrons, 0.002])
    out = [_record(_ints(1)), _record(_ints(len(data.atoms), n, n * n_cells, len(H), sum(map(len, columns))))]
    out += [_record(_ints(n_cells, 1, 1))]
    out += [_record((data.atoms.cell.array / Bohr).tobytes(), (data.atoms.positions / Bohr).tobytes())]
    out += [_record(_ints(0, 0, 0)), _record(_ints(*np.eye(3, dtype=int).ravel()), np.zeros(3).tobytes())]
    out += [_record(totals.tobytes()), _record(_ints(0, 0)), _record(_ints(*last))]
    out += [_record(_ints(*(len(c) for c in columns))), *(_record(_ints(*(c + 1))) for c in columns)]
    out += [_record(S[:, p].ravel()[c].tobytes()) for p, c in enumerate(columns)]
    out += [
        _record(np.ascontiguousarray(h[:, p]).ravel()[c].tobytes()) for h in H for p, c in enumerate(columns)
    ]
    out += [_record(_ints(*np.ravel(cells)))]
    path.write_bytes(b"".join(out))


def write_xv(path: Path, data: ReferenceData) -> None:
    """Structure in Bohr with velocities of zero."""
    rows = [" ".join(f"{x:18.9f}" for x in [*c, 0, 0, 0]) for c in data.atoms.cell.array / Bohr]
    rows.append(f"{len(data.atoms):12d}")
    species = sorted(set(data.atoms.get_chemical_symbols()))
    for atom in data.atoms:
        numbers = " ".join(f"{x:18.9f}" for x in [*(atom.position / Bohr), 0, 0, 0])
        rows.append(f"{species.index(atom.symbol) + 1:3d}{atom.number:6d} {numbers}")
    path.write_text("\n".join(rows) + "\n")


def _reduced(function: GridRadial) -> tuple[float, np.ndarray]:
    """Grid spacing in Bohr and φ / r^l in Bohr."""
    r = function.r / Bohr
    values = function.values * Bohr**1.5
    if function.l:
        values = np.concatenate([[0.0], values[1:] / r[1:] ** function.l])
        values[0] = (4 * values[1] - values[2]) / 3
    return float(r[1]), values


def write_ion_nc(folder: Path, data: ReferenceData) -> None:
    """<symbol>.ion.nc of every element."""
    from scipy.io import netcdf_file

    for symbol, species in data.basis.items():
        tables = [_reduced(f) for f in species.radial]
        with netcdf_file(folder / f"{symbol}.ion.nc", "w") as file:
            file.Label, file.Valence_charge = symbol, species.valence_electrons
            file.Atomic_number = np.int32(Atoms(symbol).numbers[0])
            file.createDimension("norbs", len(tables))
            file.createDimension("ntb", len(tables[0][1]))
            file.createVariable("orbnl_l", "i4", ("norbs",))[:] = species.shells
            file.createVariable("delta", "f8", ("norbs",))[:] = [t[0] for t in tables]
            file.createVariable("orb", "f8", ("norbs", "ntb"))[:] = np.array([t[1] for t in tables])


def write_ion_xml(folder: Path, data: ReferenceData) -> None:
    """<symbol>.ion.xml of every element."""
    for symbol, species in data.basis.items():
        parts = ['<ion version="0.1">', f"<symbol> {symbol} </symbol>", f"<label> {symbol} </label>"]
        parts += [f"<z> {Atoms(symbol).numbers[0]} </z>", f"<valence> {species.valence_electrons} </valence>"]
        parts += ["<preamble> r < 1.0 & more </preamble>", "<paos>"]
        for f in species.radial:
            step, values = _reduced(f)
            parts += [f'<orbital l=" {f.l}" n=" 2" z=" 1" population=" 1.0">', "<radfunc>"]
            parts += [f"<npts> {len(values)} </npts>", f"<delta> {step:.12E} </delta>", "<data>"]
            parts += [f"{n * step:.12f} {v:.12f}" for n, v in enumerate(values)]
            parts += ["</data>", "</radfunc>", "</orbital>"]
        (folder / f"{symbol}.ion.xml").write_text("\n".join([*parts, "</paos>", "</ion>"]) + "\n")


def _moved(data: ReferenceData, cells: np.ndarray, table: Dense) -> dict[tuple[int, int, int], np.ndarray]:
    """The same matrices labelled for atoms at x - cells·lattice."""
    owner = np.repeat(
        np.arange(len(data.atoms)), data.basis.orbital_counts(data.atoms.get_chemical_symbols())
    )
    found: dict[tuple[int, int, int], np.ndarray] = {}
    for R, full in table.items():
        for i in range(len(data.atoms)):
            for j in range(len(data.atoms)):
                label = tuple(int(x) for x in np.array(R) - cells[i] + cells[j])
                mask = np.outer(owner == i, owner == j)
                part = found.setdefault(label, np.zeros_like(full))
                part[..., mask] += full[..., mask]
    return {R: full for R, full in found.items() if np.any(full)}


def write_abacus(folder: Path, data: ReferenceData, *, layout: str = "first", orbitals: bool = True) -> None:
    """INPUT, STRU, .orb files, log and the matrices; layout "first" or "later"."""
    symbols = data.atoms.get_chemical_symbols()
    out = folder / "OUT.ABACUS"
    out.mkdir(parents=True)
    m = _magnetic_numbers(data)
    place, start = [], 0
    for l in [l for s in symbols for l in data.basis.shells(s)]:
        order = [0] + [k * side for k in range(1, l + 1) for side in (1, -1)]
        place += [start + l + k for k in order]
        start += 2 * l + 1
    sign = np.where(m % 2, -1.0, 1.0)
    wraps = np.floor(data.atoms.get_scaled_positions(wrap=False)).astype(int)

    def ordered(table: Dense) -> dict[tuple[int, int, int], np.ndarray]:
        flipped = {R: full * np.outer(sign, sign) for R, full in _moved(data, wraps, table).items()}
        return {R: full[..., place, :][..., place] for R, full in sorted(flipped.items())}

    H, S = ordered(dense(data.hamiltonian)), ordered(dense(data.overlap))
    names = ("data-{}R-sparse_SPIN{}.csr", 0) if layout == "first" else ("{}rs{}_nao.csr", 1)
    spin = data.hamiltonian.spin
    if spin == "spinor":
        channels = [{R: h.transpose(2, 0, 3, 1).reshape(2 * len(m), -1) for R, h in H.items()}]
        S = {R: np.kron(s, np.eye(2)).astype(complex) for R, s in S.items()}
    else:
        channels = [
            {R: h[c] if spin == "collinear" else h for R, h in H.items()}
            for c in range(1 + (spin == "collinear"))
        ]
    write = _first_layout if layout == "first" else _later_layout
    for number, channel in enumerate(channels):
        letter = "H" if layout == "first" else "h"
        write(out / names[0].format(letter, names[1] + number), channel, 1 / Rydberg, "H")
    write(out / names[0].format("S" if layout == "first" else "s", names[1]), S, 1.0, "S")
    _write_stru(folder, data)
    _write_log(out / "running_scf.log", data)
    if orbitals:
        write_orb(folder, data)


def _number(x: complex) -> str:
    return f"({x.real:.14e},{x.imag:.14e})" if np.iscomplexobj(x) else f"{x:.14e}"


def _csr(full: np.ndarray) -> tuple[list[str], list[str], list[str]]:
    rows, columns = np.nonzero(np.abs(full) > 1e-14)
    pointers = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(full)))])
    return [_number(x) for x in full[rows, columns]], [str(c) for c in columns], [str(p) for p in pointers]


def _first_layout(path: Path, table: Dense, unit: float, name: str) -> None:
    lines = ["STEP: 0", f"Matrix Dimension of {name}(R): {len(next(iter(table.values())))}"]
    lines.append(f"Matrix number of {name}(R): {len(table) + 1}")
    lines.append("9 9 9 0")
    for R, full in table.items():
        values, columns, pointers = _csr(full * unit)
        lines.append(f"{R[0]} {R[1]} {R[2]} {len(values)}")
        lines += [" " + " ".join(part) for part in (values, columns, pointers)]
    path.write_text("\n".join(lines) + "\n")


def _wrapped(words: list[str], width: int) -> list[str]:
    return [" " + " ".join(words[n : n + width]) for n in range(0, len(words), width)]


def _later_layout(path: Path, table: Dense, unit: float, name: str) -> None:
    n = len(next(iter(table.values())))
    lines = [
        " --- Ionic Step 1 ---",
        f" # print {name} matrix in real space {name}(R)",
        " 1 # number of spin directions",
    ]
    lines += [" 1 # spin index", f" {n} # number of localized basis"]
    lines += [
        f" {len(table)} # number of Bravais lattice vector R",
        "",
        " user_defined_lattice",
        " Direct",
        "",
    ]
    lines += [" # CSR Format #", " # values, column indices, row pointers.                #", " #-----#", ""]
    for R, full in table.items():
        values, columns, pointers = _csr(full * unit)
        lines += [f" {R[0]} {R[1]} {R[2]} {len(values)}", " # CSR values", *_wrapped(values, 6)]
        lines += [
            " # CSR column indices",
            *_wrapped(columns, 16),
            " # CSR row pointers",
            *_wrapped(pointers, 16),
            "",
        ]
    path.write_text("\n".join(lines) + "\n")


def _write_stru(folder: Path, data: ReferenceData) -> None:
    (folder / "INPUT").write_text("INPUT_PARAMETERS\nbasis_type lcao # orbitals\nout_mat_hs2 1\n")
    symbols = sorted(set(data.atoms.get_chemical_symbols()))
    lines = ["ATOMIC_SPECIES", *(f"{s} 1.0 {s}.upf" for s in symbols), "", "NUMERICAL_ORBITAL"]
    names = {s: _orb_name(data, s) for s in symbols}
    lines += [names[s] for s in symbols]
    lines += ["", "LATTICE_CONSTANT", f"{2.0 / Bohr:.15f} // a unit of 2 Å", "", "LATTICE_VECTORS"]
    lines += [" ".join(f"{x:.15f}" for x in row) for row in data.atoms.cell.array / 2.0]
    lines += ["", "ATOMIC_POSITIONS", "Direct"]
    fractional = data.atoms.get_scaled_positions(wrap=False)
    for s in symbols:
        own = [a.index for a in data.atoms if a.symbol == s]
        lines += [s, "0.0", str(len(own))]
        lines += [" ".join(f"{x:.15f}" for x in fractional[a]) + " 1 1 1" for a in own]
    (folder / "STRU").write_text("\n".join(lines) + "\n")


def _orb_name(data: ReferenceData, symbol: str) -> str:
    shells = data.basis.shells(symbol)
    return (
        f"{symbol}_gga_5au_100Ry_"
        + "".join(f"{shells.count(l)}{'spd'[l]}" for l in sorted(set(shells)))
        + ".orb"
    )


def write_orb(folder: Path, data: ReferenceData) -> None:
    """The .orb file of every element."""
    for symbol, species in data.basis.items():
        step = species.radial[0].r[1] / Bohr
        lines = [f"Element                     {symbol}", "Radius Cutoff(a.u.)         5.5"]
        lines += [f"Lmax                        {max(species.shells)}"]
        for l in range(max(species.shells) + 1):
            lines.append(f"Number of {'SPD'[l]}orbital-->       {species.shells.count(l)}")
        lines += [
            "SUMMARY  END",
            "",
            f"Mesh                        {len(species.radial[0].r)}",
            f"dr  {step:.15f}",
        ]
        for f in species.radial:
            lines += ["                Type                   L                   N", f"   0   {f.l}   0"]
            lines += _wrapped([f"{x:.14e}" for x in f.values * Bohr**1.5], 4)
        (folder / _orb_name(data, symbol)).write_text("\n".join(lines) + "\n")


def _write_log(path: Path, data: ReferenceData) -> None:
    lines = ["                              ABACUS v3.10.0", f" lattice constant (Bohr) = {2.0 / Bohr:.12f}"]
    for number, (symbol, species) in enumerate(data.basis.items()):
        lines += [f" READING ATOM TYPE {number + 1}", f"   atom label = {symbol}"]
        lines += [
            f"   L={l}, number of zeta = {species.shells.count(l)}" for l in range(max(species.shells) + 1)
        ]
        lines += ["   number of atom for this type = 1", ""]
    lines += [" Lattice vectors: (Cartesian coordinate: in unit of a_0)"]
    lines += [" ".join(f"{x:+.9f}" for x in row) for row in data.atoms.cell.array / 2.0]
    for symbol, species in data.basis.items():
        lines.append(f"   electron number of element {symbol} = {species.valence_electrons:g}")
    lines += [
        f"   AUTOSET number of electrons:  = {data.n_electrons:g}",
        f" EFERMI = {data.fermi_level:.10f} eV",
    ]
    path.write_text("\n".join(lines) + "\n")


def write_aims(folder: Path, data: ReferenceData) -> None:
    """rs_indices.out, rs_overlap.out, rs_hamiltonian*.out, basis-indices.out, geometry.in, aims.out."""
    folder.mkdir(parents=True, exist_ok=True)
    m, symbols = _magnetic_numbers(data), data.atoms.get_chemical_symbols()
    sign = np.where((m % 2 != 0) & (m > 0), -1.0, 1.0)
    wraps = np.ceil(data.atoms.get_scaled_positions(wrap=False) - 0.5).astype(int)
    S, H = (
        {tuple(-x for x in R): full * np.outer(sign, sign) for R, full in _moved(data, wraps, table).items()}
        for table in (dense(data.overlap), dense(data.hamiltonian))
    )
    cells = sorted(S, key=lambda R: (R != (0, 0, 0), R))
    n = len(m)
    first, last = np.zeros((2, len(cells) + 1, n), dtype=int)
    columns: list[int] = []
    s_values: list[float] = []
    h_values: list[list[float]] = [[] for _ in range(1 + (data.hamiltonian.spin == "collinear"))]
    for c, R in enumerate(cells):
        for row in range(n):
            held = [b for b in range(row + 1) if S[R][row, b] != 0]
            if held:
                first[c, row], last[c, row] = len(columns) + 1, len(columns) + len(held)
            columns += [b + 1 for b in held]
            s_values += [S[R][row, b] for b in held]
            for spin, values in enumerate(h_values):
                h = H[R][spin] if data.hamiltonian.spin == "collinear" else H[R]
                values += [h[row, b] / Hartree for b in held]
    lines = [
        f"n_hamiltonian_matrix_size: {len(columns) + 1:12d}",
        f"n_cells_in_hamiltonian: {len(cells) + 1:12d}",
    ]
    lines += [f"n_basis: {n:12d}", "cell_index", *(" ".join(f"{x:10d}" for x in R) for R in cells)]
    lines += [" 999999999  999999999  999999999"]
    for name, table in (("index_hamiltonian(1,:,:)", first), ("index_hamiltonian(2,:,:)", last)):
        lines += [name, *(" ".join(f"{x:10d}" for x in row) for row in table)]
    lines += ["column_index_hamiltonian", *(f"{c:10d}" for c in columns), f"{0:10d}"]
    (folder / "rs_indices.out").write_text("\n".join(lines) + "\n")
    names = (
        ["rs_hamiltonian.out"] if len(h_values) == 1 else ["rs_hamiltonian_up.out", "rs_hamiltonian_dn.out"]
    )
    for name, numbers in zip(["rs_overlap.out", *names], [s_values, *h_values], strict=True):
        (folder / name).write_text("\n".join(f"{x:24.16E}" for x in [*numbers, 0.0]) + "\n")
    lines = ["", "  fn.   type   at.   n   l   m"]
    labels = [
        (a + 1, l) for a, s in enumerate(symbols) for l in data.basis.shells(s) for _ in range(2 * l + 1)
    ]
    lines += [f"{p + 1:5d} atomic {a:5d} {l + 1:3d} {l:3d} {m[p]:3d}" for p, (a, l) in enumerate(labels)]
    (folder / "basis-indices.out").write_text("\n".join(lines) + "\n")
    geometry = ["lattice_vector " + " ".join(f"{x:.15f}" for x in row) for row in data.atoms.cell.array]
    for s, x in zip(symbols, data.atoms.get_scaled_positions(wrap=False), strict=True):
        geometry.append("atom_frac " + " ".join(f"{c:.15f}" for c in x) + f" {s} # placed")
    (folder / "geometry.in").write_text("\n".join(geometry) + "\n")
    (folder / "aims.out").write_text(f"  | Chemical potential (Fermi level):  {data.fermi_level:.8f} eV\n")
    (folder / "control.in").write_text("xc pbe\ncharge 4.0\noutput_rs_matrices plain\n")
