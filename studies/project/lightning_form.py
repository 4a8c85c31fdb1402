"""How LightningCLI launches a run: ``fit``, the configuration that it kept beside a past one, and what differs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from epsopt.zoo.layouts.lightning import CONFIG, is_cli_config

_ABOVE = 4  # folders above a checkpoint in which its configuration is looked for
_CALL = re.compile(r"\bLightningCLI\s*\(")
_NO_COMMAND = re.compile(r"\brun\s*=\s*False\b")


def kept_config(checkpoint: Path, parsed: Mapping[Path, Any]) -> Path | None:
    """Return the configuration that LightningCLI wrote for the run of a checkpoint; None: there is none.

    Args:
        checkpoint: a file of the run.
        parsed: configurations by their path, each read when it is asked for.
    """
    places = (above / CONFIG for above in checkpoint.parents[:_ABOVE])
    return next((place for place in places if is_cli_config(parsed[place])), None)


def cli_script(texts: Mapping[str, str]) -> str | None:
    """Return the name of the script that calls LightningCLI, of scripts by name; None: none does."""
    return next((name for name, text in sorted(texts.items()) if _CALL.search(text)), None)


def constants(config: str, tree: Mapping[str, Any], script: str) -> list[str]:
    """Return what all runs are launched with: the subcommand, the configuration, and where the run writes.

    Args:
        config: path of a past run's configuration.
        tree: what it says.
        script: text of the program; ``LightningCLI(..., run=False)`` has no subcommand.
    """
    words = [] if _NO_COMMAND.search(script) else ["fit"]
    escaped = config.replace("{", "{{").replace("}", "}}")
    words += ["--config", escaped, "--trainer.default_root_dir={out}"]
    logger = tree["trainer"].get("logger")
    if isinstance(logger, Sequence) and not isinstance(logger, str):  # of several the first: one holds all metrics
        logger = next((one for one in logger if isinstance(one, Mapping)), None)
        if logger is not None:
            words.append(f"--trainer.logger={logger.get('class_path')}")
    if isinstance(logger, Mapping) and "save_dir" in (logger.get("init_args") or {}):
        words.append("--trainer.logger.init_args.save_dir={out}")
    if tree.get("ckpt_path") is not None:
        words.append("--ckpt_path=null")
    return words
