"""H ψ = E S ψ in Kwant, exactly: subclasses of Kwant's low-level systems around sparse H and S.

Kwant knows no overlap.  It is given h(E) = H - E S + E 1 through the parameter E and solved at energy = E, so that
its own h - E 1 is the physical pencil H - E S; an energy that differs from the parameter is refused.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from ase_deeph.transport.cells import Layer
from ase_deeph.transport.problem import LeadAttachment, ScatteringProblem

logger = logging.getLogger(__name__)

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kwant
        from kwant import graph, system
        from kwant.physics import PropagatingModes
except ImportError as error:
    raise ModuleNotFoundError(
        "transport through Kwant needs the package kwant, extra 'transport'; install it in a clone with: "
        "pip install '.[transport]' ./tools/kwant (its release predates NumPy 2)"
    ) from error

PARAMETER = "E"
_TOLERANCE = 1e6


def solver_name() -> str:
    """The sparse solver that Kwant found: "MUMPS" or "SuperLU"."""
    return "MUMPS" if "mumps" in type(kwant.solvers.default.hidden_instance).__module__ else "SuperLU"


def layer_modes(layer: Layer, energy: float) -> tuple[Any, Any]:
    """Propagating and stabilised modes of a lead at an energy (eV).

    Kwant always goes through the singular values of the coupling here: its short cut of inverting the coupling loses
    modes for long-ranged blocks.
    """
    onsite, forward = layer.pencil(energy)
    modes = kwant.physics.modes(
        onsite, np.ascontiguousarray(forward.conj().T), tol=_TOLERANCE, stabilization=(None, False)
    )
    _orthonormalise_currents(*modes)
    return modes


def _orthonormalise_currents(propagating: Any, stabilized: Any) -> None:
    """Make the modes of each direction orthonormal in current, J = 1 (Löwdin, in place).

    Bands that symmetry makes degenerate but rounding or a single-precision H splits by 1e-7 give eigenvectors that
    mix by 1e-8; unitarity of the scattering matrix would suffer as much.  Well separated modes are left as they are.
    """
    n = stabilized.nmodes
    for direction, columns in ((-1, slice(0, n)), (1, slice(n, 2 * n))):
        u, v = stabilized.vecs[:, columns], stabilized.vecslmbdainv[:, columns]
        current = -1j * direction * (u.conj().T @ v)
        values, vectors = np.linalg.eigh(current + current.conj().T)
        if n == 0 or values[0] < 0.5:
            continue
        mix = (vectors / np.sqrt(values)) @ vectors.conj().T
        for states in (stabilized.vecs, stabilized.vecslmbdainv, propagating.wave_functions):
            states[:, columns] = states[:, columns] @ mix


def lead_velocities(layer: Layer, energy: float) -> tuple[np.ndarray, np.ndarray]:
    """Phases (rad per layer) and true velocities dE/dphase (eV): ± 1/⟨ψ|S(phase)|ψ⟩ of unit-current modes ψ."""
    modes: PropagatingModes = layer_modes(layer, energy)[0]
    phases = np.asarray(modes.momenta)
    norms = [
        np.vdot(psi, layer.overlap_at(phase) @ psi).real
        for phase, psi in zip(phases, modes.wave_functions.T, strict=True)
    ]
    return phases, np.sign(modes.velocities) / np.array(norms)


def _bound_energy(energy: float, params: Mapping[str, Any] | None) -> float:
    """The energy, after the check that the parameter E equals it."""
    given = (params or {}).get(PARAMETER)
    if given is None or abs(given - energy) > 1e-12 * max(1.0, abs(energy)):
        raise ValueError(
            f"kwant: energy={energy} but params[{PARAMETER!r}]={given}; with an overlap matrix they must be equal, "
            f"call with energy=E and params={{'{PARAMETER}': E}}"
        )
    return energy


class OverlapLead(system.InfiniteSystem):
    """A lead for Kwant; its first and only cell is the principal layer, ordered as the interface."""

    def __init__(self, attachment: LeadAttachment) -> None:
        self.layer = attachment.layer
        self.norbs = np.asarray(attachment.norbs)
        self.parameters = frozenset({PARAMETER})
        self.cell_size = len(self.norbs)
        bonds = graph.Graph()
        bonds.num_nodes = 2 * self.cell_size
        self.graph = bonds.compressed()

    def cell_hamiltonian(
        self, args: tuple = (), sparse: bool = False, *, params: Mapping[str, Any] | None = None
    ) -> Any:
        """H - E S + E 1 of the principal layer."""
        energy = _parameter(params)
        matrix = self.layer.pencil(energy)[0] + energy * np.eye(len(self.layer.h0))
        return sp.coo_matrix(matrix) if sparse else matrix

    def inter_cell_hopping(
        self, args: tuple = (), sparse: bool = False, *, params: Mapping[str, Any] | None = None
    ) -> Any:
        """⟨layer n|H - E S|layer n-1⟩, n counted away from the device."""
        matrix = self.layer.pencil(_parameter(params))[1].conj().T
        return sp.coo_matrix(matrix) if sparse else matrix

    def hamiltonian(self, i: int, j: int, *args: Any, params: Mapping[str, Any] | None = None) -> np.ndarray:
        """The block between sites i and j; sites from cell_size on belong to the previous layer."""
        offsets = np.concatenate([[0], np.cumsum(self.norbs)])
        size = self.cell_size
        rows, columns = (slice(offsets[x % size], offsets[x % size + 1]) for x in (i, j))
        if i // size == j // size:
            return self.cell_hamiltonian(params=params)[rows, columns]
        hop = self.inter_cell_hopping(params=params)
        return hop[rows, columns] if i < size else hop.conj().T[rows, columns]

    def modes(
        self, energy: float = 0, args: tuple = (), *, params: Mapping[str, Any] | None = None
    ) -> tuple[Any, Any]:
        """As `kwant.system.InfiniteSystem.modes`, of the generalised problem."""
        return layer_modes(self.layer, _bound_energy(energy, params))

    def selfenergy(
        self, energy: float = 0, args: tuple = (), *, params: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """The retarded self-energy in eV."""
        return self.modes(energy, params=params)[1].selfenergy()


class OverlapSystem(system.FiniteSystem):
    """A device for Kwant with one site per atom; H and S stay sparse."""

    def __init__(self, problem: ScatteringProblem) -> None:
        self.problem = problem
        self.leads = [OverlapLead(a) for a in problem.attachments]
        self.lead_interfaces = [np.asarray(a.atoms) for a in problem.attachments]
        self.lead_paddings = [np.array([], dtype=int) for _ in problem.attachments]
        self.parameters = frozenset({PARAMETER})
        self.norbs = np.asarray(problem.norbs)
        self._one = sp.identity(problem.n, format="csr")
        self.site_ranges = _site_ranges(self.norbs, problem.offsets)
        self._graph: Any = None

    @property
    def graph(self) -> Any:
        """Sites and bonds, made when first asked for: the solver does not need them."""
        if self._graph is None:
            self._graph = _bonds(self.problem)
        return self._graph

    def pos(self, site: int) -> np.ndarray:
        """Position of a site in Å."""
        if self.problem.positions is None:
            raise ValueError("this device was made from matrices and has no positions")
        return self.problem.positions[site]

    def hamiltonian(self, i: int, j: int, *args: Any, params: Mapping[str, Any] | None = None) -> np.ndarray:
        """The block of h(E) between two sites."""
        return self.hamiltonian_submatrix(to_sites=[i], from_sites=[j], params=params)

    def hamiltonian_submatrix(
        self,
        args: tuple = (),
        to_sites: Iterable[int] | None = None,
        from_sites: Iterable[int] | None = None,
        sparse: bool = False,
        return_norb: bool = False,
        *,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """h(E) = H - E S + E 1 of some or all sites; arguments as `kwant.system.System`'s."""
        energy = _parameter(params)
        matrix = self.problem.h - energy * self.problem.s + energy * self._one
        to_norb = from_norb = self.norbs
        if to_sites is not None or from_sites is not None:
            to_atoms, from_atoms = (
                np.arange(len(self.norbs)) if sites is None else np.asarray(list(sites), dtype=int)
                for sites in (to_sites, from_sites)
            )
            rows, columns = self.problem.orbitals(to_atoms), self.problem.orbitals(from_atoms)
            matrix = matrix[rows][:, columns]
            to_norb, from_norb = self.norbs[to_atoms], self.norbs[from_atoms]
        # MUMPS as Kwant wraps it is complex; in a gap of all leads nothing else would make the matrix so.
        result = matrix.astype(complex).tocoo() if sparse else matrix.toarray()
        return (result, to_norb, from_norb) if return_norb else result


