"""`epsopt merge`: merges of checkpoints that widen the measured front, each measured and saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, common, overwrite_option, seed_option
from epsopt.cli.pictures import picture_option
from epsopt.zoo.decoding.operator_names import DENSITY, LINEAR, OPERATORS, require_operator
from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from epsopt.studies.merge.merge_sources import Sources
    from epsopt.studies.merge.simplex_merge import Merged
    from epsopt.studies.merge.weight_space_merge import WeightSpaceMerge
    from epsopt.studies.project.project import Project
    from epsopt.zoo.catalogue.catalogue import Catalogue
    from epsopt.zoo.catalogue.types import Checkpoint, Lineage
    from epsopt.zoo.decoding.kept_evaluations import KeptEvaluations
    from epsopt.zoo.decoding.recombination import Parent


@click.command("merge")
@click.argument("parents", nargs=-1, metavar="[CHECKPOINT]...")
@click.option(
    "--count", "-n", type=click.IntRange(2, 5), default=3,
    help="Number of checkpoints of the front to merge: those that dominate most.",
)  # fmt: skip
@click.option("--budget", type=click.IntRange(min=3), default=30, show_default=True, help="Real evaluations.")
@click.option(
    "--groups", metavar="PATTERN,...", help="Tensors with coefficients of their own: '*.encoder.*,*.projection.*'."
)
@click.option(
    "--reach", type=click.FloatRange(0.0, 1.0), default=0.0, show_default=True,
    help="Leave the simplex: 0.1 stretches it by a tenth.",
)  # fmt: skip
@click.option(
    "--save", type=click.Path(path_type=Path), metavar="DIR", help="Where to; a new folder in the runs folder."
)
@click.option("--rank", type=click.IntRange(min=1), help="Of merged LoRA adapters; that of the sum if not said.")
@click.option(
    "--whole-models", type=click.Path(path_type=Path), metavar="DIR",
    help="Save merges of LoRA adapters, added to their base, here too.",
)  # fmt: skip
@click.option(
    "--operator", type=click.Choice([LINEAR, *OPERATORS]), default=LINEAR, show_default=True, metavar="NAME",
    help="linear, or of mergekit: slerp, ties, dare, della, breadcrumbs, task_arithmetic, ...",
)  # fmt: skip
@click.option(
    "--density", type=click.FloatRange(0.0, 1.0, min_open=True), default=DENSITY, show_default=True,
    help="Share of each difference that ties, dare and their like keep.",
)  # fmt: skip
@click.option("--jobs", "-j", type=click.IntRange(min=1), default=1, show_default=True, help="Evaluations at a time.")
@click.option("--fresh", is_flag=True, help="Measure again what an interrupted merge measured.")
@click.option("--format", "form", type=click.Choice(["safetensors", "pt"]), help="Like the parents if not said.")
@seed_option
@picture_option
@overwrite_option
@common
def command(options: Options, picture: Path | None, overwrite: bool, **given: Any) -> None:
    """Merge checkpoints so that the measured front widens.

    Each merge is measured with the project's evaluate hook. Those that no measured checkpoint beats are saved with
    their origin, ready to be ingested.

    Of up to 32 checkpoints of the lineages that hold most of the front, the next merge is the one that is expected to
    widen it most. With 2 to 5 named checkpoints of one lineage, or with --count, --groups, --reach or --operator, only
    these are merged.

    --picture draws the merges among all that was measured.
    """
    asked = _Asked(**given)
    if asked.parents and _is_given("count"):
        raise UsageError("--count is for checkpoints that are not named: leave it out, or the names")
    from epsopt.cli.pictures import picture_file, save_picture, tell_picture
    from epsopt.cli.progress import working
    from epsopt.cli.workspace import open_workspace

    with working("opening the catalogue") as progress:
        workspace = open_workspace(options)
        project = _with_hook(workspace.require_project())
        with workspace.catalogue() as catalogue:
            file = picture_file(picture, catalogue, overwrite=overwrite)
            ended = _with_whole_models(_merge(asked, project, catalogue, progress), asked, progress)
        if file is not None:
            save_picture(_figure(ended, project), file)
    _say(ended.left_out, ended.notes)
    _print(ended, asked, project, as_json=options.json)
    if not options.json:
        tell_picture(picture)


def _figure(ended: _Ended, project: Project) -> go.Figure:
    """Draw the merges among the measured checkpoints."""
    from types import SimpleNamespace

    from epsopt.figures import front

    if ended.found is not None:
        measured = list(enumerate(t.measured for t in ended.found.tried))
    else:
        result, parents = (None, ()) if ended.merged is None else (ended.merged.result, ended.merged.parents)
        some = () if result is None else result.evaluations
        measured = [(i, e.measured) for i, e in enumerate(some) if i >= len(parents)]
    merges = [SimpleNamespace(run=f"merged {i}", epoch=None, metrics=m, hyperparameters={}) for i, m in measured if m]
    return front(project.objectives, ended.checkpoints, merged=merges, title="Merges among all that was measured")


def _print(ended: _Ended, asked: _Asked, project: Project, *, as_json: bool) -> None:
    from epsopt.cli.merge_few import print_merged
    from epsopt.cli.merge_search import print_search
    from epsopt.cli.run_labels import RunLabels

    labels = RunLabels.of(ended.checkpoints)
    if ended.found is not None:
        print_search(
            ended.found, project, ended.folder, asked.budget, asked.seed, labels, ended.whole,
            as_json=as_json,
        )  # fmt: skip
    elif ended.merged is not None:
        print_merged(
            ended.merged, ended.left_out, project, ended.folder, asked.budget, asked.seed, asked.reach, labels,
            ended.whole, as_json=as_json,
        )  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """The options of the command."""

    parents: tuple[str, ...]
    count: int
    budget: int
    groups: str | None
    reach: float
    save: Path | None
    form: str | None
    rank: int | None
    whole_models: Path | None
    operator: str
    density: float
    jobs: int
    fresh: bool
    seed: int

    @property
    def few(self) -> bool:
        """Whether a few checkpoints alone are merged."""
        return bool(self.parents or self.groups or self.reach or self.operator != LINEAR or _is_given("count"))


@dataclass(frozen=True)
class _Ended:
    """What came of it: of the one kind of merge or of the other."""

    checkpoints: Sequence[Checkpoint]
    folder: Path
    left_out: Sequence[Checkpoint]
    notes: Sequence[str]
    merged: Merged | None = None
    found: WeightSpaceMerge | None = None
    whole: Mapping[int, Path] = field(default_factory=dict)


def _merge(
    asked: _Asked, project: Project, catalogue: Catalogue, progress: Callable[[str, float | None], None]
) -> _Ended:
    from epsopt.cli.merge_search import search_merges
    from epsopt.cli.workspace import check_objectives, measured, note_one_value
    from epsopt.studies.merge.merge_sources import choose_sources
    from epsopt.studies.merge.resume import resumable, resumed_sentences
    from epsopt.studies.merge.whole_models import require_adapters
    from epsopt.studies.output_paths import save_folder

    checkpoints, lineages = measured(catalogue), catalogue.lineages()
    check_objectives(project, catalogue.metric_names())
    note_one_value(project, checkpoints)
    _check_new(asked.save)
    parents: list[Checkpoint] = []
    broken: list[Checkpoint] = []
    sources: tuple[Sources, ...] = ()
    if asked.few:
        parents, broken = _parents(asked.parents, checkpoints, project, asked.count, catalogue, asked.operator)
    else:
        sources = choose_sources(checkpoints, lineages, project.objectives)
    if asked.groups:
        (seen,) = catalogue.fingerprints([parents[0].id])
        _require_matches(_patterns(asked.groups), seen.names)
    base = _base(asked.operator, parents, lineages)
    if asked.whole_models is not None:
        _check_new(asked.whole_models)
        require_adapters(parents or [c for one in sources for c in one.checkpoints])
    # Held from before the first evaluation: another merge at the same time takes another one.
    with (
        save_folder(asked.save, project.runs, "merged", checkpoints) as folder,
        resumable(catalogue, project, asked.rank, fresh=asked.fresh) as kept,
    ):
        if not asked.few:
            found = search_merges(
                project, checkpoints, sources, folder, asked.form,
                budget=asked.budget, rank=asked.rank, seed=asked.seed, progress=progress, jobs=asked.jobs, kept=kept,
            )  # fmt: skip
            notes = [*found.disagreements, *resumed_sentences(kept)]
            return _Ended(checkpoints, folder, found.left_out, notes, found=found)
        merged = merge_within(
            project, checkpoints, parents, folder, asked.form, asked.groups, asked.budget, asked.reach, asked.rank,
            asked.seed, progress, operator=asked.operator, base=base, density=asked.density, jobs=asked.jobs, kept=kept,
        )  # fmt: skip
        notes = [*_fewer(asked, parents), *merged.disagreements, *resumed_sentences(kept)]
        return _Ended(checkpoints, folder, broken, notes, merged=merged)


def _fewer(asked: _Asked, parents: Sequence[Checkpoint]) -> list[str]:
    """Say that fewer checkpoints than --count were merged."""
    if asked.parents or not _is_given("count") or len(parents) >= asked.count:
        return []
    return [f"{len(parents)} checkpoints were merged, not {asked.count}: no other one of their lineage is on the front"]


def _with_whole_models(ended: _Ended, asked: _Asked, progress: Callable[[str, float | None], None]) -> _Ended:
    """Add merged adapters to their base, if that was asked for."""
    if asked.whole_models is None:
        return ended
    from epsopt.studies.merge.whole_models import save_whole_models

    saved = ended.found.saved if ended.found is not None else ended.merged.saved if ended.merged is not None else {}
    whole = save_whole_models(saved, asked.whole_models, lambda done: progress("adding adapters to their base", done))
    return replace(ended, whole=whole)


def _say(left_out: Sequence[Checkpoint], disagreements: Sequence[str]) -> None:
    from epsopt.cli.output import note
    from epsopt.studies.merge.merge_sources import left_out_sentences

    for sentence in (*left_out_sentences(left_out), *disagreements):
        note(sentence)


def _patterns(groups: str | None) -> tuple[str, ...]:
    return tuple(p.strip() for p in groups.split(",") if p.strip()) if groups else ()


def _require_matches(patterns: Sequence[str], names: Sequence[str]) -> None:
    """Refuse patterns that no tensor fits: each is a dimension of the search."""
    from fnmatch import fnmatchcase

    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(names[:3])
            raise UsageError(f"--groups: no tensor of the checkpoints fits {pattern}; their names are {some}, ...")


def _base(operator: str, parents: Sequence[Checkpoint], lineages: Sequence[Lineage]) -> Parent | None:
    """Return what an operator of mergekit takes differences from; the operator can be applied to the parents."""
    from epsopt.zoo.decoding.recombination import Parent

    if operator == LINEAR:
        return None
    require_operator(operator, len(parents))
    if not OPERATORS[operator].from_base:
        return None
    lineage = next((known for known in lineages if known.id == parents[0].lineage_id), None)
    if lineage is None or not lineage.declared:
        raise UsageError(
            f"{operator} adds up differences from the base, which no run names as a file: add [lineage] "
            'base = "FOLDER/model.safetensors" to epsopt.toml, and ingest again'
        )
    if any(p.sha256 == lineage.reference_sha256 for p in parents):
        raise UsageError(f"{lineage.reference_path} is the base, whose difference from itself is nothing: name others")
    return Parent(lineage.reference_path, lineage.reference_sha256)


def _with_hook(project: Project) -> Project:
    if project.evaluate is None:
        raise UsageError(
            f"{project.file}: merging measures every merged checkpoint, which needs a hook: add "
            '[hooks] evaluate = "package.module:function"'
        )
    return project


def _is_given(option: str) -> bool:
    return click.get_current_context().get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE


def _parents(
    named_ones: tuple[str, ...],
    checkpoints: Sequence[Checkpoint],
    project: Project,
    count: int,
    catalogue: Catalogue,
    operator: str = LINEAR,
) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Return the parents, and checkpoints that would be some if no weight of theirs were NaN."""
    from epsopt.cli.resolve_checkpoint import named
    from epsopt.studies.merge.simplex_merge import front_parents
    from epsopt.studies.surrogate_store import with_nan_weights

    left_out: list[Checkpoint] = []
    if operator != LINEAR:
        count = 2 if OPERATORS[operator].of_two and not _is_given("count") else count
        references = {lineage.reference_sha256 for lineage in catalogue.lineages() if OPERATORS[operator].from_base}
        checkpoints = checkpoints if named_ones else [c for c in checkpoints if c.sha256 not in references]
    while not named_ones:
        chosen = front_parents([c for c in checkpoints if c not in left_out], project.objectives, count)
        broken = with_nan_weights(catalogue, chosen)
        if not broken:
            return chosen, left_out
        left_out += broken
    chosen = [named(_known(p, checkpoints), checkpoints) for p in named_ones]
    if len({c.sha256 for c in chosen}) < len(chosen):
        raise UsageError("two of the parents are the same checkpoint: name each once")
    for c in with_nan_weights(catalogue, chosen):
        raise UsageError(
            f"{c.path} cannot be merged: some of its weights are NaN, and so would be those of every merge"
        )
    return chosen, []


