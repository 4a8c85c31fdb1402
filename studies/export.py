"""Proposals in the formats that other programs take: YAML, CSV, Hydra overrides, shell lines."""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from epsopt.studies.protocols import Proposal
from epsopt.zoo.errors import UsageError
from epsopt.zoo.reading.text import visible


class Config(Proposal, Protocol):
    """A proposed run and what it should get besides its searched hyperparameters."""

    @property
    def fixed(self) -> Mapping[str, Any]:
        """Constants of the past runs."""

    @property
    def joins_front(self) -> float:
        """Probability that no measured final checkpoint dominates it."""

    @property
    def reason(self) -> str:
        """Why it was chosen, in one line."""


def as_yaml(proposals: Sequence[Config], numbers: Sequence[int | None]) -> str:
    """Return a YAML list; read back (YAML 1.1 or 1.2) it gives the same values of the same types.

    Every text is quoted: YAML 1.1 takes ``no`` for false, 1.2 takes ``1e-3`` for a number.
    """
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML ships no types
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
            super().increase_indent(flow, False)

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = None if re.fullmatch(r"[a-z_]{2,}", value) and value not in _WORDS else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    documents = [
        {
            "number": number,
            "params": dict(p.params),
            "fixed": dict(p.fixed),
            "init_from": p.init_from,
            "predicted": {n: {"value": v, "low": p.low[n], "high": p.high[n]} for n, v in p.point.items()},
            "probability": p.probability,
            "joins_front": p.joins_front,
            "nearest_runs": [{"run": run, "distance": distance} for run, distance in p.nearest_runs],
            "reason": p.reason,
        }
        for p, number in zip(proposals, numbers, strict=True)
    ]
    return str(yaml.dump(documents, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120))


_WORDS = frozenset({"no", "on", "yes", "true", "off", "false", "null", "nan", "inf"})


def as_csv(proposals: Sequence[Config], numbers: Sequence[int | None]) -> str:
    """Return a table with a column for every hyperparameter; empty where it is inactive. Numbers in full precision.

    Of the nearest runs each has two columns: ``nearest_run.1``, its name, and ``nearest_run.1.distance``.
    """
    names = list(dict.fromkeys(n for p in proposals for n in (*p.params, *p.fixed)))
    metrics = list(dict.fromkeys(n for p in proposals for n in p.point))
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    ends = ("predicted", "low", "high")
    most = max((len(p.nearest_runs) for p in proposals), default=0)
    nearest = [f"nearest_run.{i}{part}" for i in range(1, most + 1) for part in ("", ".distance")]
    rest = ["probability", "joins_front", *nearest, "reason"]
    table.writerow(["number", *names, "init_from", *(f"{end}.{m}" for m in metrics for end in ends), *rest])
    for p, number in zip(proposals, numbers, strict=True):
        values = {**p.fixed, **p.params}
        predicted = [repr(part[m]) if m in part else "" for m in metrics for part in (p.point, p.low, p.high)]
        row = ["" if number is None else number, *(_plain(values.get(n)) for n in names), p.init_from or "", *predicted]
        near = [_plain(part) for run in p.nearest_runs for part in run]
        near += [""] * (len(nearest) - len(near))
        table.writerow([*row, _plain(p.probability), _plain(p.joins_front), *near, p.reason])
    return out.getvalue()


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else str(value)


def as_hydra(proposals: Sequence[Config]) -> str:
    """Return one line of overrides for each proposal, to be pasted behind ``python train.py -m``.

    Texts that Hydra would take for something else are quoted for it; then each override is quoted for the shell.

    Raises:
        UsageError: a name that no override can have.
    """
    return "".join(
        shlex.join(f"{_hydra_key(n)}={_hydra_value(v)}" for n, v in {**p.fixed, **p.params, **_start(p)}.items()) + "\n"
        for p in proposals
    )


def _start(proposal: Config) -> dict[str, Any]:
    return {} if proposal.init_from is None else {"init_from": proposal.init_from}


def _hydra_key(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w$]*([./-][\w$-]+)*", name):
        raise UsageError(
            f"the hyperparameter {name!r} cannot be written as a Hydra override: rename it, or use --format json"
        )
    return name


# What Hydra's grammar reads as a text without quotes, and as nothing but a text.
_BARE = re.compile(r"[A-Za-z_][\w./@-]*")
_NOT_TEXT = re.compile(r"true|false|null|nan|inf|interpolate", re.IGNORECASE)


def _hydra_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if _BARE.fullmatch(text) and not _NOT_TEXT.fullmatch(text):
        return text
    # Backslashes escape themselves only where they stand before what they could escape: an interpolation, a quote.
    plain = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + "\\${", text)
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), plain)
    return f"'{escaped}'"


def in_words(proposals: Sequence[Config], numbers: Sequence[int | None], level: float) -> list[str]:
    """Return a line for each proposal: what is predicted of it, and why it was chosen; no control characters.

    Args:
        proposals: with their predictions.
        numbers: of their trials; None: they were not queued.
        level: what share of measurements the intervals are meant to hold.
    """
    lines = []
    for p, number in zip(proposals, numbers, strict=True):
        predicted = [f"{n} {v:.4g} [{p.low[n]:.4g}, {p.high[n]:.4g}]" for n, v in p.point.items()]
        parts = [f"{', '.join(predicted)} ({level:.0%} intervals)"] if predicted else []
        parts += [] if p.probability is None else [f"meets the targets with probability {p.probability:.2f}"]
        parts += [f"joins the front with probability {p.joins_front:.2f}"]
        parts += [f"nearest run {run} ({distance:.2f})" for run, distance in p.nearest_runs[:1]]
        text = "; ".join([*parts, p.reason])
        text = f"predicted: {text}" if number is None else f"proposal {number}, predicted: {text}"
        lines.append(visible(text))
    return lines


def as_shell(commands: Sequence[Sequence[str]], cwd: Path, comments: Sequence[str]) -> str:
    """Return one command line for each argument list, quoted for a POSIX shell, below its comment.

    Args:
        commands: argument lists.
        cwd: where they run.
        comments: a line for each (:func:`in_words`).
    """
    lines = []
    for arguments, comment in zip(commands, comments, strict=True):
        text = shlex.join(arguments)
        lines += [f"# {comment}", text if cwd == Path.cwd() else f"(cd {shlex.quote(str(cwd))} && {text})"]
    return "".join(line + "\n" for line in lines)
