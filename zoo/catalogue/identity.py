"""Which files are one checkpoint: a moment of one run's training, whatever its files are called.

A run has one checkpoint for each moment. Files of one run with the same bytes are one; so are files with the same
weights that do not contradict each other about the epoch, since ``torch.save`` writes the file's own name into it and a
last or best copy often lacks the optimiser. Runs that share a file have one checkpoint each.

What each file says is kept with the file, and a checkpoint's columns are what its files say together, the most telling
first. So nothing depends on the order in which files were read, and a file that goes takes only its own words along.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Table, delete, func, insert, select, update

from epsopt.zoo.catalogue.tables import checkpoints, embeddings, files, fingerprints, lineages, runs, same_signature
from epsopt.zoo.layouts.scan import CheckpointFile, order
from epsopt.zoo.reading.plain_values import finite_metrics, with_defaults
from epsopt.zoo.reading.reader import CheckpointContents

_NUMBERED = re.compile(r"(epoch|step|checkpoint|iter(ation)?|global_step)[=_-]?\d", re.IGNORECASE)
_METADATA = ("epoch", "step", "metrics", "hyperparameters", "layout")


@dataclass(frozen=True)
class FileContent:
    """What the catalogue keeps of one file's content.

    Attributes:
        sha256: of its bytes.
        weights: digest of its weights.
        distinct: whether equal digests mean equal weights; weights that are all NaN may have been any others before.
        signature: of tensor names and shapes.
        lineage_id: of its lineage.
        n_parameters: floating-point values in it.
        metadata: what it says of itself: epoch, step, metrics, hyperparameters and layout; and where there are any,
            which checkpoint of its run is the best, how many weights are NaN, and sentences about what was not taken.
    """

    sha256: str
    weights: str
    distinct: bool
    signature: str
    lineage_id: int
    n_parameters: int
    metadata: dict[str, Any]

    @staticmethod
    def of(contents: CheckpointContents, lineage_id: int, weights: str | None = None) -> FileContent:
        """Take it from what a reader found; `weights` is the digest where the catalogue has these bytes already."""
        return FileContent(
            sha256=contents.sha256,
            weights=weights or weights_digest(contents.sketch, contents.fingerprint_bytes),
            distinct=bool(contents.sketch.any()),
            signature=contents.signature,
            lineage_id=lineage_id,
            n_parameters=contents.n_parameters,
            metadata={
                **{name: getattr(contents, name) for name in _METADATA},
                "metrics": finite_metrics(contents.metrics),
                **({"best": contents.best} if contents.best is not None else {}),
                **({"nan_weights": contents.nan_weights} if contents.nan_weights else {}),
                **({"notes": list(contents.notes)} if contents.notes else {}),
            },
        )


@dataclass(frozen=True)
class Attached:
    """Where a file went.

    Attributes:
        checkpoint_id: the checkpoint that it is a file of now.
        how: ``new``: there was no such checkpoint; ``alias`` of one; ``moved``: its checkpoint came with it.
        relocated: whether a lineage's reference went with it.
    """

    checkpoint_id: int
    how: Literal["new", "alias", "moved"]
    relocated: bool = False


def weights_digest(sketch: NDArray[np.float32], fingerprint: bytes) -> str:
    """Return what tells weights from others: the digest of their sketch, which depends on nothing but them.

    NaN counts as zero in a sketch: of weights that are nothing else it says nothing, and the whole fingerprint counts.
    """
    return hashlib.sha256(sketch.astype("<f4").tobytes() if sketch.any() else fingerprint).hexdigest()


def attach(
    connection: Connection,
    found: CheckpointFile,
    content: FileContent,
    touched: set[int],
    *,
    fingerprint: bytes | None = None,
    exists: Callable[[str], bool] | None = None,
) -> Attached:
    """Find or make the checkpoint that a file belongs to; the caller writes the file's row, then settles it.

    Args:
        connection: of the only writer.
        found: the file and its run.
        content: what it holds.
        touched: ids of runs that changed are added.
        fingerprint: kept for a new checkpoint, unless another one holds the same.
        exists: tells whether a path is still there. A checkpoint none of whose files is there follows a file of its
            content to another run; None: no checkpoint follows.
    """
    run_id = run_id_of(connection, found)
    touched.add(run_id)
    own = _of_run(connection, run_id, content)
    if own is not None:
        return Attached(own, "alias")
    gone = None if exists is None else _left_behind(connection, content.sha256, found.path, exists)
    if gone is not None:
        touched.add(gone.run_id)
        if gone.signature != content.signature:  # an earlier version saw less of it
            connection.execute(delete(files).where(files.c.checkpoint_id == gone.id))
            _delete(connection, gone.id)
            return Attached(_insert(connection, run_id, content, fingerprint), "new")
        connection.execute(update(checkpoints).where(checkpoints.c.id == gone.id).values(run_id=run_id))
        former = connection.execute(select(files.c.path).where(files.c.checkpoint_id == gone.id)).scalars().all()
        founded = lineages.c.reference_path.in_([gone.path, *former]) & (lineages.c.reference_sha256 == content.sha256)
        relocated = connection.execute(update(lineages).where(founded).values(reference_path=str(found.path))).rowcount
        connection.execute(delete(files).where(files.c.checkpoint_id == gone.id))
        return Attached(gone.id, "moved", relocated > 0)
    return Attached(_insert(connection, run_id, content, fingerprint), "new")


def settle(connection: Connection, checkpoint_id: int) -> bool:
    """Make a checkpoint what its files say together, and delete it where none is left.

    Returns:
        Whether a lineage's reference goes by another path now.
    """
    columns = (files.c.path, files.c.sha256, files.c.metadata)
    members = connection.execute(select(*columns).where(files.c.checkpoint_id == checkpoint_id)).all()
    if not members:
        _delete(connection, checkpoint_id)
        return False
    values = _together([(m.path, m.sha256, json.loads(m.metadata)) for m in members if m.metadata is not None])
    if not values:  # files that were read before each kept its own words; the next ingest reads them again
        values = {"path": min(m.path for m in members)}
    same = checkpoints.c.id == checkpoint_id
    connection.execute(update(checkpoints).where(same).values(**values))
    return _follow(connection, checkpoint_id)


def run_of_checkpoint(connection: Connection, checkpoint_id: int) -> int | None:
    """Return the id of a checkpoint's run."""
    found: int | None = connection.execute(
        select(checkpoints.c.run_id).where(checkpoints.c.id == checkpoint_id)
    ).scalar()
    return found


