"""``python -m epsopt``: the `epsopt` command where no folder of scripts is on the path."""

from __future__ import annotations

from epsopt.cli.main import main

if __name__ == "__main__":
    main()
