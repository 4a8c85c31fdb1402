"""How hooks are named, for whoever imports them and for who only looks whether they are there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def hook_parts(spec: str, kind: str) -> tuple[str, str, str]:
    """Take the name of a hook apart.

    Args:
        spec: ``package.module:function``, or ``package.module:key=value;key=value`` for the module's function of the
            hook's kind with these keyword arguments.
        kind: which hook it is: the name of its function where options are given.

    Returns:
        The module, the function, and the options as they are written; empty texts for what is not there.
    """
    module, _, name = spec.partition(":")
    return (module, kind, name) if "=" in name else (module, name, "")


def no_such_function(spec: str, kind: str, names: Iterable[str]) -> str:
    """Say that a hook's module lacks its function, and which one may be meant.

    Args:
        spec: of the hook, with a module and a function.
        kind: which hook it is.
        names: that the module has.
    """
    module, wanted, _ = hook_parts(spec, kind)
    close = difflib.get_close_matches(wanted, [n for n in names if not n.startswith("_")], n=1)
    hint = f"did you mean {close[0]}?" if close else "expected one of its functions"
    return f"the {kind} hook {spec!r}: the module {module} has no {wanted!r}, {hint}"
