"""Draw the pictures of docs/map.md from a project with a fitted map.

    python docs/make_map_images.py PROJECT_FOLDER

PROJECT_FOLDER holds epsopt.toml. Needs kaleido and a Chrome or Chromium (BROWSER_PATH says where).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

IMAGES = Path(__file__).resolve().parent / "images"
PICTURES = {
    "trajectory.png": ["trajectory", "run_045", "--first", "8"],
    "groups.png": ["cluster"],
    "embeddings.png": ["embed", "run_007:20"],
}


def main() -> None:
    epsopt = str(Path(sys.executable).parent / "epsopt")
    for name, arguments in PICTURES.items():
        subprocess.run([epsopt, *arguments, "--save", str(IMAGES / name)], check=True, cwd=sys.argv[1])


if __name__ == "__main__":
    main()
