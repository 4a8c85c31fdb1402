"""Fifteen pickles that run a program when they are loaded without care: the canaries of the corpus.

Each is assembled opcode by opcode, so that it is the same under every version of Python, and does one thing: it writes
to the file that the environment variable EPSOPT_CANARY names. Without that variable it does nothing.
"""

from __future__ import annotations

import struct

CODE = "import os;p=os.environ.get('EPSOPT_CANARY');p and open(p,'a').write('fired\\n')"
SHELL = '[ -z "$EPSOPT_CANARY" ] || echo fired >> "$EPSOPT_CANARY"'


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    """GLOBAL, a tuple of arguments, REDUCE."""
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def whole(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


def entry(key: str, value: bytes) -> bytes:
    """A dictionary of one entry, as a checkpoint hides it among others."""
    return b"}" + text(key) + value + b"s"


_SYSTEM = call("os", "system", text(SHELL))
_IMPORTED = call("builtins", "__import__", text("os"))
_EXEC = call("builtins", "exec", text(CODE))
_SHELL_ARGUMENTS = b"]" + text("sh") + b"a" + text("-c") + b"a" + text(SHELL) + b"a"
_INNER = b"B" + struct.pack("<I", len(whole(_EXEC))) + whole(_EXEC)  # a pickle within the pickle, as bytes

ATTACKS: dict[str, bytes] = {
    "os-system": whole(_SYSTEM),
    "posix-system": whole(call("posix", "system", text(SHELL))),
    "exec": whole(_EXEC),
    "eval": whole(call("builtins", "eval", text(f"exec({CODE!r})"))),
    "subprocess": whole(call("subprocess", "check_output", _SHELL_ARGUMENTS)),
    "stack-global": whole(b"\x8c\x08builtins\x8c\x04exec\x93(" + text(CODE) + b"tR", 4),
    "inst": whole(b"(" + text(CODE) + b"ibuiltins\nexec\n"),
    "obj": whole(b"(" + name("builtins", "exec") + text(CODE) + b"o"),
    "newobj": whole(name("subprocess", "Popen") + b"(" + _SHELL_ARGUMENTS + b"t\x81" + _EXEC + b"0"),
    "getattr": whole(call("builtins", "getattr", _IMPORTED, text("system")) + b"(" + text(SHELL) + b"tR"),
    "in-config": whole(entry("config", entry("lr", _SYSTEM))),
    "in-metrics": whole(entry("metrics", entry("coverage", _EXEC))),
    "as-tensor-argument": whole(entry("model", entry("w", call("torch._utils", "_rebuild_tensor_v2", _EXEC)))),
    "pickle-within": whole(call("pickle", "loads", _INNER)),
    "storage-within": whole(call("torch.storage", "_load_from_bytes", _INNER)),
}  # fmt: skip
