"""Write the whole corpus into a folder, or renew the manifest.

python -m tests.hostile.make FOLDER
python -m tests.hostile.make --manifest
"""

from __future__ import annotations

import sys
from pathlib import Path

from .bombs import write_bombs
from .mutants import MANIFEST, manifest, mutants, truncations
from .sides import FAILURES, METADATA, write
from .traps import write_traps


def write_all(folder: Path) -> None:
    for name, files in (("mutants", mutants()), ("truncations", truncations())):
        (folder / name).mkdir(parents=True)
        for file, content in files:
            (folder / name / file).write_bytes(content)
    for what, (name, content, _) in {**FAILURES, **METADATA}.items():
        write(folder / "sides" / what, name, content)
    write_bombs(folder / "bombs")
    write_traps(folder / "traps")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--manifest":
        MANIFEST.write_text(manifest(), encoding="utf-8")
    else:
        write_all(Path(sys.argv[1]))