def replaced(connection: Connection, path: str, sha256: str | None) -> bool:
    """Point lineages whose reference was the former content of a file to another file with it; tell if any were."""
    row = connection.execute(select(files.c.sha256).where(files.c.path == path)).first()
    if row is None or row.sha256 is None or row.sha256 == sha256:
        return False
    lost = (lineages.c.reference_path == path) & (lineages.c.reference_sha256 == row.sha256)
    if connection.execute(select(lineages.c.id).where(lost)).first() is None:
        return False
    others = (files.c.sha256 == row.sha256) & (files.c.path != path)
    heir = connection.execute(select(files.c.path).where(others).order_by(files.c.path).limit(1)).scalar()
    if heir is None:
        return False
    return connection.execute(update(lineages).where(lost).values(reference_path=heir)).rowcount > 0


def next_id(connection: Connection, table: Table) -> int:
    """Return the next free id; the caller is the only writer."""
    return (connection.execute(select(func.max(table.c.id))).scalar() or 0) + 1


def run_id_of(connection: Connection, found: CheckpointFile) -> int:
    """Return the id of the run that a file belongs to, a new one if need be."""
    run = connection.execute(select(runs.c.id, runs.c.layout).where(runs.c.path == found.run_path)).first()
    if run is None:
        run_id = next_id(connection, runs)
        row = {"id": run_id, "name": found.run_name, "path": found.run_path, "hyperparameters": "{}"}
        connection.execute(insert(runs), {**row, "layout": found.layout})
        return run_id
    if run.layout is None:  # it was written before layouts were kept
        connection.execute(update(runs).where(runs.c.id == run.id).values(layout=found.layout))
    return int(run.id)


