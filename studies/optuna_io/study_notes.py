"""The notes that the dashboard shows with a study: what is in it, and what is measured and what is not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import optuna
from optuna.storages import RDBStorage

from epsopt.optimize.objectives import Objective, Target
from epsopt.studies.protocols import Answer
from epsopt.zoo.reading.text import visible


def write_note(study: optuna.Study, text: str) -> None:
    """Set a study's note, unless it says this already."""
    from optuna_dashboard import save_note
    from optuna_dashboard._note import get_note

    if get_note(study) != text:
        save_note(study, text)


def write_trial_notes(storage: RDBStorage, study: optuna.Study, notes: Mapping[int, str]) -> None:
    """Set the notes of trials that do not say this already.

    Args:
        storage: the studies.
        study: of the trials.
        notes: Markdown by the trials' ids.
    """
    from optuna_dashboard._note import get_note_from_system_attrs, save_note_with_version

    study_id = storage.get_study_id_from_name(study.study_name)
    kept = storage.get_study_system_attrs(study_id)
    for trial_id, text in notes.items():
        note = get_note_from_system_attrs(kept, trial_id)
        if note["body"] != text:
            save_note_with_version(storage, study_id, trial_id, note["version"] + 1, text)


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
    project: str,
    objectives: Sequence[Objective],
    answers: Sequence[Answer],
    targets: Sequence[Target],
    query: Mapping[str, Any],
    trust: str,
) -> str:
    """Say what a search asked for and found, how far to trust it, and what to run next."""
    likely = [a for a in answers if a.probability is None or a.probability >= 0.5]
    wanted = _wanted(objectives, targets)
    question = f"Which points of the map meet {wanted}?" if wanted else "What does the front of the map look like?"
    met = f"{len(likely)} of {len(answers)} answers are more likely than not to meet all targets." if wanted else ""
    asked = "\n".join(f"| {_code(name)} | {_code(value)} |" for name, value in query.items())
    return (
        f"# {_code(project)}: a search\n\n**{question}** {met}\n\n"
        "Every trial is a point of the front that the surrogate **predicts; none of them was evaluated**. "
        f"Objectives: {_directions(objectives)}.{_trust(trust)}\n\n{_table(objectives, answers)}\n"
        "Next: `epsopt search … --evaluate` makes these answers and measures them; `epsopt propose` says what to train."
        f"\n\n| asked | |\n|---|---|\n{asked}\n"
    )


def front_note(
    project: str,
    objectives: Sequence[Objective],
    on_front: int,
    measured: int,
    answers: Sequence[Answer],
    targets: Sequence[Target],
    trust: str,
) -> str:
    """Say what the study of the measured front holds, and what its picture shows."""
    wanted = _wanted(objectives, targets)
    return (
        f"# {_code(project)}: measured and predicted front\n\n"
        f"- Its trials: the {on_front} of {measured} checkpoints that no other dominates, as measured.\n"
        f"- The {len(answers)} points of the last search are trials of {_code(f'{project}/front/predicted')}. "
        "**Predicted, not evaluated.**\n\n"
        f"Objectives: {_directions(objectives)}.{f' Targets: {wanted}.' if wanted else ''}{_trust(trust)}\n\n"
        "The picture on the study's first page shows all measured checkpoints, their front, and the "
        f"predicted points with their intervals.\n\n{_table(objectives, answers)}\n{_NEXT}"
    )


def _wanted(objectives: Sequence[Objective], targets: Sequence[Target]) -> str:
    directed = {o.name: o.maximize for o in objectives}
    return ", ".join(f"{_code(t.name)} {'≥' if directed.get(t.name, True) else '≤'} {t.value:g}" for t in targets)


def _trust(sentence: str) -> str:
    return f" {sentence}" if sentence else ""


