"""How a project's program is launched, as far as its runs and files tell: by Hydra, LightningCLI or arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epsopt.optimize.planned_epochs import EPOCHS
from epsopt.optimize.space import Parameter
from epsopt.studies.project.lightning_form import cli_script, constants, kept_config
from epsopt.studies.project.train_command import Command
from epsopt.zoo.layouts.lightning import cli_parameters

_LARGEST = 1 << 20  # bytes of a configuration or a script that are looked at
_ABOVE = 6  # folders above a checkpoint in which a run's configuration is looked for
_MOST = 50  # scripts that are looked at
_OUT = (
    "out", "output", "out-dir", "output-dir", "outdir", "run-dir", "save-dir", "logdir", "log-dir", "results-dir",
    "default-root-dir", "work-dir",
)  # fmt: skip
_STEPS = ("max_steps", "num_steps", "n_steps", "total_steps", "train_steps", "num_train_steps", "max_iters", "steps")
_ALSO = {  # what programs call that which the logs of their frameworks call otherwise
    "learning_rate": ("lr",),
    "num_train_epochs": EPOCHS,
    "train_batch_size": ("per_device_train_batch_size", "batch_size", "bs"),
}
_MAX_EPOCHS = "trainer.max_epochs"
_START = ("init-from", "init-checkpoint", "pretrained", "checkpoint", "ckpt", "load-from")


@dataclass(frozen=True)
class LaunchForm:
    """How one run is launched.

    Attributes:
        kind: ``hydra``, ``lightning`` (LightningCLI) or ``arguments``.
        script: the program, relative to `cwd`.
        cwd: the folder that it starts in; None: the project file's.
        keys: of the configuration of Hydra or LightningCLI that a run may set, with what stands before it in an
            override (``+`` for a new one).
        constants: of Hydra, overrides that all runs had, as they are; of LightningCLI, arguments of each run.
        text: of the script, where it was found.
        named_by: the hyperparameter that past runs' folders are called by, where their program makes them itself.
        counts_steps: whether checkpoints are numbered by steps: ``{epochs}`` is then a number of steps.
    """

    kind: str
    script: str
    cwd: Path | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    constants: tuple[str, ...] = ()
    text: str = ""
    named_by: str | None = None
    counts_steps: bool = False

    @property
    def lengths(self) -> tuple[str, ...]:
        """Names of arguments that may say how long a run is, in what its checkpoints count."""
        return _STEPS if self.counts_steps else EPOCHS

    def sets(self, name: str) -> bool:
        """Whether the program takes a hyperparameter, as far as is known."""
        return self.kind == "arguments" or name in self.keys

    def command(
        self, parameters: Sequence[Parameter], seeds: Mapping[str, int | None], fixed: Mapping[str, Any] | None = None
    ) -> tuple[Command, list[str]]:
        """Return the train command, and which of its arguments the program is not known to take.

        Args:
            parameters: that are searched.
            seeds: by name, None where each run had its own.
            fixed: what all past runs had; an argument of the program is given it, too.
        """
        if self.kind == "hydra":
            return self._overrides(parameters, seeds), []
        if self.kind == "lightning":
            return self._options(parameters, seeds), []
        unknown: list[str] = []

        def flag(name: str, others: Sequence[str] = ()) -> str:
            found = next((s for n in (name, *others) if (s := self.spelling(n)) is not None), None)
            if found is None:
                unknown.append(f"--{name.replace('_', '-')}")
            return f"--{found or name.replace('_', '-')}"

        items: list[str | tuple[str, ...]] = ["{python}", self.script]
        if self.named_by is not None and all(self.spelling(name) is None for name in _OUT):
            items += [flag(self.named_by), "{out_name}"]
        else:
            items += [flag(_OUT[0], _OUT[1:]), "{out}"]
        for p in parameters:
            pair = (flag(p.name, _ALSO.get(p.name, ())), f"{{{p.name}}}")
            items += [pair] if p.active_when is not None or p.may_be_absent else list(pair)
        for name, seed in seeds.items():
            items += [flag(name), "{seed}" if seed is None else str(seed)]
        for name, value in (fixed or {}).items():
            spelled = self.spelling(name)
            if (
                spelled is not None
                and name not in seeds
                and isinstance(value, int | float | str)
                and value not in (True, False)
            ):
                items += [f"--{spelled}", str(value).replace("{", "{{").replace("}", "}}")]
        known = {p.name for p in parameters}
        spelled = next((s for n in self.lengths if (s := self.spelling(n)) is not None), None)
        if spelled is not None and not known.intersection((*EPOCHS, *_STEPS)):
            items.append((f"--{spelled}", "{epochs}"))  # after what all runs had: the last one counts
        start = next((s for n in _START if (s := self.spelling(n)) is not None), None)
        if start is not None:
            items.append((f"--{start}", "{init_from}"))
        return tuple(items), unknown

    def spelling(self, name: str) -> str | None:
        """Return how the script spells an argument; None: it has none of that name.

        Args:
            name: of the argument, without dashes in front.
        """
        spellings = dict.fromkeys((name.replace("_", "-"), name, name.replace("-", "_")))
        return next((s for s in spellings if re.search(rf"--{re.escape(s)}(?![\w-])", self.text)), None)

    def _overrides(self, parameters: Sequence[Parameter], seeds: Mapping[str, int | None]) -> Command:
        constants = [text.replace("{", "{{").replace("}", "}}") for text in self.constants]
        items: list[str | tuple[str, ...]] = ["{python}", self.script, "hydra.run.dir={out}", *constants]
        for p in parameters:
            text = f"{self.keys.get(p.name, '')}{p.name}={{{p.name}}}"
            items.append((text,) if p.active_when is not None or p.may_be_absent else text)
        for name, seed in seeds.items():
            if name in self.keys:
                items.append(f"{self.keys[name]}{name}=" + ("{seed}" if seed is None else str(seed)))
        keys_of_texts = [text.partition("=")[0] for text in constants]
        length = [key for key in keys_of_texts if key.rpartition(".")[2] in self.lengths][:1]
        own = [key for key, before in self.keys.items() if not before and key.rpartition(".")[2] in self.lengths]
        length = length or (own if len(own) == 1 else [])
        items += [(f"{key}={{epochs}}",) for key in length if key not in {p.name for p in parameters}]
        return tuple(items)

    def _options(self, parameters: Sequence[Parameter], seeds: Mapping[str, int | None]) -> Command:
        items: list[str | tuple[str, ...]] = ["{python}", self.script, *self.constants]
        for p in parameters:
            text = f"--{p.name}={{{p.name}}}"
            items.append((text,) if p.active_when is not None or p.may_be_absent else text)
        items += [f"--{name}=" + ("{seed}" if seed is None else str(seed)) for name, seed in seeds.items()]
        if _MAX_EPOCHS not in {p.name for p in parameters}:
            items.append((f"--{_MAX_EPOCHS}={{epochs}}",))
        return tuple(items)


def launch_form(checkpoints: Sequence[Path], folder: Path) -> LaunchForm:
    """Find out how the runs of some checkpoints were launched.

    Args:
        checkpoints: files, of one run each.
        folder: of the project file; scripts are looked for in it.

    Returns:
        Hydra's form where all of them lie below a folder ``.hydra``, LightningCLI's where all have its configuration
        beside them; otherwise arguments of the script in the folder
        that parses most, ``train.py`` where there is none.
    """
    places = [found for path in checkpoints if (found := _hydra_folder(path)) is not None]
    if places and len(places) == len(checkpoints):
        return _hydra_form(places, folder)
    scripts = sorted(folder.glob("*.py"))[:_MOST] if folder.is_dir() else []
    every = {script.name: _read(script) for script in scripts}
    configs = _Configs()
    kept = [place for path in checkpoints if (place := kept_config(path, configs)) is not None]
    if kept and len(kept) == len(checkpoints):
        return _lightning_form(kept, configs, every, folder)
    texts = {name: text for name, text in every.items() if "--" in text}
    parsers = {name: len(re.findall(r"[\"']--[a-zA-Z]", text)) for name, text in texts.items()}
    best = max(parsers, key=lambda name: (parsers[name], "train" in name), default=None)
    if best is None or not parsers[best]:
        return LaunchForm("arguments", "train.py")
    return LaunchForm("arguments", best, text=texts[best])


def folder_name(hyperparameters: Sequence[Mapping[str, Any]], checkpoints: Sequence[Path], runs: Path) -> str | None:
    """Return the hyperparameter that the folders of runs are called by, as ``--run-name`` of many programs.

    Args:
        hyperparameters: of each run.
        checkpoints: a file of each of these runs.
        runs: the folder in which theirs lie.

    Returns:
        A name whose value in each run is that of the folder in `runs` in which its checkpoint lies; None: there is
        none.
    """
    places = [path.relative_to(runs).parts[0] if path.is_relative_to(runs) else None for path in checkpoints]
    if len(set(places)) < max(len(places), 2) or None in places:
        return None
    pairs = list(zip(hyperparameters, places, strict=True))
    return next((n for n in hyperparameters[0] if all(run.get(n) == place for run, place in pairs)), None)


def unseen_arguments(command: Command, cwd: Path) -> tuple[str, list[str]]:
    """Return the program of a train command, and which of the command's options it is not seen to take.

    An option is taken where the program's text has it. Where that has fewer than half of them, its options are made
    elsewhere (by another module, from a dataclass), and nothing is said of any.

    Args:
        command: of the project file.
        cwd: the folder that it starts in.

    Returns:
        The program as the command names it, and the options without values, in their order; an empty text and none
        where no script is named or it cannot be read.
    """
    words = [text for item in command for text in ([item] if isinstance(item, str) else item)]
    script = next((word for word in words if word.endswith(".py")), None)
    text = "" if script is None else _read(cwd / script)
    if script is None or not text:
        return "", []
    found = (re.match(r"--([A-Za-z][\w.-]*)(?:=|$)", word) for word in words)
    options = list(dict.fromkeys(match[1] for match in found if match is not None))
    form = LaunchForm("arguments", script, text=text)
    unseen = [name for name in options if form.spelling(name) is None]
    return script, [f"--{name}" for name in unseen] if 2 * len(unseen) <= len(options) else []


def epochs_option(command: Command) -> str | None:
    """Return the option of a train command that is given ``{epochs}`` and by its name takes epochs, not steps.

    Args:
        command: of the project file.
    """
    groups = [[item] if isinstance(item, str) else list(item) for item in command]
    words = [word for group in groups for word in group]
    for before, word in zip(["", *words], words, strict=False):
        option = word.partition("=")[0] if "=" in word else before
        if "{epochs}" in word and option.lstrip("-").replace("-", "_").rpartition(".")[2] in EPOCHS:
            return option
    return None


class _Configs(dict[Path, Any]):
    """Configurations by their path, each read once."""

    def __missing__(self, place: Path) -> Any:
        self[place] = _parsed(place) if _is_file(place) else None
        return self[place]


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except OSError:
        return False


def _lightning_form(
    kept: Sequence[Path], configs: Mapping[Path, Any], scripts: Mapping[str, str], folder: Path
) -> LaunchForm:
    script = cli_script(scripts)
    newest = kept[-1]
    named = str(newest.relative_to(folder)) if newest.is_relative_to(folder) else str(newest)
    fixed = constants(named, configs[newest], scripts.get(script or "", ""))
    keys = {name: "" for place in kept for name in cli_parameters(configs[place])}
    return LaunchForm("lightning", script or "train.py", folder if script else None, keys, tuple(fixed))


def _hydra_folder(checkpoint: Path) -> Path | None:
    try:
        above = (parent / ".hydra" for parent in checkpoint.parents[:_ABOVE])
        return next((place for place in above if (place / "config.yaml").is_file()), None)
    except OSError:
        return None


def _hydra_form(places: Sequence[Path], folder: Path) -> LaunchForm:
    from epsopt.zoo.layouts.log_rows import flat

    own = _mapping(places[-1] / "hydra.yaml").get("hydra")
    own = own if isinstance(own, Mapping) else {}
    job, runtime = (part if isinstance(part := own.get(key), Mapping) else {} for key in ("job", "runtime"))
    name = str(job.get("name") or "train")
    cwd = Path(str(runtime.get("cwd") or folder))
    script = next((f"{name}{end}" for end in (".py", "") if (cwd / f"{name}{end}").is_file()), None)
    keys = {str(key): "" for place in places for key in flat(_mapping(place / "config.yaml"))}
    choices = runtime.get("choices")
    if isinstance(choices, Mapping):
        keys.update({str(group).partition("@")[0]: "" for group in choices if not str(group).startswith("hydra/")})
    overrides = [_overrides_of(place) for place in places]
    for text in (text for one in overrides for text in one):
        key, plus = text.partition("=")[0].lstrip("+"), text[: len(text) - len(text.lstrip("+"))]
        if plus and not any(t.partition("=")[0] == key for one in overrides for t in one):
            keys[key] = plus
    common = [t for t in overrides[0] if all(t in one for one in overrides)] if len(overrides) > 1 else []
    constants = tuple(t for t in common if not t.lstrip("+~").startswith("hydra"))
    return LaunchForm("hydra", script or f"{name}.py", cwd if script else None, keys, constants)


def _overrides_of(place: Path) -> list[str]:
    found = _parsed(place / "overrides.yaml")
    return [str(text) for text in found] if isinstance(found, list) else []


def _mapping(file: Path) -> Mapping[str, Any]:
    found = _parsed(file)
    return found if isinstance(found, Mapping) else {}


def _parsed(file: Path) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(_read(file))
    except (YAMLError, ValueError, RecursionError):
        return None


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(_LARGEST).decode(errors="replace")
    except OSError:
        return ""
