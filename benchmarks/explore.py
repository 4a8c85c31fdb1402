"""How long the page of `epsopt explore` takes for many checkpoints, in Chromium.

    python benchmarks/explore.py [--sizes 1000 10000 100000]

The checkpoints are copies of a small synthetic zoo, each moved a little on the map. "put together": the page's data,
once when the server starts. "first view": from the request of the page until both plots and the table are drawn.
"link": from the end of a box on the map until the other plot and the table are drawn: its first 30 runs, more than are
in sight; the others follow. "colour": from choosing another colour until both plots are drawn. In parentheses:
processor time of the page's main thread, which other programs do not change. Of three boxes and three colours the
slowest counts.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import CDPSession, Page, sync_playwright

from epsopt.optimize.objectives import Objective
from epsopt.studies.explore.server import explore_server
from epsopt.studies.explore.snapshot import Snapshot
from epsopt.studies.explore.view import View, view
from epsopt.studies.project.project import Project
from epsopt.surrogate import TrainingConfig, TrainingSet, fit
from epsopt.zoo import Checkpoint, fingerprint

RUNS, EPOCHS = 10, 10
OBJECTIVES = (Objective("coverage", maximize=True), Objective("structure", maximize=True))
BOXES = ((0.1, 0.1, 0.5, 0.9), (0.3, 0.2, 0.9, 0.6), (0.2, 0.5, 0.7, 0.95))
COLOURS = ("epoch", "error:coverage", "hyperparameter:lr")
# Resolves once what the next event leads to is on the screen, to how long that took.
WATCH = """() => { window.took = new Promise((done) => {
    const begin = () => { const t = performance.now();
        requestAnimationFrame(() => setTimeout(() => done(performance.now() - t))); };
    for (const kind of ['pointerup', 'change']) window.addEventListener(kind, begin, { capture: true, once: true });
}); }"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    options = parser.parse_args()
    base = small_snapshot()
    print(f"{os.cpu_count()} processors; load average {os.getloadavg()[0]:.1f} of other programs")
    heads = "".join(f"  {name:>15}" for name in ("first view", "link", "colour"))
    print(f"{'checkpoints':>11}  {'data':>8}  {'put together':>12}{heads}")
    for n in options.sizes:
        snapshot = copies(base, n)
        begun = time.monotonic()
        shown = view(snapshot)
        made = time.monotonic() - begun
        times = "".join(f"  {wall:>5.2f} s ({busy:.2f})" for wall, busy in measure(snapshot, shown))
        print(f"{n:>11,}  {len(shown.data) / 1e6:>5.1f} MB  {made:>10.1f} s{times}", flush=True)
    return 0


def small_snapshot() -> Snapshot:
    """Return a zoo of tiny networks that move along one direction, with its map."""

    def weights(seed: int) -> dict[str, torch.Tensor]:
        g = torch.Generator().manual_seed(seed)
        return {
            "a.weight": torch.randn(12, 5, generator=g) / 5**0.5,
            "b.weight": torch.randn(4, 12, generator=g) / 12**0.5,
        }

    base, direction = weights(0), weights(1)
    prints, rows, checkpoints = [], [], []
    for run in range(RUNS):
        strength, noise = (run * 0.618034) % 1.0, weights(100 + run)
        config = {"lr": 10 ** (-4 + 2 * strength), "mode": "a" if run % 2 else "b", "seed": run}
        for epoch in range(1, EPOCHS + 1):
            far = strength * epoch / EPOCHS
            prints.append(fingerprint([(k, base[k] + far * direction[k] + 0.05 * noise[k]) for k in base], base.get))
            metrics: dict[str, float | None] = {
                "coverage": 1 / (1 + float(np.exp(12 * (far - 0.5)))),
                "structure": far**0.5,
            }
            rows.append(list(metrics.values()))
            path = f"/zoo/run_{run:02d}/epoch_{epoch:03d}.pt"
            checkpoints.append(
                Checkpoint(
                    len(rows), run, f"run_{run:02d}", path, path, epoch, metrics, config, prints[-1].signature, 1, 108
                )
            )
    train = TrainingSet(
        keys=tuple(c.sha256 for c in checkpoints),
        fingerprints=tuple(prints),
        runs=np.array([c.run_id for c in checkpoints]),
        lineages=np.ones(len(checkpoints), dtype=np.int64),
        metric_names=("coverage", "structure"),
        metrics=np.array(rows, dtype=np.float64),
        embeddings=None,
    )
    surrogate, validation = fit(train, recipe=TrainingConfig(steps=60, batch=32), folds=2)
    project = Project("benchmark", Path("epsopt.toml"), Path("/zoo"), "sqlite:///none.db", OBJECTIVES)
    return Snapshot(
        project=project,
        objectives=OBJECTIVES,
        checkpoints=tuple(checkpoints),
        labels={},
        surrogate=surrogate,
        validation=validation,
        latents=surrogate.memory.latents.float(),
        learned=np.ones(len(checkpoints), dtype=bool),
        steps={},
    )