def _parameter(params: Mapping[str, Any] | None) -> float:
    if not params or PARAMETER not in params:
        raise ValueError(f"kwant: expected params={{'{PARAMETER}': energy}}, received {params}")
    return float(params[PARAMETER])


def _site_ranges(norbs: np.ndarray, offsets: np.ndarray) -> list[tuple[int, int, int]]:
    """Kwant's runs of sites with equal orbital counts."""
    first = np.flatnonzero(np.concatenate([[True], np.diff(norbs) != 0]))
    runs = [(int(site), int(norbs[site]), int(offsets[site])) for site in first]
    return [*runs, (len(norbs), 0, int(offsets[-1]))]


def _bonds(problem: ScatteringProblem) -> Any:
    pattern = (abs(problem.h) + abs(problem.s)).tocoo()
    site = np.repeat(np.arange(len(problem.norbs)), problem.norbs)
    codes = np.unique(site[pattern.row].astype(np.int64) * len(problem.norbs) + site[pattern.col])
    edges = np.column_stack(np.divmod(codes, len(problem.norbs)))
    bonds = graph.Graph()
    bonds.num_nodes = len(problem.norbs)
    bonds.add_edges(edges[edges[:, 0] != edges[:, 1]])
    return bonds.compressed()


def modes_of_leads(syst: OverlapSystem, energy: float) -> list[tuple[Any, Any]]:
    """The modes of every lead at an energy; leads that share a layer are solved once."""
    known: dict[int, tuple[Any, Any]] = {}
    for lead in syst.leads:
        if id(lead.layer) not in known:
            known[id(lead.layer)] = lead.modes(energy, params={PARAMETER: energy})
    return [known[id(lead.layer)] for lead in syst.leads]


def with_modes(syst: OverlapSystem, modes: Sequence[tuple[Any, Any]]) -> OverlapSystem:
    """A copy of the system whose leads are already solved (for one energy)."""
    copy = object.__new__(OverlapSystem)
    copy.__dict__.update(syst.__dict__)
    copy.leads = [system.PrecalculatedLead(modes=m) for m in modes]
    return copy


def scattering_matrix(syst: OverlapSystem, energy: float) -> Any:
    """kwant.smatrix with E bound to the energy."""
    return kwant.smatrix(syst, energy=energy, params={PARAMETER: energy})


def scattering_states(syst: OverlapSystem, energy: float) -> list[np.ndarray]:
    """(n_modes, n_orbitals) for each lead: the states that come in through its unit-current modes."""
    wave_function = kwant.wave_function(syst, energy=energy, params={PARAMETER: energy})
    return [np.asarray(wave_function(lead)) for lead in range(len(syst.leads))]