def _of_run(connection: Connection, run_id: int, content: FileContent) -> int | None:
    """Return the checkpoint of a run that a file of this content belongs to."""
    of_run = select(checkpoints.c.id).where(checkpoints.c.run_id == run_id).order_by(checkpoints.c.id)
    held = of_run.join(files, files.c.checkpoint_id == checkpoints.c.id).where(files.c.sha256 == content.sha256)
    for query in (held, of_run.where(checkpoints.c.sha256 == content.sha256)):
        found: int | None = connection.execute(query.limit(1)).scalar()
        if found is not None:
            return found
    alike = (
        (checkpoints.c.run_id == run_id)
        & (checkpoints.c.weights == content.weights)
        & same_signature(checkpoints.c.signature, content.signature)
        & (checkpoints.c.lineage_id == content.lineage_id)
    )
    columns = (checkpoints.c.id, checkpoints.c.epoch, checkpoints.c.step, checkpoints.c.metrics)
    rows = connection.execute(select(*columns).where(alike)).all()
    metadata = content.metadata
    fitting = [r for r in rows if _agree(r.epoch, metadata["epoch"]) and _agree(r.step, metadata["step"])]
    if not content.distinct:  # they are copies unless what was measured says otherwise
        fitting = [r for r in fitting if _measured_alike(json.loads(r.metrics), metadata["metrics"])]
    # Of several the one that says the same, else the earliest: a run that stood still from there on.
    fitting.sort(key=lambda r: (r.epoch != metadata["epoch"], -1 if r.epoch is None else r.epoch, r.id))
    return int(fitting[0].id) if fitting else None


def _agree(one: int | None, other: int | None) -> bool:
    return one is None or other is None or one == other


def _measured_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _left_behind(connection: Connection, sha256: str, path: PurePath, exists: Callable[[str], bool]) -> Any:
    """Return the checkpoint of this content whose files are all gone, the one that lay at the most similar place."""
    columns = (checkpoints.c.id, checkpoints.c.run_id, checkpoints.c.path, checkpoints.c.signature)
    rows = connection.execute(select(*columns).where(checkpoints.c.sha256 == sha256)).all()
    for row in sorted(rows, key=lambda r: (-_common_end(r.path, str(path)), r.id)):
        if exists(row.path):
            continue
        held = connection.execute(select(files.c.path).where(files.c.checkpoint_id == row.id)).scalars()
        if not any(exists(other) for other in held):
            return row
    return None


def _common_end(one: str, other: str) -> int:
    """Count the names at the end of two paths that are the same."""
    count = 0
    for a, b in zip(reversed(PurePath(one).parts), reversed(PurePath(other).parts), strict=False):
        if a != b:
            break
        count += 1
    return count


def _insert(connection: Connection, run_id: int, content: FileContent, fingerprint: bytes | None) -> int:
    checkpoint_id = next_id(connection, checkpoints)
    row = {
        "id": checkpoint_id,
        "run_id": run_id,
        "path": f"new:{checkpoint_id}",  # paths are unique; settled when its former holder has let go of it
        "sha256": content.sha256,
        "signature": content.signature,
        "lineage_id": content.lineage_id,
        "n_parameters": content.n_parameters,
        "weights": content.weights,
        **_columns(content.metadata),
    }
    connection.execute(insert(checkpoints), row)
    if fingerprint is not None and _holder(connection, content.weights, content.signature) is None:
        connection.execute(insert(fingerprints), {"checkpoint_id": checkpoint_id, "data": fingerprint})
    return checkpoint_id


def _columns(metadata: dict[str, Any]) -> dict[str, Any]:
    texts = {name: json.dumps(metadata[name], sort_keys=name == "metrics") for name in ("metrics", "hyperparameters")}
    return {**{name: metadata[name] for name in _METADATA}, **texts}


def _holder(connection: Connection, weights: str, signature: str) -> int | None:
    """Return the id of the checkpoint that holds the fingerprint that all of these weights share.

    What an earlier version saw less of has another signature, and a fingerprint of its own.
    """
    query = select(fingerprints.c.checkpoint_id).join(checkpoints, checkpoints.c.id == fingerprints.c.checkpoint_id)
    query = query.where(checkpoints.c.weights == weights, same_signature(checkpoints.c.signature, signature))
    found: int | None = connection.execute(query.limit(1)).scalar()
    return found


