"""Links for references in docstrings: ``:func:`fit_map` `` leads to the entry of fit_map, if the reference has one."""

from __future__ import annotations

import re
from pathlib import Path

import griffe

API = Path(__file__).parents[1] / "reference" / "api"
_ROLE = re.compile(r":(?:func|meth|class|attr|mod|data|exc):`~?([\w.]+)`")


def public_paths() -> dict[str, str]:
    """Return each public name with the full name under which its page lists it."""
    listed = (
        re.findall(r"^::: (epsopt\.\w+\.(\w+))$", page.read_text("utf-8"), re.MULTILINE) for page in API.glob("*.md")
    )
    return {name: path for found in listed for path, name in found}


class Roles(griffe.Extension):
    """Turns Sphinx roles in docstrings into links of MkDocs; what has no entry becomes plain code."""

    def __init__(self) -> None:
        self._public = public_paths()

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rewrite one docstring."""
        if obj.docstring is None:
            return
        owner = obj if obj.is_class else obj.parent
        obj.docstring.value = _ROLE.sub(lambda match: self._link(match[1], owner), obj.docstring.value)

    def _link(self, target: str, owner: griffe.Object | griffe.Alias | None) -> str:
        parts = target.split(".")
        for i, part in enumerate(parts):
            if part in self._public:  # Space, Space.accepts, epsopt.optimize.space.Space.accepts
                return _reference(".".join([self._public[part], *parts[i + 1 :]]), ".".join(parts[i:]))
        if owner is not None and owner.is_class and owner.name in self._public:  # accepts
            return _reference(f"{self._public[owner.name]}.{target}", target)
        return f"`{target}`"


def _reference(path: str, shown: str) -> str:
    return f'<autoref identifier="{path}" optional><code>{shown}</code></autoref>'
