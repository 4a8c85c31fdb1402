"""`epsopt embed`: a checkpoint's anchor embeddings, predicted and real, as a picture and as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, common, overwrite_option, seed_option
from epsopt.cli.pictures import former_picture_option
from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    from epsopt.cli.resolve_checkpoint import Located
    from epsopt.optimize.latent.embedding_projection import Preview
    from epsopt.studies.output_files import OutputFile
    from epsopt.surrogate.surrogate import Surrogate
    from epsopt.zoo.catalogue.catalogue import Catalogue


@click.command("embed")
@click.argument("what", metavar="PATH|RUN[:EPOCH]|SHA256")
@former_picture_option
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Arrays to write: .npz.")
@click.option("--weights-only", is_flag=True, help="Do not run the project's embed hook on a file.")
@overwrite_option
@seed_option
@common
def command(
    options: Options,
    what: str,
    picture: Path | None,
    output: Path | None,
    weights_only: bool,
    overwrite: bool,
    seed: int,
) -> None:
    """Preview a checkpoint's anchor embeddings: what the map predicts from its weights, beside the real ones.

    Real embeddings come from the catalogue, or for a file that is not in it from the project's embed hook.
    """
    from epsopt.cli.output import print_json
    from epsopt.cli.pictures import picture_file, save_picture
    from epsopt.cli.progress import working
    from epsopt.cli.resolve_checkpoint import locate
    from epsopt.cli.workspace import measured, open_workspace

    with working("loading the map") as progress:
        workspace = open_workspace(options)
        with workspace.catalogue() as catalogue:
            checkpoints = measured(catalogue)
            file = picture_file(picture, catalogue, overwrite=overwrite)
            arrays = _arrays_file(output, catalogue, overwrite=overwrite)
            from epsopt.studies.embedding_preview import in_unit_ball, preview_embeddings, real_embeddings
            from epsopt.studies.surrogate_store import load_map

            surrogate, _ = load_map(catalogue)
            located = locate(what, catalogue, checkpoints)
            found = located.fingerprint
            if (refused := found.refusal or surrogate.refusal(found.signature, kinds=found.tensor_kinds)) is not None:
                raise UsageError(f"the embeddings of {located.title} cannot be predicted: {refused}")
            hook = workspace.project.embed if workspace.project and not weights_only else None
            real = real_embeddings(catalogue, located.checkpoint, Path(what), hook)
            ball = in_unit_ball(catalogue, checkpoints)
        progress("drawing", None)
        shown = preview_embeddings(surrogate, located.fingerprint, real, ball=ball, seed=seed)
        if arrays is not None:
            _write(arrays, shown)
        if file is not None:
            from epsopt.figures import embedding

            save_picture(embedding(shown, title=f"Anchor embeddings of {located.title}"), file)
    if options.json:
        print_json(_document(located, shown, surrogate, picture, output, ball=ball))
    else:
        _show(located, shown, surrogate, picture, output, ball=ball)


def _document(
    located: Located, shown: Preview, surrogate: Surrogate, picture: Path | None, output: Path | None, *, ball: bool
) -> dict[str, Any]:
    return {
        "checkpoint": located.title,
        "sha256": located.checkpoint.sha256,
        "anchors": len(shown.predicted),
        "dimensions": shown.predicted.shape[1],
        "unit_ball": ball,
        "real": shown.real is not None,
        "cosine": shown.cosine,
        "distance_correlation": shown.distance_correlation,
        "explained": shown.explained,
        "picture": None if picture is None else str(picture),
        "arrays": None if output is None else str(output),
        "trained_on": surrogate.trained_on,
    }


def _show(
    located: Located, shown: Preview, surrogate: Surrogate, picture: Path | None, output: Path | None, *, ball: bool
) -> None:
    from epsopt.cli.output import print_wrapped

    space = "the Poincaré ball" if ball else "Euclidean space"
    print_wrapped(f"{located.title}: {len(shown.predicted)} anchors in {shown.predicted.shape[1]} dimensions ({space})")
    if shown.real is None:
        print_wrapped(
            "Only predicted embeddings: the real ones are not known (hooks.embed gives them when runs are ingested)."
        )
    else:
        print_wrapped(
            f"Predicted from its weights, against the real ones: mean cosine {shown.cosine:.3f}, rank correlation of "
            f"the distances between anchors {shown.distance_correlation:.3f}."
        )
        if located.checkpoint.id and located.checkpoint.sha256 in surrogate.memory.keys:
            print_wrapped(
                "Careful: the map has learned from this very checkpoint, so its prediction is better than on new ones."
            )
    for kind, file in (("picture", picture), ("arrays", output)):
        if file is not None:
            print_wrapped(f"The {kind} {'are' if kind == 'arrays' else 'is'} in {file}.")
    if picture is None and output is None:
        print_wrapped("--picture FILE.png draws them, --output FILE.npz writes them.")


def _arrays_file(output: Path | None, catalogue: Catalogue, *, overwrite: bool) -> OutputFile | None:
    from epsopt.studies.output_files import output_file, run_folders

    if output is None:
        return None
    return output_file(output, (".npz",), "arrays", overwrite=overwrite, runs=run_folders(catalogue))


def _write(file: OutputFile, shown: Preview) -> None:
    import io

    import numpy as np

    arrays = {"predicted": shown.predicted}
    if shown.real is not None:
        arrays["real"] = shown.real
    for name, sets in (("pca", shown.pca), ("tsne", shown.tsne), ("disc", shown.disc or {})):
        arrays |= {f"{name}_{kind}": points for kind, points in sets.items()}
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **arrays)
    file.write(data.getvalue())