def put_embedding(connection: Connection, checkpoint_id: int, hook: str | None, data: bytes) -> None:
    """Keep the embedding of a checkpoint's weights, in place of the one that there was."""
    same = select(checkpoints.c.weights).where(checkpoints.c.id == checkpoint_id).scalar_subquery()
    sharing = select(checkpoints.c.id).where(checkpoints.c.weights == same)
    connection.execute(delete(embeddings).where(embeddings.c.checkpoint_id.in_(sharing)))
    connection.execute(insert(embeddings).values(checkpoint_id=checkpoint_id, hook=hook, data=data))


def _delete(connection: Connection, checkpoint_id: int) -> None:
    """Delete a checkpoint; what it holds for others of its weights goes to one of them."""
    me = select(checkpoints.c.weights, checkpoints.c.signature).where(checkpoints.c.id == checkpoint_id).subquery()
    alike = select(checkpoints.c.id).join(me, me.c.weights == checkpoints.c.weights)
    alike = alike.where(checkpoints.c.id != checkpoint_id).order_by(checkpoints.c.id).limit(1)
    for table, query in (
        (fingerprints, alike.where(same_signature(checkpoints.c.signature, me.c.signature))),
        (embeddings, alike),
    ):
        own = table.c.checkpoint_id == checkpoint_id
        heir = connection.execute(query).scalar()
        if heir is None:
            connection.execute(delete(table).where(own))
        else:
            connection.execute(update(table).where(own).values(checkpoint_id=heir))
    connection.execute(delete(checkpoints).where(checkpoints.c.id == checkpoint_id))


def _follow(connection: Connection, checkpoint_id: int) -> bool:
    """Let a lineage that one of a checkpoint's other files founded go by the file that stands for all of them now."""
    row = connection.execute(
        select(checkpoints.c.path, checkpoints.c.sha256, checkpoints.c.signature, checkpoints.c.lineage_id).where(
            checkpoints.c.id == checkpoint_id
        )
    ).one()
    others = select(files.c.path).where(files.c.checkpoint_id == checkpoint_id, files.c.path != row.path)
    founded = (
        (lineages.c.id == row.lineage_id)
        & lineages.c.declared.is_(False)
        & lineages.c.reference_path.in_(others)
        & (lineages.c.signature == row.signature)
    )
    taken = (lineages.c.signature == row.signature) & (lineages.c.reference_sha256 == row.sha256)
    if connection.execute(select(lineages.c.id).where(taken, lineages.c.id != row.lineage_id)).first() is not None:
        return False
    values = {"reference_path": row.path, "reference_sha256": row.sha256}
    return connection.execute(update(lineages).where(founded).values(**values)).rowcount > 0


def _together(members: Sequence[tuple[str, str, dict[str, Any]]]) -> dict[str, Any]:
    """Return a checkpoint's columns from what its files say: the most telling file first, the others fill in."""
    if not members:
        return {}
    ranked = sorted(members, key=lambda m: _rank(m[0], m[2]))
    path, sha256, first = ranked[0]
    metadata = {**first, "metrics": {}, "hyperparameters": {}}
    for _, _, other in reversed(ranked):
        metadata["metrics"] = {**metadata["metrics"], **other["metrics"]}
        metadata["hyperparameters"] = with_defaults(other["hyperparameters"], metadata["hyperparameters"])
    metadata["step"] = next((m[2]["step"] for m in ranked if m[2]["step"] is not None), None)
    return {"path": path, "sha256": sha256, **_columns(metadata)}


def _rank(path: str, metadata: dict[str, Any]) -> tuple[Any, ...]:
    """Order the files of one checkpoint: those that know their epoch and are named by it stand for the others."""
    place = Path(path)
    named = _NUMBERED.search("/".join(place.parts[-2:])) is not None
    numbered = any(c.isdigit() for c in place.stem)
    epoch = metadata["epoch"]
    return (
        epoch is None,
        not named,
        not numbered,
        metadata["step"] is None,
        0 if epoch is None else epoch,
        order(place),
    )
