"""What every room needs: files and locks, optional packages, words, TOML, the machine, torchrun."""
