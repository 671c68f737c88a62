"""Large systems: states near an energy, Fermi levels and densities of states from sparse H and S."""
