"""Where the measured checkpoints lie in weight space, for the scheduler: of one tree of lineages, seen from its base.

A run that says which checkpoint it started from begins a lineage of its own if that was not the base; lineages that
descend from one another are a tree, and checkpoints of one tree can be merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.forecast.catalogue_curves import objective_vector
from epsopt.optimize.merge.weight_space_gp import MOST_ROWS, WeightSpace
from epsopt.optimize.objectives import Objective, Objectives, measured_table
from epsopt.optimize.schedule.run_acquisition import Start
from epsopt.optimize.space import Parameter, Space, identity
from epsopt.studies.merge.block_merges import BlockMerges
from epsopt.studies.merge.merge_sources import MOST_SOURCES, Sources, is_there, only_finite
from epsopt.studies.project.project import Project
from epsopt.surrogate.thinning import evenly_spaced
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint, Lineage
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import Parent, is_recombined
from epsopt.zoo.reading.remote import location

MOST_BYTES = 8 << 30  # bytes of checkpoints that are read before each step
_OF_ADAPTERS = ("r", "lora_alpha")  # as adapter_config.json calls them
_ROUNDING = 1e-12  # of the squared distances from the base that a difference of two of them is the rest of
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LineageTree:
    """Lineages that descend from one base checkpoint.

    Attributes:
        base: the reference of the first of them.
        base_checkpoint: the same in the catalogue; None: it is not there.
        declared: whether runs name it as what they start from.
        lineages: their ids, and those that merges began, of those with the tensors of the first one.
    """

    base: Parent
    base_checkpoint: Checkpoint | None
    declared: bool
    lineages: frozenset[int]


def why_none_merged(project: Project, catalogue: Catalogue) -> str:
    """Say why a budget measured no merge of checkpoints, as far as the project and its catalogue tell."""
    if project.evaluate is None:
        return 'it takes a hook that measures weights, [hooks] evaluate = "package.module:function" in epsopt.toml'
    if front_lineage_tree(catalogue.checkpoints(), catalogue.lineages(), project.objectives) is None:
        return (
            "the measured front holds checkpoints of several bases, and a budget merges only what descends from one: "
            "'epsopt merge' merges the checkpoints of each lineage with each other"
        )
    return "none was expected to widen the front as much for its cost as training, within what was left of the budget"


def front_lineage_tree(
    checkpoints: Sequence[Checkpoint], lineages: Sequence[Lineage], objectives: Sequence[Objective]
) -> LineageTree | None:
    """Return the tree that the whole front of what was trained is of; None: of several, or nothing is measured."""
    # Merges are of the tree of what they were merged from, however far out they lie.
    trained = [c for c in checkpoints if not is_recombined(c)]
    measured = [c for c in trained if np.isfinite(objective_vector(c.metrics, objectives)).all()]
    if not measured:
        return None
    roots = _roots(checkpoints, lineages)
    table = measured_table([c.metrics for c in measured], objectives)
    front = Objectives(objectives).front(table)
    merged = {c.sha256 for c in checkpoints if is_recombined(c)}
    # A merge far out looks like a network of its own. It is none, nor is what was trained from it.
    far_out = {known.id for known in lineages if roots[known.id] == known.id and known.reference_sha256 in merged}
    found = {roots.get(measured[i].lineage_id) for i in front} - far_out
    root = found.pop() if found else None
    if found or root is None:
        return None
    base = next(known for known in lineages if known.id == root)
    own = [k for k in lineages if roots[k.id] in (root, *far_out) and k.signature == base.signature]
    return LineageTree(
        Parent(base.reference_path, base.reference_sha256),
        next((c for c in checkpoints if c.sha256 == base.reference_sha256), None),
        any(known.declared and known.reference_sha256 == base.reference_sha256 for known in own),
        frozenset(known.id for known in own),
    )


def _roots(checkpoints: Sequence[Checkpoint], lineages: Sequence[Lineage]) -> dict[int, int]:
    """The lineage that each descends from: a reference that is a checkpoint of another one leads there."""
    known = {lineage.id: lineage for lineage in lineages}
    lineage_of = {c.sha256: c.lineage_id for c in checkpoints}
    roots = {}
    for start in known:
        path = [start]
        while (above := lineage_of.get(known[path[-1]].reference_sha256)) in known and above not in path:
            path.append(above)
        roots[start] = path[-1]
    return roots


def as_start(checkpoint: Checkpoint, objectives: Sequence[Objective], fixed: Sequence[Parameter] = ()) -> Start:
    """Return a checkpoint as a start of runs, which must have these hyperparameters as it has them."""
    given = checkpoint.hyperparameters
    kept = {p.name: given[p.name] for p in fixed if given.get(p.name) is not None and p.contains(given[p.name])}
    label = checkpoint.run if checkpoint.epoch is None else f"{checkpoint.run}:{checkpoint.epoch}"
    return Start(checkpoint.path, objective_vector(checkpoint.metrics, objectives), kept, label)


def shaping(checkpoints: Sequence[Checkpoint], space: Space) -> list[Parameter]:
    """Return hyperparameters that whoever starts from a checkpoint has as that one has them.

    They may decide which tensors a network has: wherever one network came twice, both had the same value. Where none
    did, every value has a network of its own, or it is a choice that others depend on or depends on one. Choices that
    depend on such a one are kept with it. Or an adapter's own configuration, which its program reads again, says the
    same in every run: its rank, and its scale.
    """
    networks: dict[int, tuple[str, Mapping[str, Any]]] = {
        c.run_id: (c.signature, c.hyperparameters) for c in checkpoints if not is_recombined(c)
    }
    configs = [given for _, given in networks.values()]
    out = [p for p in space.parameters if any(_repeats(p.name, name, configs) for name in _OF_ADAPTERS)]
    if len({signature for signature, _ in networks.values()}) < 2:
        return out
    parents = {p.active_when[0] for p in space.parameters if p.active_when is not None}
    for parameter in space.parameters:
        seen = [
            (signature, identity(value))
            for signature, given in networks.values()
            if (value := given.get(parameter.name)) is not None and parameter.contains(value)
        ]
        depends = parameter.name in parents or parameter.active_when is not None
        of_kept = parameter.active_when is not None and parameter.active_when[0] in {p.name for p in out}
        fits_alone = parameter.kind == "categorical" and of_kept  # an activation is no tensor, and part of a network
        if parameter not in out and parameter.kind != "float" and (fits_alone or _decides(seen, depends=depends)):
            out.append(parameter)
    return out


def _decides(seen: Sequence[tuple[str, tuple[str, Any]]], *, depends: bool) -> bool:
    """Whether a hyperparameter may decide which network a run has, by network and value of each run.

    Args:
        seen: of the runs that have a value.
        depends: whether others depend on it, or it on another one.
    """
    values: dict[str, list[tuple[str, Any]]] = {}
    kinds: dict[tuple[str, Any], set[str]] = {}
    for network, value in seen:
        values.setdefault(network, []).append(value)
        kinds.setdefault(value, set()).add(network)
    again = [mine for mine in values.values() if len(mine) > 1]
    if any(len(set(mine)) > 1 for mine in again):
        return False
    return bool(again) or (bool(seen) and (depends or all(len(networks) == 1 for networks in kinds.values())))


def _repeats(own: str, name: str, configs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a hyperparameter has the value of another one wherever both are said, and not the same one everywhere."""
    pairs = [(config.get(own), config.get(name)) for config in configs]
    pairs = [pair for pair in pairs if None not in pair]
    return len({identity(b) for _, b in pairs}) > 1 and all(identity(a) == identity(b) for a, b in pairs)


