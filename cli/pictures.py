"""What commands that draw a picture do alike."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from epsopt.cli.workspace import MeasuredProject
    from epsopt.studies.output_files import OutputFile
    from epsopt.zoo.catalogue.catalogue import Catalogue

HELP = "Picture to write: .html, .png or .svg."


def picture_option(function: Callable[..., None]) -> Callable[..., None]:
    """Add ``--picture FILE`` to a command."""
    return click.option("--picture", type=click.Path(path_type=Path), metavar="FILE", help=HELP)(function)


def former_picture_option(function: Callable[..., None]) -> Callable[..., None]:
    """Add ``--picture FILE`` to a command in which it was ``--save`` in version 0.1; that still works, with a note."""

    @picture_option
    @click.option("--save", type=click.Path(path_type=Path), hidden=True)
    @functools.wraps(function)
    def wrapped(picture: Path | None, save: Path | None, **rest: Any) -> None:
        if save is not None:
            from epsopt.cli.output import note

            if picture is not None:
                raise UsageError("--save is the former name of --picture: name one file")
            note("the option --save of this command is --picture now; the former name goes with version 0.3")
        function(picture=save if picture is None else picture, **rest)

    return wrapped


def picture_file(picture: Path | None, catalogue: Catalogue, *, overwrite: bool) -> OutputFile | None:
    """Check where a picture is to be saved, before anything is computed; None where none is.

    Raises:
        UsageError: it cannot be written there.
    """
    from epsopt.studies.output_files import PICTURE, output_file, run_folders

    if picture is None:
        return None
    return output_file(picture, PICTURE, "a picture", overwrite=overwrite, runs=run_folders(catalogue))


def opened_picture_file(picture: Path | None, opened: MeasuredProject, *, overwrite: bool) -> OutputFile | None:
    """Do as :func:`picture_file` where the map is open and the catalogue is not.

    Raises:
        UsageError: it cannot be written there.
    """
    if picture is None:
        return None
    with opened.workspace.catalogue() as catalogue:
        return picture_file(picture, catalogue, overwrite=overwrite)


def save_picture(figure: go.Figure, file: OutputFile) -> None:
    """Write a figure into the file that :func:`picture_file` checked."""
    from epsopt.studies.pictures import save_picture as save

    save(figure, file)


def tell_picture(picture: Path | None) -> None:
    """Say where the picture is, if one was asked for."""
    from epsopt.cli.output import print_wrapped

    if picture is not None:
        print_wrapped()
        print_wrapped(f"The picture is in {picture}.")
