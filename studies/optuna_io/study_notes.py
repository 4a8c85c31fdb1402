"""The notes that the dashboard shows with a study: what is in it, and what is measured and what is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from epsopt.optimize.objectives import Objective, Target
from epsopt.studies.protocols import Answer
from epsopt.zoo.reading.text import visible


def write_note(study: optuna.Study, text: str) -> None:
    """Set a study's note, unless it says this already."""
    from optuna_dashboard import save_note
    from optuna_dashboard._note import get_note

    if get_note(study) != text:
        save_note(study, text)


def runs_note(project: str, objectives: Sequence[Objective], runs: int) -> str:
    """Say what ``<project>/runs`` holds."""
    curves = ", ".join(_code(f"{project}/runs/{o.name}") for o in objectives) if len(objectives) > 1 else ""
    return (
        f"# {_code(project)}: runs\n\n"
        f"One trial for each of {runs} runs. Its values are what the **last checkpoint** that has all objectives "
        f"**measured**: {_directions(objectives)}. An earlier checkpoint of a run may be on the front: the study "
        f"{_code(f'{project}/front')} holds the measured front over all checkpoints.\n\n"
        "Parameters are the hyperparameters that differ between runs and that somebody chose. Constants, seeds and "
        "paths are user attributes `hyperparameter.NAME`; `run`, `path` and `epoch` say which checkpoint it is.\n"
        + (f"\nCurves over the epochs: {curves}.\n" if curves else "")
        + f"\n{_NEXT}"
    )


def curve_note(project: str, objective: Objective, runs: str) -> str:
    """Say what a study of one objective's curves holds."""
    return (
        f"# {_code(project)}: {_code(objective.name)} over the epochs\n\n"
        f"One trial for each run; its intermediate values are what its checkpoints **measured**, by epoch "
        f"({'higher' if objective.maximize else 'lower'} is better). The study {_code(runs)} compares runs by all "
        f"objectives.\n\n{_NEXT}"
    )


_NEXT = "Next: `epsopt propose` says what to train, `epsopt explore` shows the map of all checkpoints.\n"


def search_note(
    project: str, objectives: Sequence[Objective], answers: Sequence[Answer], query: Mapping[str, Any]
) -> str:
    """Say what a search asked for and found."""
    asked = "\n".join(f"| {_code(name)} | {_code(value)} |" for name, value in query.items())
    return (
        f"# {_code(project)}: a search\n\n"
        f"Every trial is a point of the front that the surrogate **predicts; none of them was evaluated**. "
        f"Objectives: {_directions(objectives)}.\n\n"
        f"| asked | |\n|---|---|\n{asked}\n\n{_table(objectives, answers)}"
    )


def front_note(
    project: str,
    objectives: Sequence[Objective],
    on_front: int,
    measured: int,
    answers: Sequence[Answer],
    targets: Sequence[Target],
) -> str:
    """Say what the study of the measured front holds, and what its picture shows."""
    directed = {o.name: o.maximize for o in objectives}
    wanted = ", ".join(f"{_code(t.name)} {'≥' if directed.get(t.name, True) else '≤'} {t.value:g}" for t in targets)
    return (
        f"# {_code(project)}: measured and predicted front\n\n"
        f"- Its trials: the {on_front} of {measured} checkpoints that no other dominates, as measured.\n"
        f"- The {len(answers)} points of the last search are trials of {_code(f'{project}/front/predicted')}. "
        "**Predicted, not evaluated.**\n\n"
        f"Objectives: {_directions(objectives)}." + (f" Targets: {wanted}." if wanted else "") + "\n\n"
        "The picture on the study's first page shows all measured checkpoints, their front, and the "
        f"predicted points with their intervals.\n\n{_table(objectives, answers)}"
    )


def predicted_note(name: str, objectives: Sequence[Objective], answers: Sequence[Answer]) -> str:
    """Say what the study of the last search's points holds."""
    return (
        f"# {_code(name)}: predicted points\n\n"
        f"Every trial is a point of the last search. **Predicted, not evaluated.** The measured front is the study "
        f"{_code(name.removesuffix('/predicted'))}.\n\n"
        f"Objectives: {_directions(objectives)}.\n\n{_table(objectives, answers)}"
    )


def _table(objectives: Sequence[Objective], answers: Sequence[Answer]) -> str:
    if not answers:
        return "No predicted points yet: run `epsopt search`.\n"
    head = ["", *(_code(o.name) for o in objectives), "nearest checkpoint", "latent distance"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for number, answer in enumerate(answers, 1):
        cells = [str(number)]
        cells += [
            f"{answer.point[o.name]:.3f} ({answer.low[o.name]:.3f} to {answer.high[o.name]:.3f})" for o in objectives
        ]
        near = answer.nearest[0] if answer.nearest else None
        cells += [_code(near.path), f"{near.distance:.3f}"] if near else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _directions(objectives: Sequence[Objective]) -> str:
    return ", ".join(f"{_code(o.name)} ({'higher' if o.maximize else 'lower'} is better)" for o in objectives)


def _code(value: Any) -> str:
    """Show a value as it is: nothing in a name or a path is markup."""
    text = visible(" ".join(str(value).split())).replace("`", "'").replace("|", "\\|")
    return f"`{text}`" if text else ""
