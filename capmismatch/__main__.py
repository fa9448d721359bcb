"""``python -m capmismatch``: the command line, where its script is not on the path, or under ``torchrun -m``."""

from capmismatch.cli import main

if __name__ == "__main__":
    main()
