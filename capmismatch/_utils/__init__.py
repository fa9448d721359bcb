"""What every room uses: files and locks, optional packages, phrases, TOML, the machine, torchrun."""