def copies(base: Snapshot, n: int) -> Snapshot:
    """Return a snapshot of the given number of checkpoints: copies of runs, moved a little."""
    rng = np.random.default_rng(0)
    times = -(-n // len(base.checkpoints))
    checkpoints = [
        replace(
            c,
            id=k * len(base.checkpoints) + c.id,
            run_id=k * RUNS + c.run_id,
            run=f"sweep_{k:04d}/{c.run}",
            path=f"/zoo/sweep_{k:04d}/{c.path.removeprefix('/zoo/')}",
            sha256=f"{k}-{c.sha256}",
            metrics={name: float(np.clip((v or 0.0) + rng.normal(0, 0.02), 0, 1)) for name, v in c.metrics.items()},
        )
        for k in range(times)
        for c in base.checkpoints
    ][:n]
    latents = base.latents.repeat(times, 1)[:n]
    spread = 0.1 * base.latents.std(dim=0)
    moved = latents + spread * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    return replace(base, checkpoints=tuple(checkpoints), latents=moved, learned=np.ones(n, dtype=bool))


Times = tuple[float, float]
"""Seconds on the clock, and of the main thread's processor time."""


def measure(snapshot: Snapshot, shown: View) -> tuple[Times, Times, Times]:
    """Return the times of the first view, and of the slowest link and the slowest other colour."""
    with explore_server(snapshot, port=0, shown=shown) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(0)
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(server.url)
        page.wait_for_selector("body[data-ready]")
        drawn = page.evaluate("performance.getEntriesByName('epsopt:first view')[0].startTime") / 1e3
        first = (drawn, busy(session))
        links = [box(page, session, ends) for ends in BOXES]
        page.keyboard.press("Escape")
        colours = [recolour(page, session, key) for key in COLOURS]
        browser.close()
        server.shutdown()
    return first, max(links), max(colours)


def busy(session: CDPSession) -> float:
    """Return the processor seconds that the page's main thread has spent."""
    found = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    return float(found["TaskDuration"])


def box(page: Page, session: CDPSession, ends: tuple[float, float, float, float]) -> Times:
    """Select a box on the map, and return how long the rest took to follow."""
    place = page.locator("#map .canvases").bounding_box()
    if place is None:
        raise RuntimeError("the page has no map")
    left, top, right, bottom = ends
    page.mouse.move(place["x"] + left * place["width"], place["y"] + top * place["height"])
    page.mouse.down()
    page.mouse.move(place["x"] + right * place["width"], place["y"] + bottom * place["height"], steps=3)
    page.evaluate(WATCH)
    before = busy(session)
    page.mouse.up()
    return float(page.evaluate("window.took")) / 1e3, busy(session) - before


def recolour(page: Page, session: CDPSession, key: str) -> Times:
    """Choose another colour, and return how long the plots took to follow."""
    page.evaluate(WATCH)
    before = busy(session)
    page.select_option("#colour", key)
    return float(page.evaluate("window.took")) / 1e3, busy(session) - before


if __name__ == "__main__":
    sys.exit(main())
