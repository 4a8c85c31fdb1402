"""Write a commented epsopt.toml, as `epsopt init` leaves it for the user to edit."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import InlineTable, Table

from epsopt.optimize.objectives import Objective
from epsopt.optimize.renamed_parameters import RenamedParameter
from epsopt.optimize.space import Parameter, Space, Span, identity
from epsopt.studies.project.launch_form import LaunchForm
from epsopt.studies.project.metric_direction import LeftOut
from epsopt.studies.project.project import FILE_NAME, check_text
from epsopt.studies.project.train_command import Command
from epsopt.zoo.errors import EpsoptError, UsageError
from epsopt.zoo.files import atomic_file


def write_project(
    path: Path,
    *,
    name: str,
    runs: str,
    objectives: Sequence[Objective],
    bounds: Mapping[str, tuple[float, float]] | None = None,
    space: Space | None = None,
    command: Command | None = None,
    storage: str = "sqlite:///epsopt.db",
    evaluate: str | None = None,
    embed: str | None = None,
    guessed: Collection[str] = (),
    undecided: Sequence[str] = (),
    left_out: Sequence[LeftOut] = (),
    at_ends: Collection[str] = (),
    unnamed_model: Collection[str] = (),
    seeds: Mapping[str, int | None] | None = None,
    bases: Sequence[str] = (),
    limits: Mapping[str, float] | None = None,
    renamed: Sequence[RenamedParameter] = (),
    renamed_metrics: Mapping[str, str] | None = None,
    form: LaunchForm | None = None,
    follow_links: bool = False,
    overwrite: bool = False,
) -> bool:
    """Write a project file with a comment for everything that can be said in it.

    Args:
        path: the file to write; appears whole or not at all.
        name: the project's name.
        runs: folder of the runs, absolute or relative to the file.
        objectives: the metrics that count.
        bounds: possible values of objectives, where known.
        space: what is searched; None leaves it to be inferred, with an example in a comment.
        command: the train command; None leaves a proposal in a comment.
        storage: database URL.
        evaluate: hook "package.module:function".
        embed: hook "package.module:function".
        guessed: objectives whose direction nobody stated; the file says so beside it.
        undecided: metrics whose direction nobody knows; they become comments to be filled in.
        left_out: metrics that are no objectives by guess; named in a comment.
        at_ends: objectives that only the ends of runs have; the file says so beside them.
        unnamed_model: objectives that no checkpoint has until ``weights_key`` names one of several networks; likewise.
        seeds: seeds of past runs by their hyperparameter's name, None where runs differ: the proposed train command
            passes them on.
        bases: checkpoints that past runs start from, absolute or relative to the file; a single one is written down.
        limits: of objectives, proposed in a comment.
        renamed: hyperparameters that some runs call otherwise, a guess.
        renamed_metrics: new names of metrics by the old ones, a guess.
        form: how past runs were launched, where that is known: the train command is written in it.
        follow_links: whether links that lead out of the folder of runs are followed.
        overwrite: whether another file of that name may be replaced.

    Returns:
        Whether the file changed; writing the same again changes nothing.

    Raises:
        UsageError: something that the file cannot say, another file is there already, it is no project file, or the
            folder cannot be written to. Nothing is written then.
    """
    remarks = {
        "guessed from its name: check it": guessed,
        "only the ends of runs have it": at_ends,
        "measured once weights_key under [runs] names the network": unnamed_model,
    }
    document = tomlkit.document()
    document.add(tomlkit.comment("epsopt.toml: what a command of epsopt would otherwise ask each time."))
    document.add(tomlkit.comment("Relative paths start at this file."))
    document.add(tomlkit.nl())
    document["project"] = _project(name, runs, storage)
    document["objectives"] = _objectives(objectives, bounds or {}, limits or {}, remarks)
    if len(bases) == 1:
        document["lineage"] = _lineage(bases[0])
    if space is not None:
        document["space"] = _space(space)
    text = tomlkit.dumps(document).rstrip("\n") + "\n"
    text += _renamed(renamed) + _renamed_metrics(renamed_metrics or {})
    text += _several_bases(bases) if len(bases) != 1 else ""
    text += _undecided(undecided) + _left_out(left_out)
    if space is None:
        text += _NO_SPACE
    text += _train(path.parent, command, space, seeds or {}, form) + _hooks(evaluate, embed)
    text += _MORE.replace("# [runs]\n", "[runs]\nfollow_links = true\n", 1) if follow_links else _MORE
    check_text(path, text)  # what is written is what every other command takes
    return _replace(path, text, overwrite)


LEFT_OUT = {
    "bookkeeping": "Time, memory and steps of the training program",
    "training": "Measured while training, beside what validation measures",
    "ends": "Measured at the ends of runs alone, where others are measured along the way",
    "constant": "One value everywhere, so that a front with it has no hypervolume",
    "best": "The best of a run so far, which a worse checkpoint says, too",
    "more": "Others, where there are enough already",
    "unasked": "You named all objectives",
}
"""What each reason of :class:`epsopt.studies.project.metric_direction.LeftOut` means."""
_NAMED = 20


def rename_lines(renamed: Sequence[RenamedParameter]) -> list[str]:
    """Return the lines of ``[hyperparameters.rename]`` that give each hyperparameter one name."""
    return [f"{tomlkit.key(r.old).as_string()} = {tomlkit.item(r.new).as_string()}" for r in renamed]


_NO_SPACE = """
# The search space is inferred from the hyperparameters of past runs. To say it yourself:
# [space.lr]
# type = "float"                      # float, int or categorical
# low = 1e-5
# high = 1e-2
# log = true
# [space.momentum]
# type = "float"
# low = 0.5
# high = 0.99
# active_when = { param = "optimizer", values = ["sgd"] }
"""


_MORE = """
# What else tells of the runs: a CSV table (path, param.X, metric.X), an Optuna study of before.
# [runs]
# table = "runs.csv"
# study = "sqlite:///old.db#name"
# weights_key = "generator"   # where the weights are in checkpoints that hold several state dicts

