"""trainers: fits Hamiltonian networks to DFT data, measures them; `python -m trainers fit config.toml`."""
