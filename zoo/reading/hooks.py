"""The user's own hook on the weights (``package.module:function``): it runs in the child, by their own wish."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.zoo.child_processes import working_directory_last
from epsopt.zoo.errors import HookError
from epsopt.zoo.reading.hook_names import hook_parts, no_such_function
from epsopt.zoo.reading.messages import MAX_MESSAGE
from epsopt.zoo.reading.plain_values import finite
from epsopt.zoo.reading.remote import is_url
from epsopt.zoo.reading.tensors import OpenCheckpoint

_HOOKS: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {}
_EXPECTED = "expected a dictionary from metric names to numbers"
_LONGEST = 1_000  # characters of an error's text
_LARGEST = MAX_MESSAGE // 2  # bytes of one embedding
ASKED = ("path", "parents", "dtype", "config", "slot")
"""What an evaluate function may ask for beside the weights, by the names of parameters without a default."""
_EMBED_ASKED = ("path", "config")

Listener = Callable[[str | None], object]
_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Have a function called when a hook begins to be imported or to run, and when it has ended.

    Whoever waits for the process then knows whom to blame should it end, or never answer.

    Args:
        listener: takes words that "ended its process" may follow; None: the hook has ended.
    """
    _listeners.append(listener)


@contextlib.contextmanager
def _at_work(words: str) -> Iterator[None]:
    for listener in _listeners:
        listener(words)
    try:
        yield
    finally:
        for listener in _listeners:
            listener(None)


def load_hook(spec: str, kind: str = "embed") -> Callable[[dict[str, torch.Tensor]], Any]:
    """Import the user's function, given as ``package.module:function``; once per child.

    ``package.module:key=value;key=value`` is the module's function of the hook's kind with these keyword arguments, of
    which each value is a text. The current folder is on the path meanwhile, after everything that is installed.

    Args:
        spec: what to import.
        kind: which hook it is: the name of its function where options are given, and for the error.

    Raises:
        HookError: the form is wrong, the import fails, or the function takes no such option.
    """
    if spec not in _HOOKS:
        module, wanted, given = hook_parts(spec, kind)
        if not module or not wanted:
            raise HookError(f"the {kind} hook {spec!r} has the wrong form: expected 'package.module:function'")
        options = dict(pair.partition("=")[::2] for pair in given.split(";") if pair)
        try:
            with _at_work(f"the {kind} hook {spec!r}, as it was imported,"), working_directory_last():
                imported = importlib.import_module(module)
                function = getattr(imported, wanted, None)
        except (Exception, SystemExit) as error:
            raise HookError(
                f"the {kind} hook {spec!r} cannot be imported ({type(error).__name__}: {error}): "
                "install its package or run from the folder that holds it"
            ) from error
        if function is None:
            raise HookError(no_such_function(spec, kind, dir(imported)))
        _require_weights_first(function, spec, kind)
        _HOOKS[spec] = _with_options(function, options, spec, kind) if options else function
    return _HOOKS[spec]


def _with_options(
    function: Callable[..., Any], options: Mapping[str, str], spec: str, kind: str
) -> Callable[[dict[str, torch.Tensor]], Any]:
    known = inspect.signature(function).parameters.values()
    names = [p.name for p in known if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)][1:]
    names = [name for name in names if name not in ASKED]
    unknown = [name for name in options if name not in names]
    if unknown and not any(p.kind == p.VAR_KEYWORD for p in known):
        raise HookError(
            f"the {kind} hook {spec!r} has no option {unknown[0]!r}: expected {', '.join(names) or 'none'}, as "
            "package.module:key=value;key=value"
        )
    return functools.partial(function, **options)


def _its_folder(spec: str) -> contextlib.AbstractContextManager[None]:
    """Let a hook that comes from the current folder import more from there while it runs; no other one."""
    origin = getattr(sys.modules.get(spec.partition(":")[0]), "__file__", None)
    with contextlib.suppress(OSError):
        if origin is not None and Path(origin).resolve().is_relative_to(Path.cwd()):
            return working_directory_last()
    return contextlib.nullcontext()