# One name for what runs call differently; it needs no new ingest.
# [metrics.rename]
# "val/acc" = "accuracy"

# Only the objectives are learned, everything else that was measured is kept as data. To learn more:
# [metrics]
# learn = ["test_*"]
# bounds = { test_loss = [0.0, inf] }
"""


def _renamed(renamed: Sequence[RenamedParameter]) -> str:
    if not renamed:
        return ""
    about = "\n# What some past runs call otherwise than the others, guessed from the names: check it.\n"
    return about + "[hyperparameters.rename]\n" + "".join(f"{line}\n" for line in rename_lines(renamed))


def _renamed_metrics(renamed: Mapping[str, str]) -> str:
    if not renamed:
        return ""
    about = "\n# What earlier checkpoints spell otherwise than the newest ones: one name for it.\n"
    lines = "".join(
        f"{tomlkit.key(old).as_string()} = {tomlkit.item(new).as_string()}\n" for old, new in renamed.items()
    )
    return f"{about}[metrics.rename]\n{lines}"


def _project(name: str, runs: str, storage: str) -> Table:
    table = tomlkit.table()
    table["name"] = name
    table["runs"] = runs
    table["storage"] = storage
    table["name"].comment("first part of the names of its Optuna studies")
    table["runs"].comment("the folder that holds the run folders")
    table["storage"].comment("catalogue and studies; postgresql+psycopg://... to share them")
    return table


def _objectives(
    objectives: Sequence[Objective],
    bounds: Mapping[str, tuple[float, float]],
    limits: Mapping[str, float],
    remarks: Mapping[str, Collection[str]],
) -> Table:
    tables = tomlkit.table(is_super_table=True)
    for i, objective in enumerate(objectives):
        table = tomlkit.table()
        if i == 0:
            table.comment("a metric that counts; bounds = [low, high] says what it can be at all, inf: no such end")
        table["direction"] = "maximize" if objective.maximize else "minimize"
        if own := [remark for remark, names in remarks.items() if objective.name in names]:
            table["direction"].comment("; ".join(own))
        if objective.name in bounds:
            table["bounds"] = list(bounds[objective.name])
            table["bounds"].comment("guessed from its name: check it, nothing predicted leaves it")
        if objective.name in limits:
            key = "at_least" if objective.maximize else "at_most"
            why = "past runs that are hardly better than chance would be on the front"
            table.add(tomlkit.comment(f"{key} = {limits[objective.name]:g} # {why}: this leaves them out"))
        tables[objective.name] = table
    return tables


def _undecided(names: Sequence[str]) -> str:
    if not names:
        return ""
    tables = "".join(
        f'# [objectives.{tomlkit.key(name).as_string()}]\n# direction = "minimize"  # or "maximize"\n' for name in names
    )
    return "\n# Measured too, but their names do not tell which way is better:\n" + tables


def _left_out(left_out: Sequence[LeftOut]) -> str:
    text = ""
    for reason, why in LEFT_OUT.items():
        names = [entry.name for entry in left_out if entry.reason == reason]
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            listed = ", ".join(tomlkit.key(name).as_string() for name in names[:_NAMED])
            text += f"# {why}: {listed}{more}.\n"
    return "\n# Measured too, but no objectives by guess; a table [objectives.NAME] makes one.\n" + text if text else ""


def _lineage(base: str) -> Table:
    table = tomlkit.table()
    table["base"] = base
    table["base"].comment("named in the runs' configurations: what they start from, and weights are compared with")
    return table


def _several_bases(bases: Sequence[str]) -> str:
    text = "\n# The checkpoint that runs start from, where they do not name it themselves.\n"
    text += f"# Past runs name several: {', '.join(bases)}.\n" if bases else ""
    example = tomlkit.item(bases[0] if bases else "base/pretrained.pt").as_string()
    return f"{text}# [lineage]\n# base = {example}\n"


def _space(space: Space) -> Table:
    tables = tomlkit.table(is_super_table=True)
    for i, parameter in enumerate(space.parameters):
        table = tomlkit.table()
        if i == 0:
            table.comment("what a run may be launched with; remove all of [space...] to infer it from past runs")
        for key, value in _parameter(parameter).items():
            table[key] = value
        tables[parameter.name] = table
    return tables


def _parameter(parameter: Parameter) -> dict[str, Any]:
    entries: dict[str, Any] = {"type": parameter.kind}
    if parameter.kind == "categorical":
        entries["choices"] = [_plain(c) for c in parameter.choices if c is not None]
    else:
        whole = parameter.kind == "int"
        entries["low"] = int(parameter.low) if whole else float(parameter.low)
        entries["high"] = int(parameter.high) if whole else float(parameter.high)
        if parameter.log:
            entries["log"] = True
    if parameter.active_when is not None:
        condition: InlineTable = tomlkit.inline_table()
        condition["param"] = parameter.active_when[0]
        condition["values"] = [_plain(v) for v in parameter.active_when[1] if v is not None]
        if None in parameter.active_when[1]:
            condition["absent"] = True
        entries["active_when"] = condition
    if parameter.may_be_absent:
        entries["optional"] = True  # TOML knows no None
    return entries


def _plain(value: Any) -> Any:
    """A value as TOML has it: a range as a table, and what holds None, which TOML does not know, as text."""
    if isinstance(value, Span):
        table: InlineTable = tomlkit.inline_table()
        table.update({k: v for k, v in (("low", value.low), ("high", value.high)) if math.isfinite(v)})
        return table
    return identity(value)[1] if _holds_none(value) else value


def _holds_none(value: Any) -> bool:
    if isinstance(value, list | dict):
        return any(_holds_none(v) for v in (value.values() if isinstance(value, dict) else value))
    return value is None


def _train(
    folder: Path, command: Command | None, space: Space | None, seeds: Mapping[str, int | None], form: LaunchForm | None
) -> str:
    about = (
        "\n# How one run is launched: an argument list, never a shell. {out} is the run's folder, {python}\n"
        "# this interpreter, {name} a hyperparameter. A list inside the list is dropped as a whole while a\n"
        '# hyperparameter in it is inactive. With ["--init-from", "{init_from}"] a run can start from a checkpoint\n'
        "# ('epsopt propose --reuse'); it is dropped for runs that start from scratch. With\n"
        '# ["--epochs", "{epochs}"] it is given its number of epochs (\'epsopt work --budget\'). {seed} is the\n'
        "# number of the proposal: a seed of its own for each run.\n"
    )
    if form is not None and form.counts_steps:
        about += "# Checkpoints of past runs are numbered by steps: {epochs} and budgets are numbers of steps here.\n"
    if command is not None:
        return about + "[train]\n" + _array(command) + '# cwd = "."\n'
    form = form or LaunchForm("arguments", "train.py")
    parameters = space.parameters if space is not None else (Parameter("lr", "float"),)
    guess, unknown = form.command(parameters, seeds, {} if space is None else space.fixed)
    known = space is not None and (form.cwd is not None or bool(form.text)) and not unknown
    lines = ["[train]", *_array(guess).splitlines(), f"cwd = {tomlkit.item(_below(folder, form.cwd)).as_string()}"]
    if known:
        how = {
            "hydra": "by Hydra's overrides",
            "lightning": "by LightningCLI with the configuration of the newest run",
        }.get(form.kind, f"by arguments that {form.script} has")
        about += f"# Guessed from past runs, which were launched {how}: check it with 'epsopt work --dry-run'.\n"
        return about + "".join(f"{line}\n" for line in lines)
    if unknown and form.text:
        about += f"# {form.script} is not seen to take {', '.join(unknown)}: write what it takes.\n"
    return about + "".join(f"# {line}\n" for line in lines)


def _below(folder: Path, cwd: Path | None) -> str:
    if cwd is None:
        return "."
    resolved, start = cwd.resolve(), folder.resolve()
    return str(resolved.relative_to(start)) if resolved.is_relative_to(start) else str(resolved)


def _array(command: Command) -> str:
    lines = [f"    {tomlkit.item(item if isinstance(item, str) else list(item)).as_string()},\n" for item in command]
    return "command = [\n" + "".join(lines) + "]\n"


def _hooks(evaluate: str | None, embed: str | None) -> str:
    hooks = [(key, hook) for key, hook in (("evaluate", evaluate), ("embed", embed)) if hook is not None]
    table = "".join(f"{key} = {tomlkit.item(hook).as_string()}\n" for key, hook in hooks)
    mark = "" if hooks else "# "
    text = (
        "\n# Your own Python, as package.module:function. One model may take evaluate a day, and embed ten minutes.\n"
        f"{mark}[hooks]\n{table}"
    )
    if evaluate is None:
        text += '# evaluate = "package.module:function"  # (state_dict) -> {metric: value}\n'
    if embed is None:
        text += '# embed = "package.module:function"     # (state_dict) -> array (anchors, dim)\n'
    return text


def _replace(path: Path, text: str, overwrite: bool) -> bool:
    if path.suffix.lower() != ".toml":
        raise UsageError(f"{path}: a project file ends in .toml")
    there = path.exists()
    try:
        if there and not path.is_file():
            raise UsageError(f"{path} is not a regular file: name another one")
        old = path.read_text(encoding="utf-8", errors="replace") if there else None
        if not path.parent.is_dir():
            raise UsageError(f"{path}: cannot be written: there is no folder {path.parent}")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    if old == text:
        return False
    if old is not None:
        if not overwrite:
            raise UsageError(f"{path}: there is a project file already: edit it, or remove it first")
        if not _is_project(path, old):
            raise UsageError(f"{path} is no project file of epsopt, so it is left alone: name another file")
    try:
        with atomic_file(path, replace=there) as file:
            file.write(text.encode())
    except UsageError:
        raise UsageError(f"{path}: there is a project file already: edit it, or remove it first") from None
    except EpsoptError as error:
        raise UsageError(f"{path}: cannot be written: {error}") from error
    return True


def _is_project(path: Path, text: str) -> bool:
    """Tell whether a file is ours to replace: by its name, or because it says what a project file says."""
    if path.name == FILE_NAME:
        return True
    try:
        check_text(path, text)
    except UsageError:
        return False
    return True