def proposals_note(project: str, objectives: Sequence[Objective], verdicts: Sequence[tuple[str, str, str]]) -> str:
    """Say what the study of proposals holds, and answer what its reader asks.

    Args:
        project: its name.
        objectives: that the proposals were made for.
        verdicts: question, answer and reason, each as text.
    """
    answers = "\n\n".join(f"**{question}** {_text(answer)}. {_text(why)}" for question, answer, why in verdicts)
    return (
        f"# {_code(project)}: proposals\n\n"
        f"One trial for each proposed run: waiting, running or ended. Objectives: {_directions(objectives)}. The note "
        "of a trial says why it was chosen, and what was predicted and measured. "
        f"`epsopt report --html FILE` makes a page of all this.\n\n{answers}\n"
    )


def proposal_note(
    number: int,
    state: str,
    reason: str | None,
    rows: Sequence[tuple[str, str, str]],
    config: Mapping[str, Any],
    init_from: str | None,
    last_output: Sequence[str],
) -> str:
    """Say why a run was proposed, what was predicted and measured, and what its program printed last.

    Args:
        number: of its trial.
        state: waiting, running, trained, ...
        reason: why it was chosen.
        rows: metric, what was predicted, what was measured.
        config: hyperparameters by name.
        init_from: the checkpoint that it started from.
        last_output: lines.
    """
    table = "\n".join(f"| {_code(name)} | {predicted} | {measured} |" for name, predicted, measured in rows)
    chosen = "\n".join(f"| {_code(name)} | {_code(value)} |" for name, value in config.items())
    start = f"\n\nIt starts from {_code(init_from)}." if init_from else ""
    output = "".join(f"    {visible(line)}\n" for line in last_output)
    return (
        f"# Proposal {number}: {state}\n\n**Why:** {_text(reason) if reason else 'no reason was recorded'}.{start}\n"
        + (f"\n| metric | predicted | measured |\n|---|---|---|\n{table}\n" if table else "")
        + f"\n| hyperparameter | |\n|---|---|\n{chosen}\n"
        + (f"\nWhat it printed last:\n\n{output}" if output else "")
        + f"\n`epsopt explore`, or [its page]({_page_of(f'proposal_{number:03d}')}) while it runs, shows where its "
        "checkpoints lie on the map.\n"
    )


def answer_note(number: int, answer: Answer) -> str:
    """Say what an answer of a search is predicted to measure, beside what the checkpoint nearest to it measured.

    Args:
        number: of the answer, from 1.
        answer: the point.
    """
    near = answer.nearest[0] if answer.nearest else None
    measured = {} if near is None else near.metrics
    rows = "\n".join(
        f"| {_code(name)} | {value:.4g} ({answer.low[name]:.4g} to {answer.high[name]:.4g}) | "
        f"{'' if (m := measured.get(name)) is None else f'{m:.4g}'} |"
        for name, value in answer.point.items()
    )
    likely = "" if answer.probability is None else f" It meets all targets with probability {answer.probability:.2f}."
    page = EXPLORE if near is None else _page_of(near.run)
    where = "" if near is None else f"Nearest checkpoint: {_code(near.path)}, latent distance {near.distance:.3g}.\n\n"
    return (
        f"# Answer {number}\n\n**Predicted, not evaluated.**{likely}\n\n"
        f"| metric | predicted | measured on the nearest checkpoint |\n|---|---|---|\n{rows}\n\n{where}"
        "The files below are of that checkpoint: its run's configuration, path over the map and output. "
        f"`epsopt search … --evaluate` makes the answer and measures it; `epsopt explore`, or [its page]({page}) "
        "while it runs, shows where that run lies.\n"
    )


EXPLORE = "http://127.0.0.1:8081/"
"""Where ``epsopt explore`` serves its page unless another port is given."""


def _page_of(run: str) -> str:
    """Return the address of that page with a run chosen."""
    return f"{EXPLORE}#{urlencode({'run': run}, quote_via=quote)}"


def _text(value: str) -> str:
    """Show a sentence as it is: nothing in it is markup."""
    plain = visible(" ".join(value.split())).rstrip(".")
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", plain)


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
