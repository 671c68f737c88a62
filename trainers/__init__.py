"""trainers: fitting Hamiltonian networks to DFT data, and measuring them; `python -m trainers fit config.toml`."""
