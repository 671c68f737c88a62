"""To WannierBerri: a System of an orthogonal basis with its positions, by way of a _tb.dat file."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.exporters.cells import require_orthogonal
from ase_deeph.exporters.optional import optional_package
from ase_deeph.exporters.positions import Positions
from ase_deeph.exporters.wannier90 import write_wannier90


def to_wannierberri(
    es: ElectronicStructure, *, channel: int = 0, positions: Positions = "auto", **options: Any
) -> Any:
    """A WannierBerri system with the Hamiltonian and the position elements (Å) that Berry quantities need.

    Parameters
    ----------
    es : of an orthogonal basis (see `ElectronicStructure.orthogonalized`).
    channel : for collinear spin, 0 for up and 1 for down.
    positions : as in `write_wannier90`. Berry curvatures of a basis without radial functions ("centres") lack
        the transitions inside an atom.
    options : passed on; `berry=True` unless given.

    Returns
    -------
    wannierberri.System_R. For spinors the two spins of each orbital are side by side: call its
    `set_spin_interlaced()` for spin quantities.

    Raises
    ------
    ValueError : S is not 1, or no such channel.
    ModuleNotFoundError : WannierBerri is not installed.
    """
    wannierberri = optional_package("wannierberri", "to_wannierberri")
    require_orthogonal(es, "WannierBerri")
    if not 0 <= channel < es.n_spins:
        raise ValueError(f"to_wannierberri: expected a channel in [0, {es.n_spins}), received {channel}")
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        written = write_wannier90(es, Path(folder) / "structure", positions=positions)
        file = [str(path) for path in written if path.name.endswith("_tb.dat")][channel]
        options = {"berry": True, "periodic": tuple(bool(p) for p in es.atoms.pbc)} | options
        if hasattr(wannierberri.system, "System_R"):
            return wannierberri.system.System_R.from_tb_dat(tb_file=file, **options)
        return wannierberri.System_tb(file, **options)
