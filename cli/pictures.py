"""What commands that save a picture do alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from epsopt.studies.output_files import OutputFile
    from epsopt.zoo.catalogue.catalogue import Catalogue


def picture_file(save: Path | None, catalogue: Catalogue, *, overwrite: bool) -> OutputFile | None:
    """Check where a picture is to be saved, before anything is computed; None where none is.

    Raises:
        UsageError: it cannot be written there.
    """
    from epsopt.studies.output_files import PICTURE, output_file, run_folders

    if save is None:
        return None
    return output_file(save, PICTURE, "a picture", overwrite=overwrite, runs=run_folders(catalogue))