def embed(
    function: Callable[..., Any],
    spec: str,
    checkpoint: OpenCheckpoint,
    weights: Mapping[str, torch.Tensor],
    config: Callable[[], Mapping[str, Any]] = dict,
) -> NDArray[np.float32]:
    """Apply the user's embed function to a checkpoint: to all tensors, or to the folder that holds it.

    Args:
        function: the hook, from a state dict or a folder to an array. It may ask for ``path`` and ``config``.
        spec: ``package.module:name`` of the hook, for messages.
        checkpoint: the open file.
        weights: its tensors by name, possibly only described (meta); their data is read here.
        config: gives what the hook gets as ``config``.

    Returns:
        ``(anchors, dimensions)`` float32.

    Raises:
        HookError: it raised, or returned another shape; names hook, path and exception.
    """
    path = checkpoint.source.path
    wanted = [name for name in asked_for(function) if name in _EMBED_ASKED]
    if (wants_folder(function) or "path" in wanted) and is_url(str(path)):
        raise HookError(f"the embed hook {spec!r} wants a file's place, and {path} is on no disk: take the weights")
    given = path.parent if wants_folder(function) else {n: checkpoint.read(n, t) for n, t in weights.items()}
    about = {"path": path, "config": dict(config()) if "config" in wanted else None}
    try:
        with _at_work(f"the embed hook {spec!r} (on {path})"), _its_folder(spec), torch.inference_mode(False):
            result = function(given, **{name: about[name] for name in wanted})
        raw = result.detach().cpu().numpy() if isinstance(result, torch.Tensor) else result
        embedding = np.asarray(raw, dtype=np.float32)
    except (Exception, SystemExit) as error:
        raise HookError(f"the embed hook {spec!r} failed on {path}: {_shown(error)}") from error
    if embedding.ndim != 2 or embedding.size == 0:
        raise HookError(
            f"the embed hook {spec!r} returned shape {embedding.shape} on {path}: expected (anchors, dimensions)"
        )
    if embedding.nbytes > _LARGEST:
        raise HookError(
            f"the embed hook {spec!r} returned shape {embedding.shape} on {path}, {embedding.nbytes >> 20:,} MB: "
            f"expected at most {_LARGEST >> 20} MB, so embed fewer anchors"
        )
    return embedding


def _require_weights_first(function: Callable[..., Any], spec: str, kind: str) -> None:
    """Refuse a hook whose first parameter is called as something that comes after the weights.

    Raises:
        HookError: says how it is written.
    """
    try:
        first = next(iter(inspect.signature(function).parameters), "")
    except (TypeError, ValueError):
        return
    if first in ASKED:
        raise HookError(
            f"the {kind} hook {spec!r} takes {first!r} first, where the weights come: write "
            f"{kind}(state_dict, {first}, ...), or {kind}(folder, ...) for the folder of the model"
        )


def _shown(error: BaseException) -> str:
    """Return an error in one sentence; one whose text holds tensors is cut."""
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text):,} characters)"


def wants_folder(function: Callable[..., Any]) -> bool:
    """Tell whether a function takes the folder of a model instead of its tensors: ``evaluate(folder)``."""
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # it is compiled, and says nothing of itself
        return False
    return parameters[:1] == ["folder"]


