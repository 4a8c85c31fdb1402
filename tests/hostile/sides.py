"""Files beside a checkpoint, written by somebody who means harm, or by YAML itself."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from .attacks import SHELL

LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
MERGES = "m0: &m0 {a: 1, b: 2, c: 3, d: 4}\n" + "".join(
    f"m{i}: &m{i}\n  <<: [{', '.join([f'*m{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
GROWING = "a0: xxxxxxxxxxxxxxxxxxxx\n" + "".join(f"a{i}: ${{a{i - 1}}}${{a{i - 1}}}\n" for i in range(1, 60))


def wandb_record(kind: int, piece: bytes) -> bytes:
    return struct.pack("<IHB", zlib.crc32(piece, zlib.crc32(bytes([kind]))), len(piece), kind) + piece


WANDB = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
EVENTS = struct.pack("<Q", 24) + b"\0\0\0\0" + b"\x09\0\0\0\0\0\0\xf8\x3f\x1a\x0dbrain.Event:2" + b"\0\0\0\0"

FAILURES: dict[str, tuple[str, bytes, str]] = {
    "a key twice": ("config.yaml", b"lr: 0.1\nlr: 0.2\n", 'duplicate key "lr" in line 2'),
    "billion laughs": ("config.yaml", LAUGHS.encode(), "unfold into"),
    "merges of merges": ("config.yaml", MERGES.encode(), "merge keys unfold into more than"),
    "a list in itself": ("config.yaml", b"a: &a [*a]\n", "contains itself"),
    "an alias of nothing": ("config.yaml", b"a: *b\n", "undefined alias"),
    "deep lists": ("config.yaml", b"a: " + b"[" * 5_000, "nested deeper"),
    "deep blocks": ("config.yaml", b"- " * 5_000 + b"x\n", "nested deeper"),
    "another encoding": ("config.yaml", "lr: 0.1\n".encode("utf-16"), "not UTF-8"),
    "latin letters": ("config.yaml", "name: größe\n".encode("latin-1"), "not UTF-8"),
    "control characters": ("config.yaml", b"a: \x00\x07\n", "not valid YAML"),
    "no YAML at all": ("config.yaml", b"{]", "not valid YAML"),
    "two documents": ("config.yaml", b"a: 1\n---\nb: 2\n", "not valid YAML"),
    "an endless number": ("config.yaml", b"seed: " + b"9" * 100_000 + b"\n", "not valid YAML"),
    "a megabyte": ("config.yaml", b"a: b\n" * 300_000, "more than the 1,048,576"),
    "JSON with a key twice": ("config.json", b'{"lr": 1, "lr": 2}', "stands twice"),
    "deep JSON": ("config.json", b"[" * 200_000, "nested deeper"),
    "an endless number in JSON": ("config.json", b'{"a": ' + b"9" * 100_000 + b"}", "not valid JSON"),
    "cut JSON": ("metrics.json", b'{"acc": 0.', "not valid JSON"),
    "a quote without end": ("metrics.csv", b'epoch,acc\n1,"' + b"x" * 200_000 + b"\n", "not valid CSV"),
    "a column twice": ("metrics.csv", b"epoch,acc,acc\n1,2,3\n", "stands twice"),
    "too many cells": ("metrics.csv", b"a,b\n" + b",".join([b"1"] * 5_000_001), "more than 5,000,000 cells"),
    "no JSON in a line": ("metrics.jsonl", b'{"epoch": 1}\nnonsense\n', "line 2 is not valid JSON"),
    "a Trainer's state cut": ("trainer_state.json", b'{"log_history": [', "not valid JSON"),
    "a database of zeros": ("mlflow.db", bytes(4096), "not a database"),
    "no events": ("e.tfevents.1", b"hello", "not an event file"),
    "a wrong checksum": (
        "wandb/run-20260101_000000-a/a.wandb",
        WANDB + b"\0\0\0\1" + wandb_record(1, b"x")[4:] + bytes(40),
        "the checksum of the record before byte 15 is wrong",
    ),
    "no message": ("wandb/run-20260101_000000-a/a.wandb", WANDB + wandb_record(1, b"\x12\xff\xff\x01"), "damaged"),
    "a JSON that is none": (
        "wandb/run-20260101_000000-a/a.wandb",
        WANDB + wandb_record(1, b"\x2a\x0b\x0a\x09\x0a\x01a\x82\x01\x03{{{"),
        "damaged",
    ),
}
"""By what it is: the file, its content, and a part of the sentence that names it."""

METADATA: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "YAML 1.1": (
        "config.yaml",
        b"lr: 1e-3\nflag: no\nanswer: yes\ntime: 1:30\nold: 017\nunder: 1_000\nday: 2026-01-01\nvalue: =\ninf: .inf\n",
        {"lr": 0.001, "flag": "no", "answer": "yes", "time": "1:30", "old": 17, "day": "2026-01-01", "value": "="},
    ),
    "python objects": (
        "config.yaml",
        b"a: !!python/object/apply:os.system [%s]\nb: !!python/tuple [1, 2]\nc: !!python/name:os.system ''\nlr: 1\n"
        % json.dumps(SHELL).encode(),
        {"b": "[1, 2]", "c": "<os.system>", "lr": 1},
    ),
    "shared parts": ("config.yaml", b"a: &x {lr: 1}\nb: *x\nc: {<<: *x, wd: 2}\n", {"b.lr": 1, "c.lr": 1, "c.wd": 2}),
    "texts that double": (".hydra/config.yaml", GROWING.encode(), {"a0": "x" * 20}),
    "references in a ring": (
        ".hydra/config.yaml",
        b"a: ${b}\nb: ${a}\nc: ${oc.env:HOME}\nd: ${nothing}\n",
        {"c": "${oc.env:HOME}", "d": "${nothing}"},
    ),
    # What claims more than the file holds is where a killed run's log ends.
    "an event of an exabyte": ("e.tfevents.1", EVENTS[:37] + struct.pack("<Q", 2**60) + bytes(100), {"lr": None}),
    "a record past the end": (
        "wandb/run-20260101_000000-a/a.wandb",
        WANDB + wandb_record(1, b"\x2a\x0a\x0a\x08\x0a\x02lr\x82\x01\x010") + bytes([1]) * 20,
        {"lr": 0},
    ),
    "names of the terminal": ("config.json", b'{"\\u001b[2J": "\\u0000x", "lr": 1}', {"lr": 1, "\x1b[2J": "\\x00x"}),
}
"""By what it is: the file, its content, and what is known afterwards."""


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
