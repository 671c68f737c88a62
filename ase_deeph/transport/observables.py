"""Landauer's observables from T(E) as plain arrays: conductance, current, thermopower, thermal conductance.

    L_n = ∫ T(E) (E - μ)^n (-∂f/∂E) dE
    G = g e²/h L_0,   S = -L_1 / (e T L_0),   κ_el = g/(h T) (L_2 - L_1²/L_0)

with f the Fermi function and g the electrons that each channel of T(E) carries (2 for unpolarised spin, else 1).
"""

from __future__ import annotations

import numpy as np
from ase.units import _e, _hplanck, kB

_TAIL = 1e-3


def fermi_weight(energies: np.ndarray, fermi_level: float, temperature: float) -> np.ndarray:
    """(n_energies,) -∂f/∂E in 1/eV at a temperature in K."""
    x = (np.asarray(energies, dtype=float) - fermi_level) / (kB * temperature)
    return 0.25 / (kB * temperature) / np.cosh(np.clip(0.5 * x, -300, 300)) ** 2


def moments(
    energies: np.ndarray, transmission: np.ndarray, fermi_level: float, temperature: float
) -> np.ndarray:
    """(3,) L_0, L_1, L_2 in 1, eV, eV² by the trapezoidal rule.

    Raises
    ------
    ValueError : a temperature that is not positive, energies that do not ascend, NaN in T, or a grid that holds less
        than 99.9 % of -∂f/∂E or is too coarse for it.
    """
    e, t = np.asarray(energies, dtype=float), np.asarray(transmission, dtype=float)
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number of kelvin, received {temperature}")
    if e.ndim != 1 or e.shape != t.shape or len(e) < 2 or np.any(np.diff(e) <= 0):
        raise ValueError(
            f"transmission: expected T on an ascending grid of energies, received shapes {e.shape} and {t.shape}"
        )
    if np.any(np.isnan(t)):
        raise ValueError(f"transmission: NaN at {e[np.isnan(t)][0]:.6f} eV; leave that energy out")
    weight = fermi_weight(e, fermi_level, temperature)
    held = float(np.trapezoid(weight, e))
    if abs(held - 1.0) > _TAIL:
        raise ValueError(
            f"energies: the grid {e[0]:.3f} ... {e[-1]:.3f} eV holds {held:.3f} of the thermal window "
            f"at {temperature} K around {fermi_level:.3f} eV; widen it to "
            f"± {12 * kB * temperature:.2f} eV with steps below {kB * temperature:.1e} eV"
        )
    return np.array([np.trapezoid(t * (e - fermi_level) ** n * weight, e) for n in range(3)])


def conductance(
    energies: np.ndarray,
    transmission: np.ndarray,
    fermi_level: float,
    temperature: float,
    *,
    degeneracy: int = 2,
) -> float:
    """Landauer conductance in siemens, G = g e²/h ∫ T(E) (-∂f/∂E) dE.

    Parameters
    ----------
    energies, transmission : (n_energies,) eV and T(E).
    fermi_level, temperature : eV and K; at 0 K, T(E) is interpolated at the Fermi level.
    degeneracy : g, 2 for unpolarised spin, 1 for one channel of a collinear or for a spinor T(E).
    """
    quantum = degeneracy * _e**2 / _hplanck
    if temperature == 0:
        return quantum * float(np.interp(fermi_level, energies, transmission))
    return quantum * float(moments(energies, transmission, fermi_level, temperature)[0])


def seebeck(energies: np.ndarray, transmission: np.ndarray, fermi_level: float, temperature: float) -> float:
    """Thermopower in V/K, S = -L_1 / (e T L_0): negative where electrons above the Fermi level carry.

    Raises
    ------
    ValueError : nothing is transmitted within the thermal window.
    """
    l0, l1, _ = moments(energies, transmission, fermi_level, temperature)
    if l0 <= 0:
        raise ValueError(
            "seebeck: nothing is transmitted in the thermal window, the thermopower is undefined"
        )
    return float(-l1 / (temperature * l0))


def electronic_thermal_conductance(
    energies: np.ndarray,
    transmission: np.ndarray,
    fermi_level: float,
    temperature: float,
    *,
    degeneracy: int = 2,
) -> float:
    """Electrons' heat conductance at zero current in W/K, κ = g/(h T) (L_2 - L_1²/L_0)."""
    l0, l1, l2 = moments(energies, transmission, fermi_level, temperature)
    joule_squared = (l2 - (l1**2 / l0 if l0 > 0 else 0.0)) * _e**2
    return float(degeneracy * joule_squared / (_hplanck * temperature))


def current(
    energies: np.ndarray,
    transmission: np.ndarray,
    potentials: tuple[float, float],
    temperature: float,
    *,
    degeneracy: int = 2,
) -> float:
    """Current in ampere, I = g e/h ∫ T(E) [f(E - μ_1) - f(E - μ_2)] dE, with T(E) of zero bias.

    Parameters
    ----------
    potentials : μ_1 and μ_2 in eV, of the lead that sends and the lead that receives.
    """
    e = np.asarray(energies, dtype=float)
    first, second = (_fermi(e, mu, temperature) for mu in potentials)
    charge = float(np.trapezoid(np.asarray(transmission) * (first - second), e))
    return degeneracy * _e**2 / _hplanck * charge


def _fermi(energies: np.ndarray, mu: float, temperature: float) -> np.ndarray:
    if temperature == 0:
        return np.where(energies < mu, 1.0, np.where(energies > mu, 0.0, 0.5))
    return 0.5 * (1.0 - np.tanh(np.clip((energies - mu) / (2 * kB * temperature), -300, 300)))
