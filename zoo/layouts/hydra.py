"""Hydra: ``outputs/D/T/.hydra/config.yaml`` or ``multirun/D/T/N/.hydra/config.yaml``; combines with every other layout.

It gives the hyperparameters, and of each configuration group what was chosen (``model=wide``), under the group's name.
Interpolations are never evaluated: ``${lr}`` is replaced where it names a plain value of
the same file, and everything else (``${oc.env:HOME}``, ``${mul:2,3}``) stays the text that it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.layout import Layout
from epsopt.zoo.layouts.log_rows import flat
from epsopt.zoo.layouts.parsed import RunMetadata
from epsopt.zoo.layouts.side_file_reader import SideFileReader
from epsopt.zoo.reading.plain_values import Plain, number_or_text
from epsopt.zoo.reading.text import LONGEST, sanitize

FOLDER = ".hydra"
OWN = "hydra.yaml"
_ABOVE = 5  # folders above a checkpoint in which Hydra's own is looked for
_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.-]*)\}")
_ROUNDS = 8  # references that lead to references


def run_of(file: Path, folders: Folders) -> Path | None:
    """Return the nearest folder above that holds ``.hydra``."""
    return _output(file.parent, folders)


def _output(folder: Path, folders: Folders) -> Path | None:
    for candidate in (folder, *folder.parents[:_ABOVE]):
        if FOLDER in folders.names(candidate):
            return candidate
    return None


def side_files(run: Path, _held: Sequence[Path], folders: Folders) -> list[Path]:
    """Return the composed configuration, or the overrides where there is none, and what Hydra says of itself."""
    output = _output(run, folders)
    if output is None:
        return []
    found = folders.those(output / FOLDER, ("config.yaml", "overrides.yaml"))
    return [*found[:1], *folders.those(output / FOLDER, (OWN,))]


def parse_side_files(reader: SideFileReader) -> RunMetadata:
    """Read the configuration; interpolations stay text where they are not plain."""
    metadata = RunMetadata(failures=reader.failures)
    choices: dict[str, Plain] = {}
    for file in reader.files:
        tree = reader.yaml(file)
        if Path(file).name == OWN:
            choices = _choices(tree)
            continue
        if isinstance(tree, list):  # overrides: "optimizer.lr=0.1"
            pairs = [str(item).lstrip("+~").split("=", 1) for item in tree if "=" in str(item)]
            metadata.hyperparameters = {sanitize(key): number_or_text(value) for key, value in pairs}
        else:
            metadata.hyperparameters = resolved(flat(tree))
    metadata.hyperparameters = {**choices, **metadata.hyperparameters}
    return metadata


def _choices(tree: object) -> dict[str, Plain]:
    """What was chosen in each group of the configuration; Hydra's own groups are none."""
    for key in ("hydra", "runtime", "choices"):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    if not isinstance(tree, Mapping):
        return {}
    pairs = ((str(group).partition("@")[0], choice) for group, choice in tree.items())
    return {sanitize(g): sanitize(c) for g, c in pairs if isinstance(c, str) and not g.startswith("hydra/")}


def resolved(values: Mapping[str, Plain]) -> dict[str, Plain]:
    """Replace references to plain values of the same mapping; whatever else is left as text."""
    return {key: _resolve(value, values, _ROUNDS) for key, value in values.items()}


def _resolve(value: Plain, values: Mapping[str, Plain], rounds: int) -> Plain:
    if not isinstance(value, str) or "${" not in value or rounds == 0:
        return value
    whole = _REFERENCE.fullmatch(value)
    if whole is not None:
        return _resolve(values[whole[1]], values, rounds - 1) if whole[1] in values else value
    text = _REFERENCE.sub(lambda m: _text(values.get(m[1], m[0])), value)
    # Text that grows by each round is a bomb; what is left of it is cut as all text is.
    return value if text == value or len(text) > LONGEST else _resolve(text, values, rounds - 1)


def _text(value: Plain) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


LAYOUT = Layout("hydra", run_of=run_of, side_files=side_files, parse_side_files=parse_side_files, combines=True)
