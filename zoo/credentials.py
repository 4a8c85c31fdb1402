"""Passwords and keys never leave in what is printed, kept or sent: one function hides them in any text.

It rather hides too much than too little: what may be a password, because a URL is malformed, is hidden too.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

MASK = "***"

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*:/{1,3})(?=[^/\s])(\S*)")
_ONE_URL = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.\-]*:/{1,3})(.*)", re.DOTALL)
_FILES = re.compile(r"sqlite|file|duckdb", re.IGNORECASE)  # whose URLs are paths: no user, no password
_DATABASES = re.compile(
    r"postgres|mysql|mariadb|oracle|mssql|redis|mongodb|cockroach|snowflake|redshift|trino|amqp", re.IGNORECASE
)
_WEB = re.compile(r"https?:|git", re.IGNORECASE)  # a token may stand there without a colon
_SECRET = re.compile(
    r"pass(word|wd|phrase)?$|pwd$|secret|token|api[_-]?key|access[_-]?key|account[_-]?key|private[_-]?key"
    r"|^sig(nature)?$|signature$|credential|^auth$|^key$|^odbc_connect$",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r"(?<=[?&])([^=&\s?]+)=(?=([^&\s]*))")  # one may begin in the value of another
_ONE_PARAMETER = re.compile(r"(?<=[?&])([^=&?]+)=(?=([^&]*))")
_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_NAME = r"[\w.\-]*(?:password|passwd|passphrase|pwd|secret|api_?key|access_?key)[\w.\-]*"
_SETTING = re.compile(  # as in a connection string, or where a mapping is printed
    rf"(\b{_NAME}\s*=\s*|(['\"]){_NAME}\2\s*:\s*)({_QUOTED}|[^\s&]+)", re.IGNORECASE
)
_QUERY = re.compile(r"\?[\w.\-%]+=")
_PORT = re.compile(r"\d{0,5}[.,:;'\")\]}]*(/|$)")
_PAIR = re.compile(r"^([^\s:@/]*):(.*)@", re.DOTALL)


def masked(text: str, *urls: str) -> str:
    """Return a text with ``***`` in place of passwords and keys.

    Hidden are the password of ``scheme://user:password@host``, query parameters and settings whose names say that they
    are secret (``?sslpassword=``, ``password=``, ``X-Amz-Signature=``), and what stands where a password would in a URL
    that is malformed.

    Args:
        text: a message, or a URL.
        urls: URLs that the message is about; their passwords are hidden wherever else they stand as well.
    """
    for secret in sorted({s for url in urls for s in _secrets(url)}, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    text = _parameters_hidden(_PARAMETER, text)
    text = _URL.sub(lambda found: found[1] + _authority(found[1], found[2]), text)
    return _SETTING.sub(lambda found: found[0] if MASK in found[3] else found[1] + MASK, text)


def masked_url(url: str) -> str:
    """Return a URL, or what was meant as one, without its password, which may hold spaces."""
    shown = _parameters_hidden(_ONE_PARAMETER, url)
    found = _ONE_URL.match(shown)
    shown = _PAIR.sub(rf"\1:{MASK}@", shown) if found is None else found[1] + _authority(found[1], found[2])
    return masked(shown)


def has_credentials(url: str) -> bool:
    """Whether a URL holds a password or a key."""
    return masked_url(url) != url


def _authority(scheme: str, rest: str) -> str:
    """Hide the password in what follows ``scheme://``: up to the last ``@``, as a malformed one may hold others."""
    if _FILES.match(scheme):
        return rest
    database = _DATABASES.match(scheme) is not None
    start = _QUERY.search(rest, rest.rindex("@") if database and "@" in rest else 0)
    before, query = (rest, "") if start is None else (rest[: start.start()], rest[start.start() :])
    if "@" in query and "@" not in before:  # the query stands in the password
        before, query = rest, ""
    user, at, host = before.rpartition("@")
    name, colon, after = (user if at else before).partition(":")
    behind_host = "/" in name or re.match(r"\d{1,5}/", after) is not None
    if at and behind_host and not database:  # the @ stands in a path
        return rest
    if at and colon:
        return f"{name}:{MASK}@{host}{query}"
    if at:
        return f"{MASK}@{host}{query}" if _WEB.match(scheme) else rest
    if not colon or "/" in name or name.startswith("[") or _PORT.match(after):
        return rest
    tail = "" if database else after[len(after.partition("/")[0]) :]  # no port: a password, and no host
    return f"{name}:{MASK}{tail}{query}"


def _parameters_hidden(pattern: re.Pattern[str], text: str) -> str:
    for found in reversed(list(pattern.finditer(text))):
        if _is_secret(found[1]) and found[2]:
            text = text[: found.end()] + MASK + text[found.end() + len(found[2]) :]
    return text


def _is_secret(name: str) -> bool:
    return _SECRET.search(unquote(name).strip()) is not None


def _secrets(url: str) -> set[str]:
    """What a URL holds that must not be seen, as it is written and as it is meant."""
    scheme, mark, rest = url.partition("://")
    found = set()
    if mark and not _FILES.match(scheme):
        user, at, _ = rest.rpartition("@")
        if at and ":" in user:
            found.add(user.partition(":")[2])
            found.add(rest.partition("@")[0].partition(":")[2])  # as SQLAlchemy reads it
    found |= {match[2] for match in _ONE_PARAMETER.finditer(rest) if _is_secret(match[1])}
    every = {form for secret in found for form in (secret, unquote(secret), quote(unquote(secret), safe=""))}
    return {form for form in every if form and form != MASK}
