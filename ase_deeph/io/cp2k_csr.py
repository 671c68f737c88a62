"""CP2K's matrices as text: one file per operator, spin and periodic image, lines of row, column, value.

`&KS_CSR_WRITE` and `&S_CSR_WRITE` with REAL_SPACE write <project>-KS_SPIN_1_R_7-1_0.csr for k-points; without k-points
the matrix, folded over all images, is <project>-KS_SPIN_1-1_0.csr.  The cell of image number 7 is in the log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_NAME = re.compile(
    r"(?P<project>.*?)-?(?P<kind>KS|S)_SPIN_(?P<spin>[12])(?P<where>_[RK]_(\d+))?-(?P<step>[\d_]+)\.csr"
)
_MOST_ORBITALS = 1_000_000
_LARGEST_FILE = 2_000_000_000


@dataclass(frozen=True, eq=False)
class CSRFiles:
    """The matrix files of one calculation.

    Parameters
    ----------
    files : (kind, spin) -> number of the image -> file; kind "KS" or "S", spin 1 or 2, image 0 where folded.
    """

    files: Mapping[tuple[str, int], Mapping[int, Path]]

    @property
    def folded(self) -> bool:
        """Whether the overlap is of Γ alone, all images added up."""
        return 0 in self.files["S", 1]

    @property
    def n_spins(self) -> int:
        """0 without a Hamiltonian, else 1 or 2."""
        return sum(("KS", spin) in self.files for spin in (1, 2))


def csr_files(folder: Path, project: str) -> CSRFiles:
    """The matrix files of a project in a folder.

    Raises
    ------
    ValueError : none, matrices at k, several steps, or a spin without its partner.
    """
    found: dict[tuple[str, int], dict[int, Path]] = {}
    for path in sorted(folder.glob("*.csr")):
        match = _NAME.fullmatch(path.name)
        if match is None or match["project"].partition("-")[0] not in ("", project.partition("-")[0]):
            continue
        if (match["where"] or "").startswith("_K"):
            raise ValueError(
                f"{path}: a matrix at k; print it with REAL_SPACE T in &KS_CSR_WRITE and &S_CSR_WRITE"
            )
        image = int(match["where"][3:]) if match["where"] else 0
        files = found.setdefault((match["kind"], int(match["spin"])), {})
        if image in files:
            raise ValueError(
                f"{folder}: {files[image].name} and {path.name} are two steps; keep those of one"
            )
        files[image] = path
    if ("S", 1) not in found:
        raise ValueError(
            f"{folder}: no overlap of project {project!r}; CP2K writes {project}-S_SPIN_1_R_...csr with "
            "&DFT &PRINT &S_CSR_WRITE REAL_SPACE T"
        )
    if ("KS", 2) in found and ("KS", 1) not in found:
        raise ValueError(f"{folder}: a Hamiltonian of spin 2 without that of spin 1")
    return CSRFiles(found)


def read_csr(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns (both from 0) and values of one file; Hartree for KS.

    Raises
    ------
    ValueError : the file is not lines of two integers and a number, or is truncated.
    """
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"{path}: {path.stat().st_size} bytes are too many for one image")
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        raise ValueError(f"{path}: its last line is truncated")
    words = content.split()
    if len(words) != 3 * content.count(b"\n"):
        raise ValueError(f"{path}: expected three words a line, row, column and value")
    try:
        table = np.array(words).reshape(-1, 3).astype(float) if words else np.zeros((0, 3))
    except ValueError as error:
        raise ValueError(f"{path}: expected row, column and value as numbers, {error}") from error
    places = table[:, :2]
    if len(table) and not (
        np.all(places == np.rint(places)) and places.min() >= 1 and places.max() < _MOST_ORBITALS
    ):
        raise ValueError(f"{path}: expected rows and columns that count from 1; the file is damaged")
    return places[:, 0].astype(np.int64) - 1, places[:, 1].astype(np.int64) - 1, table[:, 2]