def asked_for(function: Callable[..., Any]) -> list[str]:
    """Return what a function asks for beside the weights: names of :data:`ASKED`, without a default."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []
    by_name = [p for p in parameters[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [p.name for p in by_name if p.name in ASKED and p.default is p.empty]


def calibrated(
    function: Callable[[dict[str, torch.Tensor]], Any], spec: str, state: dict[str, torch.Tensor], title: str
) -> dict[str, torch.Tensor]:
    """Apply the user's calibrate function to weights; return the tensors that it changed.

    Args:
        function: the hook, from a state dict to one with corrected tensors, of all or of some names.
        spec: ``package.module:name`` of the hook, for messages.
        state: tensors by name; they stay as they are.
        title: what is calibrated, for messages.

    Raises:
        HookError: it raised, or returned something else; names hook, checkpoint and exception.
    """
    with _blamed("calibrate", spec, title):
        result = function({name: tensor.clone() for name, tensor in state.items()})
    return _changed(result, "calibrate", spec, state, title)


def measure(
    function: Callable[..., Any],
    spec: str,
    given: dict[str, torch.Tensor] | Path,
    title: str,
    state: Mapping[str, torch.Tensor] | None = None,
    about: Mapping[str, Any] | None = None,
) -> tuple[dict[str, float | None], dict[str, torch.Tensor]]:
    """Apply the user's evaluate function to weights; return metrics by name and the tensors that it corrected.

    A metric that is NaN or infinite is None. A function that corrects tensors returns ``(metrics, tensors)``.

    Args:
        function: the hook.
        spec: ``package.module:name`` of the hook, for messages.
        given: tensors by name, or the folder of the model.
        title: what is measured, for messages.
        state: the tensors that may be corrected; None: those given, of a folder none.
        about: what the function may ask for (:data:`ASKED`), by name.

    Raises:
        HookError: it raised, or returned something else than numbers by name; names hook, checkpoint and exception.
    """
    known = state if state is not None else given if isinstance(given, dict) else {}
    with _blamed("evaluate", spec, title):
        result = function(given, **{name: (about or {}).get(name) for name in asked_for(function)})
        corrected = None
        if isinstance(result, tuple) and len(result) == 2:
            result, corrected = result
        pairs = dict(result.items()) if hasattr(result, "items") else None
    if pairs is None:
        returned = "None" if result is None else f"a {type(result).__name__}"
        raise HookError(f"the evaluate hook {spec!r} returned {returned} on {title}: {_EXPECTED}")
    metrics: dict[str, float | None] = {}
    for name, value in pairs.items():
        number = None if isinstance(value, str | bytes) else _number(value)
        if number is None or not isinstance(name, str):
            raise HookError(
                f"the evaluate hook {spec!r} returned {name!r}: {str(value)[:60]!r} on {title}: {_EXPECTED}"
            )
        metrics[name] = finite(number)
    return metrics, {} if corrected is None else _changed(corrected, "evaluate", spec, known, title)


@contextlib.contextmanager
def _blamed(kind: str, spec: str, title: str) -> Iterator[None]:
    """Run a hook: what it raises is said to be its failure."""
    try:
        with _at_work(f"the {kind} hook {spec!r} (on {title})"), _its_folder(spec), torch.inference_mode(False):
            yield
    except (Exception, SystemExit) as error:
        raise HookError(f"the {kind} hook {spec!r} failed on {title}: {_shown(error)}") from error


def _changed(
    result: object, kind: str, spec: str, state: Mapping[str, torch.Tensor], title: str
) -> dict[str, torch.Tensor]:
    """Return the tensors of an answer that are others than before, in the types that the file has."""
    if not isinstance(result, Mapping):
        raise HookError(
            f"the {kind} hook {spec!r} returned a {type(result).__name__} on {title}: expected tensors by name"
        )
    changed = {}
    for name, tensor in result.items():
        before = state.get(name)
        if not isinstance(tensor, torch.Tensor) or before is None or before.shape != tensor.shape:
            held = "no such tensor" if before is None else f"one of shape {tuple(before.shape)}"
            shape = tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise HookError(
                f"the {kind} hook {spec!r} returned {str(name)[:80]!r} ({shape}) on {title}, whose weights have {held}"
            )
        value = tensor.detach().cpu().to(before.dtype)
        if not torch.equal(value, before):
            changed[name] = value
    return changed


def _number(value: Any) -> float | None:
    try:
        return float(value.detach() if isinstance(value, torch.Tensor) else value)
    except OverflowError:  # a whole number that no float can hold
        return math.inf
    except (TypeError, ValueError, RuntimeError):
        return None