def merge_within(
    project: Project,
    checkpoints: Sequence[Checkpoint],
    parents: Sequence[Checkpoint],
    folder: Path,
    form: str | None,
    groups: str | None,
    budget: int,
    reach: float,
    rank: int | None,
    seed: int,
    progress: Callable[[str, float | None], None],
    *,
    operator: str = LINEAR,
    base: Parent | None = None,
    density: float = DENSITY,
    jobs: int = 1,
    kept: KeptEvaluations | None = None,
) -> Merged:
    """Merge checkpoints, each measured by the project's hook and saved into a folder."""
    from epsopt.studies.merge.simplex_merge import merge_checkpoints
    from epsopt.studies.output_paths import decoded_file
    from epsopt.zoo.decoding.decoder import WeightDecoder

    with WeightDecoder(
        project.evaluate, weights_key=project.weights_key, calibrate=project.calibrate, rank=rank, jobs=jobs, kept=kept
    ) as decoder:
        return merge_checkpoints(
            decoder, project, checkpoints, parents, lambda i: decoded_file(folder, f"merged_{i:03d}", form, parents),
            groups=_patterns(groups), budget=budget, reach=reach, seed=seed, operator=operator, base=base,
            density=density, progress=lambda done, total: progress("measuring merges", done / total),
        )  # fmt: skip


def _known(what: str, checkpoints: Sequence[Any]) -> str:
    """Turn a file into the content hash of its record; everything else is left as it is."""
    path = Path(what)
    if not path.is_file():
        return what
    found = next((c for c in checkpoints if Path(c.path) == path.resolve()), None)
    if found is None:
        raise UsageError(f"{path} is not in the catalogue: read it with 'epsopt ingest' first")
    return str(found.sha256)


def _check_new(save: Path | None) -> None:
    if save is not None and save.exists() and (not save.is_dir() or any(save.iterdir())):
        raise UsageError(f"{save} is there already: name a new folder, nothing is written over")