@dataclass(frozen=True, eq=False)
class WeightGeometry:
    """Checkpoints whose place in weight space is known.

    Attributes:
        checkpoints: of one tree of lineages, all measured; the front first.
        space: where they lie.
        block_merges: writes coefficients as a recombination of their files.
        labels: names of all, by content hash.
        base: content hash of what differences are taken from.
    """

    checkpoints: tuple[Checkpoint, ...]
    space: WeightSpace
    block_merges: BlockMerges
    labels: Mapping[str, str]
    base: str

    def moved(self, run: Sequence[Checkpoint], start: str) -> Floats | None:
        """Return ``(epochs, blocks)`` how far a run's checkpoints moved from this one, relative to the base's norms.

        None where the start or one of them was not placed: when a block began to move is known of whole runs only.
        """
        places = {c.sha256: i for i, c in enumerate(self.checkpoints)}
        if any(c.sha256 not in places for c in run) or (start != self.base and start not in places):
            return None
        products, own = self.space.products, [places[c.sha256] for c in run]
        squares = np.diagonal(products, axis1=1, axis2=2)
        apart = squares[:, own]
        if start != self.base:
            both = apart + squares[:, [places[start]]]
            apart = both - 2.0 * products[:, own, places[start]]
            apart = np.where(apart > _ROUNDING * both, apart, 0.0)  # a base of zeros makes much of what rounding leaves
        return np.asarray(np.sqrt(apart).T / np.maximum(self.space.norms, 1e-12))


def place(
    decoder: WeightDecoder, project: Project, checkpoints: Sequence[Checkpoint], lineage_tree: LineageTree
) -> WeightGeometry | None:
    """Compare the measured checkpoints of a lineage tree with its base; None: there are fewer than two.

    Of more than can be read each time, the front and the newest are taken.

    Raises:
        EpsoptError: a file is gone or has changed, or the base is not finite.
    """
    own = measured_once(checkpoints, project.objectives, lineage_tree.base.sha256)
    own = [c for c in own if c.lineage_id in lineage_tree.lineages]
    if len(own) < 2:
        return None
    table = measured_table([c.metrics for c in own], project.objectives)
    front = Objectives(project.objectives).front(table)
    front = front[np.argsort(table[front, 0], kind="stable")]
    size = max(location(own[0].path).stat().st_size, 1)
    most = int(np.clip(MOST_BYTES // size, MOST_SOURCES, MOST_ROWS))
    front = front[evenly_spaced(len(front), most)]
    on_front = set(front.tolist())
    newest = sorted((i for i in range(len(own)) if i not in on_front), key=lambda i: -own[i].id)
    chosen = tuple(own[i] for i in [*front.tolist(), *newest][:most])
    sources = Sources(lineage_tree.base, lineage_tree.base_checkpoint, chosen, len(front))
    parents = [Parent(c.path, c.sha256) for c in chosen]
    sources, products = only_finite(sources, decoder.products(parents, lineage_tree.base))
    merges = BlockMerges(sources, products)
    return WeightGeometry(sources.checkpoints, merges.space, merges, sources.labels, lineage_tree.base.sha256)


def measured_once(
    checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective], but: str | None
) -> list[Checkpoint]:
    """Return the checkpoints that are there with every objective measured, each content once; not the base."""
    unique = {c.sha256: c for c in checkpoints if c.sha256 != but}
    return [c for c in unique.values() if np.isfinite(objective_vector(c.metrics, objectives)).all() and is_there(c)]
