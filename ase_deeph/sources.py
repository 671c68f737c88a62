"""Hamiltonian sources: a name, a file, a model, a callable, or a committee of them becomes one object."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from ase import Atoms

from ase_deeph.compilation_cache import compilation_cache
from ase_deeph.domain import TrainingDomain
from ase_deeph.matrix import RealSpaceMatrix
from ase_deeph.model import HamiltonianModel
from ase_deeph.uncertainty import HamiltonianSpread, mean_matrix

Dtype = Literal["float32", "float64"]
Source = Callable[[Atoms], RealSpaceMatrix]
Model = str | os.PathLike[str] | HamiltonianModel | Source


def find_device(name: str | None) -> Any:
    """A JAX device by name ("cpu", "gpu", "cuda:1"); None where JAX is to choose.

    Raises
    ------
    ValueError : no such device here.
    """
    if name is None:
        return None
    import jax

    platform, _, number = str(name).partition(":")
    try:
        devices = jax.devices(platform)
        return devices[int(number or 0)]
    except (RuntimeError, ValueError, IndexError) as error:
        present = ", ".join(sorted({d.platform for d in jax.devices()}))
        raise ValueError(
            f"device {name!r}: not found here; JAX sees {present}, or leave device=None"
        ) from error


def _member(model: Model | None) -> Source:
    """A model or callable from what a user may give."""
    if model is None or isinstance(model, (str, os.PathLike)):
        from ase_deeph.pretrained import load

        return load(model)
    if callable(model):
        return model
    raise ValueError(
        f"model: expected a name, a path, a HamiltonianModel or a callable source(atoms) -> RealSpaceMatrix, "
        f"received {type(model).__name__}"
    )


class Committee:
    """One or several Hamiltonian sources, asked together; H is their mean.

    Parameters
    ----------
    model : None (the model that ships), a name, a path, a HamiltonianModel, a callable, or a list of these.
    overlap : None (the first member's own, from its radial functions) or source(atoms) -> S.
    device : where networks run ("cpu", "gpu", "cuda:1"), None for JAX's choice.
    dtype : precision of networks.

    Raises
    ------
    ValueError : an unknown model, device or precision, or an empty list.
    """

    def __init__(
        self,
        model: Model | Sequence[Model] | None = None,
        overlap: Source | None = None,
        *,
        device: str | None = None,
        dtype: Dtype = "float32",
    ) -> None:
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype: expected 'float32' or 'float64', received {dtype!r}")
        if overlap is not None and not callable(overlap):
            raise ValueError(
                f"overlap: expected None or a callable source(atoms), received {type(overlap).__name__}"
            )
        models: list[Any] = list(model) if isinstance(model, (list, tuple)) else [model]
        if not models:
            raise ValueError("model: expected at least one, received an empty list")
        self.members = [_member(m) for m in models]
        self.dtype = dtype
        self._overlap = overlap
        self._device = find_device(device)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """The chosen device, and compiled networks kept on disk."""
        with ExitStack() as stack:
            stack.enter_context(compilation_cache())
            if self._device is not None:
                import jax

                stack.enter_context(jax.default_device(self._device))
            yield

    def _ask(self, member: Source, atoms: Atoms) -> RealSpaceMatrix:
        if isinstance(member, HamiltonianModel):
            with self._inference():
                return member(atoms, dtype=self.dtype)
        matrix = member(atoms)
        if not isinstance(matrix, RealSpaceMatrix):
            raise ValueError(
                f"the source {member!r} returned {type(matrix).__name__}; expected a RealSpaceMatrix"
            )
        if not np.all(np.isfinite(matrix.entries)):
            raise ValueError(
                f"the source {member!r} returned NaN or infinity for {atoms.get_chemical_formula()}"
            )
        return matrix

    def predictions(self, atoms: Atoms) -> list[RealSpaceMatrix]:
        """H(R) of each member, eV.

        Raises
        ------
        ValueError : no atoms, positions that are not finite, or what the source itself refuses.
        KeyError : an element that the source does not know.
        """
        _check_atoms(atoms)
        return [self._ask(member, atoms) for member in self.members]

    @property
    def potential_properties(self) -> frozenset[str]:
        """Which of "energy", "forces" and "stress" every member has; empty for a Hamiltonian alone."""
        return frozenset.intersection(
            *(frozenset(getattr(member, "potential_properties", ())) for member in self.members)
        )

    @property
    def magnetic(self) -> bool:
        """Whether H of any member depends on the atoms' initial magnetic moments."""
        return any(getattr(member, "magnetic", False) for member in self.members)

    def potential(self, atoms: Atoms, *, stress: bool | None = None) -> Any:
        """Mean energy (eV), forces (eV/Å), stress (eV/Å³) and energies of the atoms (eV), a `Potential`.

        Parameters
        ----------
        stress : whether the stress is wanted; None leaves it to the model.

        Raises
        ------
        ValueError : as `predictions`, or energies that are not finite.
        """
        _check_atoms(atoms)
        with self._inference():
            each = [m.potential(atoms, dtype=self.dtype, stress=stress) for m in self.members]  # type: ignore[attr-defined]
        for potential in each:
            if not np.isfinite(potential.energy) or not np.all(np.isfinite(potential.forces)):
                raise ValueError(
                    f"the model returned NaN or infinity as energy or forces of {atoms.get_chemical_formula()}"
                )
        if len(each) == 1:
            return each[0]
        names = ("energy", "forces", "stress", "energies")
        values = {name: [getattr(potential, name) for potential in each] for name in names}
        means = {n: None if any(v is None for v in vs) else np.mean(vs, axis=0) for n, vs in values.items()}
        return replace(each[0], **{**means, "energy": float(np.mean(values["energy"]))})

    def hamiltonian(self, atoms: Atoms) -> RealSpaceMatrix:
        """The mean of the members' H(R), eV."""
        return mean_matrix(self.predictions(atoms))

    def spread(self, atoms: Atoms) -> HamiltonianSpread:
        """The members' deviations from their mean, each on the common zero of energy where S is known.

        Raises
        ------
        ValueError : fewer than two members.
        """
        members = self.predictions(atoms)
        if not self.knows_overlap(members[0]):
            return HamiltonianSpread.raw(members)
        return HamiltonianSpread.gauge_fixed(members, self.overlap(atoms, members[0]))

    def outside_domain(self, atoms: Atoms) -> tuple[str, ...]:
        """In which ways a structure lies outside what the members were trained on, as far as they know it."""
        domains: list[TrainingDomain] = []
        for member in self.members:
            domain = getattr(member, "domain", None)
            if isinstance(domain, TrainingDomain) and domain not in domains:
                domains.append(domain)
        return tuple(dict.fromkeys(remark for domain in domains for remark in domain.outside(atoms)))

    def knows_overlap(self, hamiltonian: RealSpaceMatrix) -> bool:
        """Whether `overlap` has a source or radial functions to work with."""
        first = self.members[0]
        own = not isinstance(first, HamiltonianModel) and callable(getattr(first, "overlap", None))
        return self._overlap is not None or own or hamiltonian.basis.has_radial_functions

    def overlap(self, atoms: Atoms, hamiltonian: RealSpaceMatrix) -> RealSpaceMatrix | None:
        """S(R): what the overlap source says (None: an orthonormal basis), or two-centre integrals.

        Raises
        ------
        ValueError : neither an overlap source nor radial functions to compute S from.
        """
        if self._overlap is not None:
            return self._overlap(atoms)
        first = self.members[0]
        if isinstance(first, HamiltonianModel) or callable(getattr(first, "overlap", None)):
            return first.overlap(atoms)  # type: ignore[attr-defined]
        if not hamiltonian.basis.has_radial_functions:
            raise ValueError(
                f"the overlap of {hamiltonian.basis} is unknown: its basis carries no radial functions; "
                "give DeepHCalculator(..., overlap=source), or a source whose basis has them"
            )
        from ase_deeph.two_center import overlap

        return overlap(atoms, hamiltonian.basis)


def _check_atoms(atoms: Atoms) -> None:
    """ValueError for an empty structure, or one whose numbers are not finite."""
    if not len(atoms):
        raise ValueError("atoms: expected at least one atom, received an empty structure")
    if not np.all(np.isfinite(atoms.positions)) or not np.all(np.isfinite(atoms.cell.array)):
        raise ValueError("atoms: expected finite positions and cell, received NaN or infinity")
