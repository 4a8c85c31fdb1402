"""What the catalogue keeps of side files and tables of runs: read, written and forgotten, run by run."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.listing import parts_of_runs
from epsopt.zoo.catalogue.queries import refresh_run
from epsopt.zoo.catalogue.tables import checkpoints, files, run_metadata, runs
from epsopt.zoo.errors import Failure
from epsopt.zoo.layouts.best import Claim, named_best, with_best
from epsopt.zoo.layouts.parsed import Position
from epsopt.zoo.layouts.several_models import Saved, with_models
from epsopt.zoo.reading.plain_values import finite_metrics
from epsopt.zoo.side_files.discover import SideFileResult
from epsopt.zoo.side_files.run_tables import RunTableRows

_WORDS = (
    select(checkpoints.c.run_id, checkpoints.c.sha256, files.c.path, files.c.metadata)
    .join(files, files.c.checkpoint_id == checkpoints.c.id)
    .where(checkpoints.c.layout == "lightning", files.c.metadata.is_not(None))
    .order_by(files.c.path)
)
"""What files of Lightning say; in other layouts a file's name alone says that it is the best."""
_CALLED_BEST = (
    select(checkpoints.c.run_id, checkpoints.c.sha256, files.c.path)
    .join(files, files.c.checkpoint_id == checkpoints.c.id)
    .where(func.coalesce(checkpoints.c.layout, "plain") != "lightning", files.c.path.ilike("%best%"))
    .order_by(files.c.path)
)


@dataclass(frozen=True)
class RunInCatalogue:
    """A run as those who ask its side files need it: what is kept of it, and the layouts of its files and sides."""

    id: int
    state: str | None
    failures: list[Failure]
    positions: list[Position]
    formats: frozenset[str]
    layouts: frozenset[str]
    run_tables: RunTableRows


@dataclass(frozen=True)
class OwnMetadata:
    """What the files of one run say of themselves: hyperparameters, and metrics by the checkpoint's SHA-256."""

    hyperparameters: dict[str, Any]
    metrics: dict[str, dict[str, float | None]]


def runs_by_path(catalogue: Catalogue) -> dict[str, RunInCatalogue]:
    """Return all runs with their checkpoints' positions, by the run's folder."""
    members_of = select(
        checkpoints.c.run_id,
        checkpoints.c.sha256,
        checkpoints.c.path,
        checkpoints.c.epoch,
        checkpoints.c.step,
        checkpoints.c.layout,
        checkpoints.c.signature,
    )
    with catalogue.reading() as connection:
        rows = connection.execute(members_of.order_by(checkpoints.c.path)).all()
        parts = parts_of_runs(connection)
        kept = (run_metadata.c[name] for name in ("state", "failures", "layouts", "run_tables"))
        known = connection.execute(select(runs.c.id, runs.c.path, *kept).outerjoin(run_metadata)).all()
        spoken = connection.execute(_WORDS).all()
        called = connection.execute(_CALLED_BEST).all()
    saved: dict[int, list[Saved]] = {}
    claims: dict[int, list[Claim]] = {}
    for run_id, sha256, path, text in spoken:
        claims.setdefault(run_id, []).append(Claim(sha256, path, json.loads(text).get("best")))
    by_name: dict[int, list[Claim]] = {}
    for run_id, sha256, path in called:
        by_name.setdefault(run_id, []).append(Claim(sha256, path, None))
    claims = {**{run: named_best(found) for run, found in by_name.items()}, **claims}
    formats: dict[int, set[str]] = {}
    for r in rows:
        position = Position(r.sha256, r.path, r.epoch, r.step, r.layout or "plain")
        saved.setdefault(r.run_id, []).append(Saved(position, r.signature))
        formats.setdefault(r.run_id, set()).add(r.layout or "plain")
    members = {
        run: with_best(with_models(found, catalogue.weights_key), claims.get(run, ())) for run, found in saved.items()
    }
    # What a tracker logged speaks of all that the run wrote, also of what the tracker did not keep.
    for part, whole in parts.items():
        own = {p.key for p in members.get(part, [])}
        members.setdefault(part, []).extend(p for p in members.get(whole, []) if p.key not in own)
    return {
        r.path: RunInCatalogue(
            r.id,
            r.state,
            [Failure(path, reason) for path, reason in json.loads(r.failures or "[]")],
            members.get(r.id, []),
            frozenset(formats.get(r.id, ())),
            frozenset(json.loads(r.layouts or "[]")),
            json.loads(r.run_tables or "{}"),
        )
        for r in known
    }


def metadata_of_checkpoints(catalogue: Catalogue, run_ids: Collection[int]) -> dict[int, OwnMetadata]:
    """Return what the files of runs say of themselves, without what was read beside them."""
    query = (
        select(checkpoints.c.run_id, checkpoints.c.sha256, files.c.metadata)
        .join(files, files.c.checkpoint_id == checkpoints.c.id)
        .where(files.c.metadata.is_not(None))
        .order_by(files.c.path)
    )
    found: dict[int, OwnMetadata] = {}
    with catalogue.reading() as connection:
        for run_id, sha256, text in connection.execute(query):
            if run_id in run_ids:
                metadata = json.loads(text)
                own = found.setdefault(run_id, OwnMetadata({}, {}))
                own.hyperparameters.update(metadata.get("hyperparameters") or {})
                own.metrics.setdefault(sha256, {}).update(metadata.get("metrics") or {})
    return found


def upsert_metadata(connection: Connection, run_id: int, state: str, answer: SideFileResult) -> None:
    """Write the metadata that the side files of a run hold, in place of what was kept before."""
    values = {
        "state": state,
        "hyperparameters": json.dumps(answer.hyperparameters, sort_keys=True),
        "metrics": json.dumps({key: finite_metrics(m) for key, m in answer.metrics.items()}, sort_keys=True),
        "failures": json.dumps([[f.path, f.reason] for f in answer.failures]),
        "layouts": json.dumps(sorted(answer.layouts)),
        "run_tables": json.dumps(answer.given, sort_keys=True),
    }
    if connection.execute(select(runs.c.id).where(runs.c.id == run_id)).first() is None:
        return  # another ingest found the run empty meanwhile
    connection.execute(delete(run_metadata).where(run_metadata.c.run_id == run_id))
    connection.execute(insert(run_metadata).values(run_id=run_id, **values))
    refresh_run(connection, run_id)


def delete_metadata(connection: Connection, run_id: int) -> None:
    """Delete metadata of side files that are no longer there."""
    connection.execute(delete(run_metadata).where(run_metadata.c.run_id == run_id))
    refresh_run(connection, run_id)
