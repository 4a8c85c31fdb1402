"""What a bounded fingerprint costs in skill on deep networks: other rules for what is kept, beside what is kept.

    python benchmarks/kept_rows.py fit deep-llama      # each rule, three splits; minutes a rule; resumable
    python benchmarks/kept_rows.py table               # what is kept so far

Networks of few tensors keep everything, so that their fingerprints are what they were. Of two deep families one may
serve to choose a rule (deep-llama) and one is only reported (deep-encoder); that was stated before they were made.
Fingerprints are made from the checkpoints anew, with each rule; everything else is as in families.py. `nothing` keeps
statistics alone; `evenly` as many modules as `kept`, evenly spaced in the order of the state dict.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import families
import numpy as np
import zoos
from sqlalchemy import select

from epsopt.surrogate import fit
from epsopt.zoo import Catalogue, load_weights
from epsopt.zoo.catalogue.tables import lineages
from epsopt.zoo.fingerprints import fingerprint as fingerprints
from epsopt.zoo.fingerprints.formats import FORMAT
from epsopt.zoo.fingerprints.kept_rows import KeptRows, kept_rows

HOME = families.OUT / "kept"
SPLITS = 3
NETWORKS = ("deep-llama", "deep-encoder")

Rule = Callable[[tuple[str, ...], tuple[tuple[int, ...], ...]], KeptRows]


def kept(names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> KeptRows:
    """What the product keeps."""
    return kept_rows(names, tuple(map(len, shapes)))


def everything(names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> KeptRows:  # noqa: ARG001
    """A row and answers for every tensor."""
    return KeptRows(tuple((i,) for i in range(len(names))), names, tuple(range(len(names))), is_bounded=False)


def nothing(names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> KeptRows:
    """No products and no answers."""
    return replace(kept(names, shapes), answering=())


def evenly(names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> KeptRows:
    """Answers of as many rows of matrices and their biases as the product keeps, evenly spaced."""
    own = kept(names, shapes)
    matrices = [row for row, group in enumerate(own.groups) if len(shapes[group[-1]]) > 1]
    biases = {names[own.groups[row][-1]].replace("weight", "bias") for row in own.answering}
    count = sum(row in set(matrices) for row in own.answering)
    some = [matrices[k] for k in np.rint(np.linspace(0, len(matrices) - 1, count)).astype(int)]
    wanted = {names[own.groups[row][-1]].replace("weight", "bias") for row in some} if biases & set(names) else set()
    beside = [row for row, group in enumerate(own.groups) if names[group[-1]] in wanted]
    return replace(own, answering=tuple(sorted({*some, *beside})))


RULES: dict[str, Rule] = {"kept": kept, "everything": everything, "nothing": nothing, "evenly": evenly}


def zoo_by(rule: Rule, zoo: zoos.Zoo, references: dict[int, str]) -> zoos.Zoo:
    """Fingerprint a zoo's checkpoints anew; `rule` stays what fingerprints keep from then on."""
    fingerprints._kept = rule  # type: ignore[assignment] # noqa: SLF001 - what this measures
    fingerprints._kinds.cache_clear()  # noqa: SLF001
    made, bases = [], {number: load_weights(path) for number, path in references.items()}
    for path, lineage in zip(zoo.paths, zoo.train.lineages.tolist(), strict=True):
        found = fingerprints.fingerprint(load_weights(path).items(), bases[lineage].get)
        made.append(fingerprints.Fingerprint.from_bytes(found.to_bytes()))
    return replace(zoo, train=replace(zoo.train, fingerprints=tuple(made)))


def measure(name: str) -> None:
    """Fit the maps of a family that are missing."""
    zoo = families.load(name)
    with Catalogue(f"sqlite:///{families.OUT / f'{name}-{families.SEED}.db'}") as catalogue, catalogue.reading() as c:
        references = dict(c.execute(select(lineages.c.id, lineages.c.reference_path)).tuples().all())
    for label, rule in RULES.items():
        missing = [s for s in range(SPLITS) if not _file(name, label, s).exists()]
        if not missing:
            continue
        made = zoo_by(rule, zoo, references)
        size = float(np.mean([len(f.to_bytes()) for f in made.train.fingerprints]))
        for split in missing:
            inside, outside = families.parts(made, split)
            surrogate, _ = fit(inside.train, seed=split)
            off = np.abs(families.answer(surrogate, outside).point - outside.train.metrics)
            result = {
                "metrics": list(made.train.metric_names),
                "error": np.nanmean(off, axis=0).tolist(),
                "bytes": size,
            }
            _file(name, label, split).parent.mkdir(parents=True, exist_ok=True)
            _file(name, label, split).write_text(json.dumps(result))
            print(f"{name}, {label}, split {split}: {result['error']}", file=sys.stderr, flush=True)


def _file(name: str, label: str, split: int) -> Any:
    return HOME / f"{name}-{label}-{split}-{FORMAT}.json"


def table() -> None:
    """Print mean errors over the splits, in units of what all of a fingerprint gives, and bytes a checkpoint."""
    print(f"{'rule':<12}{'bytes':>9}  mean absolute error by metric, three splits (ratio to everything; its range)")
    for name in NETWORKS:
        print(f"\n{name} ({'development' if name in families.DEEP_DEVELOPMENT else 'reported'})")
        whole = _results(name, "everything")
        for label in RULES:
            found = _results(name, label)
            if not found:
                continue
            errors = np.array([f["error"] for f in found])
            cells = []
            for j, metric in enumerate(found[0]["metrics"]):
                ratio = errors[:, j] / np.array([w["error"][j] for w in whole[: len(found)]]) if whole else np.nan
                of_all = f"{np.mean(ratio):.2f}; {np.min(ratio):.2f} to {np.max(ratio):.2f}"
                cells.append(f"{metric} {errors[:, j].mean():.4f} ({of_all})")
            print(f"{label:<12}{found[0]['bytes']:>9,.0f}  " + "  ".join(cells))


def _results(name: str, label: str) -> list[dict[str, Any]]:
    files = [_file(name, label, split) for split in range(SPLITS)]
    return [json.loads(f.read_text()) for f in files if f.exists()]


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("fit", "table"))
    parser.add_argument("names", nargs="*", metavar="FAMILY", help="; ".join(NETWORKS))
    given = parser.parse_args()
    if given.step == "table":
        table()
    else:
        for chosen in given.names or NETWORKS:
            measure(chosen)
