"""Device: a scattering region between leads, aligned with them; asks for T(E), states and Kwant systems."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp

from ase_deeph.electronic_structure import ElectronicStructure
from ase_deeph.transport.alignment import Alignment, aligned, best_contact, check_orbitals
from ase_deeph.transport.contact import Contact, check_disjoint, contacts_at, parse_sides
from ase_deeph.transport.from_matrices import Matrix, contacts_of_matrices, fixed_matrices
from ase_deeph.transport.lead import AXES, Lead
from ase_deeph.transport.mode_count import ModeCounter
from ase_deeph.transport.open_matrices import DeviceMatrices, FixedMatrices, check_wrapping
from ase_deeph.transport.problem import ScatteringProblem
from ase_deeph.transport.run import Backend, Job, run
from ase_deeph.transport.transmission import TransmissionReport

if TYPE_CHECKING:
    from ase_deeph.transport.states import ScatteringStates

logger = logging.getLogger(__name__)

_MATCH = 0.1


class Device:
    """A device whose ends continue its leads.

    Parameters
    ----------
    es : the device; each end that a lead leaves from holds at least one principal layer of that lead.  Blocks that
        wrap round the leads' directions are dropped.
    leads : one lead for each side; the same Lead may serve twice.
    boundary : "auto" (first lead at the low end, second at the high end of the first one's axis) or a side for
        each lead, such as ["-a", "+a", "-b"].
    align : "overlap" (every lead is moved onto the device's zero of energy, H -> H - δ·S), "lead" (the device
        is moved onto the first lead, H -> H + δ·S, the other leads onto the device) or "none"; see
        `transport.alignment`.
    tolerance : largest distance in Å between an atom of the lead and the device's atom that continues it.

    Attributes
    ----------
    alignment : shifts, offsets and residuals in eV.
    contacts : the leads as attached.

    Raises
    ------
    ValueError : an end does not match its lead, the device is too short, spins or orbitals differ.
    """

    def __init__(
        self,
        es: ElectronicStructure,
        leads: Sequence[Lead],
        boundary: str | Sequence[str] = "auto",
        align: str = "overlap",
        *,
        tolerance: float = _MATCH,
    ) -> None:
        h = es.hamiltonian
        sides = parse_sides(boundary, leads)
        adapted = [lead.with_spin(h.spin) for lead in leads]
        matrices = DeviceMatrices.of(es, sorted({axis for axis, _ in sides}))
        norbs = h.basis.orbital_counts(h.atoms.get_chemical_symbols()) * (2 if h.spin == "spinor" else 1)
        candidates = [
            contacts_at(lead, h.atoms, side, tolerance) for lead, side in zip(adapted, sides, strict=True)
        ]
        self._settings: dict[str, Any] = {"boundary": boundary, "align": align, "tolerance": tolerance}
        self._assemble_from(matrices, norbs, candidates, align)
        check_wrapping(es, self.contacts)
        self.es: ElectronicStructure | None = es
        if np.any(h.pairs.R[:, self.transverse_axes]):
            logger.info("device is periodic across the transport direction; T(E) needs a mean over kperp")

    @classmethod
    def from_matrices(
        cls,
        H: Matrix | Sequence[Matrix],
        S: Matrix | None,
        norbs: Sequence[int] | np.ndarray,
        leads: Sequence[Lead],
        *,
        interfaces: Sequence[Sequence[int]] | None = None,
        align: str = "overlap",
    ) -> Device:
        """A device given as matrices.

        Parameters
        ----------
        H, S : (n, n) dense or sparse, eV and dimensionless; two of H for collinear leads; S None: orthogonal.
        norbs : orbitals of each atom of the device.
        leads : the first one leaves towards its own -axis, the others towards their +axis.
        interfaces : atoms of the device that each lead continues, one principal layer each, cell by cell along the
            lead's +axis.  Default: the first atoms for the first lead, the last ones for the last.
        align : as in `Device`.

        Raises
        ------
        ValueError : shapes that do not fit, an overlap that is not positive definite, more than two leads without
            interfaces, blocks that reach from one lead past its principal layer.
        """
        counts = np.asarray(norbs, dtype=int)
        matrices = fixed_matrices(H, S, counts, leads)
        contacts = contacts_of_matrices(counts, leads, interfaces)
        device = object.__new__(cls)
        device.es = None
        device._settings = {"align": align}
        device._assemble_from(matrices, counts, [[c] for c in contacts], align)
        return device

    def _assemble_from(
        self,
        matrices: DeviceMatrices | FixedMatrices,
        norbs: np.ndarray,
        candidates: Sequence[Sequence[Contact]],
        align: str,
    ) -> None:
        self.norbs = norbs
        plain = ScatteringProblem(*matrices.at(np.zeros(3), 0), norbs, [])
        if not (np.all(np.isfinite(plain.h.data)) and np.all(np.isfinite(plain.s.data))):
            raise ValueError(
                "device: expected finite H and S, received NaN or infinity; check the model or file"
            )
        h_of_spin = [plain.h, *(matrices.at(np.zeros(3), s)[0] for s in range(1, matrices.n_spins))]
        chosen, found = [], []
        for contacts in candidates:
            check_orbitals(contacts[0], norbs)
            contact, result = best_contact(contacts, plain, h_of_spin)
            chosen.append(contact)
            found.append(result)
        check_disjoint(chosen)
        self.alignment: Alignment = aligned(align, found, [c.side for c in chosen])
        self._matrices = matrices.moved(self.alignment.device_shift)
        shifts = self.alignment.lead_shifts
        self.contacts = [c.shifted(float(d)) for c, d in zip(chosen, shifts, strict=True)]

    @property
    def leads(self) -> list[Lead]:
        """The leads on the device's scale of energy."""
        return [c.lead for c in self.contacts]

    @property
    def shift(self) -> float:
        """δ = ⟨S, H_lead - H_dev⟩ / ⟨S, S⟩ of the first lead: by how much the zeros of energy differed, eV."""
        return float(self.alignment.offsets[0])

    def fermi_level(self, lead: int = 0) -> float:
        """Fermi level of a lead's bulk in eV, on the scale of T(E).

        Raises
        ------
        ValueError : the lead was made from matrices, which know no electrons.
        """
        chosen = self.contacts[lead].lead
        if chosen.source is None:
            raise ValueError(
                f"fermi_level: lead {lead} was made from matrices; add its alignment.lead_shifts[{lead}] to "
                "the Fermi level that you know"
            )
        return chosen.source.fermi_level() + chosen.shift

    @property
    def residual(self) -> float:
        """Largest |H_lead - H_dev - δ·S| on the shared layers in eV."""
        return float(self.alignment.residuals.max())

    @property
    def n_spins(self) -> int:
        """Spin channels that are solved on their own."""
        return self._matrices.n_spins

    @property
    def transverse_axes(self) -> list[int]:
        """Axes along which no lead leaves: those of the transverse k."""
        used = {c.axis for c in self.contacts}
        return [a for a in range(3) if a not in used]

    def __repr__(self) -> str:
        what = "matrices" if self.es is None else self.es.atoms.get_chemical_formula()
        sides = ", ".join(c.side for c in self.contacts)
        return (
            f"Device({what}, {int(self.norbs.sum())} orbitals, leads at {sides}, shift={self.shift:+.4f} eV)"
        )

    def problem(self, kperp: Sequence[float] | np.ndarray | None = None, spin: int = 0) -> ScatteringProblem:
        """H, S and leads as plain matrices at a transverse k (2,) or (3,), fractional, in one spin channel."""
        k = self._k_points(kperp)
        if len(k) != 1:
            raise ValueError(f"kperp: expected one transverse k, received {len(k)}")
        return self._problem(k[0], spin)

    def _problem(self, k: np.ndarray, spin: int) -> ScatteringProblem:
        h, s = self._matrices.at(k, spin)
        attachments = [c.attachment(k, spin) for c in self.contacts]
        atoms = None if self.es is None else self.es.atoms
        return ScatteringProblem(
            h,
            s,
            self.norbs,
            attachments,
            None if atoms is None else atoms.positions.copy(),
            None if atoms is None else atoms.get_chemical_symbols(),
        )

    def _assembled(self, k: np.ndarray, spin: int) -> tuple[ScatteringProblem, list[ModeCounter]]:
        return self._problem(k, spin), [c.counter(k, spin) for c in self.contacts]

    def _window(self, kpts: np.ndarray) -> tuple[float, float]:
        """The range of all bands of all leads in eV, at these k and at Γ and the zone's corners."""
        windows = [c.lead.window() for c in self.contacts]
        spins = range(self.n_spins)
        windows += [c.counter(k, spin).window for c in self.contacts for k in kpts for spin in spins]
        lows, highs = zip(*windows, strict=True)
        return min(lows), max(highs)

    def transmission(
        self,
        energies: float | Sequence[float] | np.ndarray,
        *,
        kperp: Any = None,
        backend: Backend = "kwant",
        n_workers: int = 1,
        **options: Any,
    ) -> np.ndarray:
        """T(E) = Σ |t_nm(E)|² between the first and the second lead.

        Arguments as `transmission_report`'s.

        Returns
        -------
        (n_energies,), for collinear spin (2, n_energies); NaN, with a warning, where the modes of a lead could not
        be found at or near an energy.
        """
        return self.transmission_report(
            energies, kperp=kperp, backend=backend, n_workers=n_workers, **options
        ).total

    def transmission_report(
        self,
        energies: float | Sequence[float] | np.ndarray,
        *,
        kperp: Any = None,
        weights: Sequence[float] | None = None,
        backend: Backend = "kwant",
        n_workers: int = 1,
        terminals: tuple[int, int] = (0, 1),
    ) -> TransmissionReport:
        """T(E), the modes of each lead, and where the energy had to be stepped aside.

        Parameters
        ----------
        energies : eV, on the scale of the device's H (with align="lead" the first lead's); in a gap T is 0.
        kperp : fractional transverse k: None (0), one point (2,) or (3,), or several (n, 2) or (n, 3) whose
            weighted mean is taken; two numbers belong to the axes without leads in their order.
        weights : of several k; equal by default.
        backend : "kwant", or "ase" (dense, two leads, not guarded): a cross-check for small devices.
        n_workers : processes that share the energies; a script must then be guarded by `__name__ == "__main__"`.
        terminals : numbers of the lead that sends and the lead that receives.

        Raises
        ------
        ValueError : an energy outside the bands of the leads, a wrong k, backend or lead number.
        ModuleNotFoundError : Kwant is not installed.
        """
        grid = np.atleast_1d(np.asarray(energies, dtype=float))
        if grid.ndim != 1 or not len(grid) or not np.all(np.isfinite(grid)):
            raise ValueError(
                f"energies: expected finite numbers, one at least, (n_energies,); received shape {grid.shape}"
            )
        source, drain = terminals
        for number in terminals:
            if not 0 <= number < len(self.contacts):
                raise ValueError(
                    f"terminals: expected numbers of {len(self.contacts)} leads, received {terminals}"
                )
        kpts = self._k_points(kperp)
        shares = np.ones(len(kpts)) if weights is None else np.asarray(weights, dtype=float)
        if shares.shape != (len(kpts),) or shares.sum() <= 0:
            raise ValueError(f"weights: expected one for each of {len(kpts)} k, received {weights}")
        job = Job(grid, kpts, shares / shares.sum(), self.n_spins, self._window(kpts), source, drain)
        return run(job, self._assembled, backend, n_workers)

    def states(
        self, energy: float, *, kperp: Sequence[float] | None = None, spin: int = 0
    ) -> ScatteringStates:
        """The scattering states at an energy (eV), from which densities and currents follow."""
        from ase_deeph.transport.states import scattering_states_of

        k = self._k_points(kperp)[0]
        problem, counters = self._assembled(k, spin)
        return scattering_states_of(problem, counters, float(energy))

    def smatrix(self, energy: float, *, kperp: Sequence[float] | None = None, spin: int = 0) -> Any:
        """Kwant's scattering matrix at an energy (eV), in the basis of the leads' unit-current modes.

        Raises
        ------
        ValueError : modes were lost at exactly this energy (a folded degeneracy).
        """
        from ase_deeph.transport.kwant_system import scattering_matrix
        from ase_deeph.transport.states import solved_system

        problem, counters = self._assembled(self._k_points(kperp)[0], spin)
        return scattering_matrix(solved_system(problem, counters, float(energy)), float(energy))

    def local_density_of_states(
        self, energy: float, *, kperp: Sequence[float] | None = None, spin: int = 0, by_atom: bool = False
    ) -> np.ndarray:
        """(n_orbitals,) Σ Re(ψ* (Sψ)) / 2π over the scattering states, states/eV; summed per atom if asked."""
        density = self.states(energy, kperp=kperp, spin=spin).density
        return np.add.reduceat(density, np.cumsum(self.norbs) - self.norbs) if by_atom else density

    def density_of_states(
        self,
        energies: float | Sequence[float] | np.ndarray,
        *,
        kperp: Sequence[float] | None = None,
        spin: int = 0,
    ) -> np.ndarray:
        """(n_energies,) states/eV of the whole device; bound states, which no lead reaches, are not in it."""
        grid = np.atleast_1d(np.asarray(energies, dtype=float))
        return np.array([self.states(e, kperp=kperp, spin=spin).density.sum() for e in grid])

    def bond_currents(
        self, energy: float, *, lead: int = 0, kperp: Sequence[float] | None = None, spin: int = 0
    ) -> sp.csr_matrix:
        """(n_atoms, n_atoms) antisymmetric: the current from row atom to column atom of states sent by a lead.

        In units of transmission: through any cut across a two-terminal device its sum is T(E).
        """
        return self.states(energy, kperp=kperp, spin=spin).bond_currents(lead)

    def to_kwant(
        self,
        method: Literal["exact", "lowdin"] = "exact",
        view: Literal["fast", "builder"] = "fast",
        *,
        kperp: Sequence[float] | None = None,
        spin: int = 0,
        cutoff: float | None = None,
    ) -> Any:
        """The device for Kwant, to be solved with energy=E and params={"E": E}.

        Parameters
        ----------
        method : "exact" (h(E) = H - E·S + E·1), or "lowdin" (orthogonalised and cut at `cutoff`, approximate).
        view : "fast", a low-level system around sparse matrices, or "builder", a kwant.Builder with one site per
            atom and its leads attached.
        kperp, spin : one transverse k and one spin channel.
        cutoff : range in Å of the orthogonalised H.
        """
        if method not in ("exact", "lowdin") or view not in ("fast", "builder"):
            raise ValueError(
                f"to_kwant: expected method 'exact' or 'lowdin' and view 'fast' or 'builder', received {method!r} "
                f"and {view!r}"
            )
        problem = (self if method == "exact" else self.orthogonalized(cutoff)).problem(kperp, spin)
        if view == "fast":
            from ase_deeph.transport.kwant_system import OverlapSystem

            return OverlapSystem(problem)
        from ase_deeph.exporters.kwant import device_builder

        return device_builder(problem)

    def orthogonalized(self, cutoff: float | None) -> Device:
        """The device and its leads in Löwdin orbitals, H cut at a distance (Å): approximate, for tools without S."""
        sources = [c.lead.source for c in self.contacts]
        if self.es is None or any(source is None for source in sources) or cutoff is None:
            raise ValueError(
                "lowdin: expected a device and leads made from electronic structures, and a cutoff in Å; "
                "use method='exact'"
            )
        leads = []
        for contact, source in zip(self.contacts, sources, strict=True):
            assert source is not None
            leads.append(Lead.from_bulk(source.orthogonalized(cutoff), contact.lead.axis))
        return Device(self.es.orthogonalized(cutoff), leads, **self._settings)

    def _k_points(self, kperp: Any) -> np.ndarray:
        """(n_kpts, 3) transverse k, zero along the leads."""
        points = np.zeros((1, 3)) if kperp is None else np.atleast_2d(np.asarray(kperp, dtype=float))
        free = self.transverse_axes
        if points.ndim != 2 or points.shape[1] not in (3, len(free)) or not np.all(np.isfinite(points)):
            raise ValueError(
                f"kperp: expected fractional k (3,), ({len(free)},) along {', '.join(AXES[a] for a in free)}, or "
                f"several of them, received {kperp}"
            )
        along = [a for a in range(3) if a not in free]
        if points.shape[1] == 3 and np.any(points[:, along]):
            raise ValueError(f"kperp: expected 0 along {', '.join(AXES[a] for a in along)}, received {kperp}")
        full = np.zeros((len(points), 3))
        full[:, free] = points[:, free] if points.shape[1] == 3 else points
        return full
