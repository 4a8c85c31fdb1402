"""The 200 mutants: made from the committed seeds and their own names alone, so they are the same bytes everywhere."""

from __future__ import annotations

import hashlib
import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .attacks import ATTACKS

SEEDS = Path(__file__).parent / "seeds"
MANIFEST = Path(__file__).parent / "manifest.txt"

FAMILIES = {
    "zip-flip": 30,
    "zip-cut": 15,
    "zip-opcode": 15,
    "zip-canary": 15,
    "legacy-flip": 30,
    "legacy-cut": 15,
    "legacy-opcode": 15,
    "legacy-canary": 15,
    "safetensors-flip": 25,
    "safetensors-cut": 10,
    "safetensors-header": 15,
}


def seed(form: str) -> bytes:
    """The intact checkpoint of one format: zip, legacy or safetensors."""
    file = {"zip": "zip.pt", "legacy": "legacy.pt", "safetensors": "plain.safetensors"}[form]
    return (SEEDS / file).read_bytes()


def form_of(name: str) -> str:
    """The format that a mutant was made from."""
    return name.partition("-")[0]


def draw(name: str, bound: int) -> int:
    """A number below `bound` that only the name decides: no library's generator can change it."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % bound


def flip(data: bytes, name: str) -> bytes:
    bit = draw(name, 8 * len(data))
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def cut(data: bytes, name: str, index: int, count: int) -> bytes:
    """End somewhere in the index-th of `count` equal parts: no two cuts are alike."""
    part = (len(data) - 1) // count
    return data[: 1 + index * part + draw(name, part)]


# Opcodes without arguments: one in the place of another keeps the rest of the pickle in step.
SWAPPED = b"()]}tuades0R12N\x81\x85\x86\x87\x88\x89\x8fbQ"


def swap(pickle: bytes, name: str) -> bytes:
    places = [at for op, _, at in pickletools.genops(pickle) if at is not None and ord(op.code) in SWAPPED]
    at = places[draw(name, len(places))]
    others = bytes(code for code in SWAPPED if code != pickle[at])
    return pickle[:at] + bytes([others[draw(name + "?", len(others))]]) + pickle[at + 1 :]


def repacked(data: bytes, pickle: Callable[[bytes], bytes]) -> bytes:
    """The zip seed with another data.pkl, checksums right: an attacker's file, not an accident."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for record in source.infolist():
            content = source.read(record)
            if record.filename.endswith("/data.pkl"):
                content = pickle(content)
            target.writestr(zipfile.ZipInfo(record.filename, (1980, 1, 1, 0, 0, 0)), content)
    return out.getvalue()


def legacy_parts(data: bytes) -> list[bytes]:
    """The older format: five pickles (magic number, protocol, system, checkpoint, storage keys), then the values."""
    file, parts = io.BytesIO(data), []
    for _ in range(5):
        start = file.tell()
        for _op in pickletools.genops(file):
            pass
        parts.append(data[start : file.tell()])
    return [*parts, data[file.tell() :]]


def legacy(data: bytes, which: int, pickle: Callable[[bytes], bytes]) -> bytes:
    parts = legacy_parts(data)
    parts[which] = pickle(parts[which])
    return b"".join(parts)


def canary(form: str, index: int, name: str) -> bytes:
    attack = list(ATTACKS.values())[index]
    if index % 5 == 4:  # a bare pickle; its protocol tells the two apart
        return attack[:1] + (b"\x02" if form == "zip" else b"\x03") + attack[2:]
    if form == "zip":
        return repacked(seed("zip"), lambda _: attack)
    return legacy(seed("legacy"), (0, 3, 4)[draw(name, 3)], lambda _: attack)


def header(index: int) -> bytes:
    """A safetensors file whose header lies in one of fifteen ways."""
    data = seed("safetensors")
    (length,) = struct.unpack("<Q", data[:8])
    said, values = data[8 : 8 + length], data[8 + length :]
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    lies: list[bytes] = [
        b"[" * 5_000,
        b"[1, 2]",
        said.rstrip()[:-3],
        said.replace(b"F32", b"F64"),
        said.replace(b"F32", b"XXX"),
        said.replace(b'"shape":[8,6]', b'"shape":[9,6]'),
        said.replace(b'"shape":[8,6]', b'"shape":[-8,-6]'),
        json.dumps({"w": {**tensor, "shape": [2**62, 4]}}).encode(),
        json.dumps({"w": {**tensor, "data_offsets": [8, 0]}}).encode(),
        json.dumps({"w": {**tensor, "data_offsets": [-8, 0]}}).encode(),
        json.dumps({"w": tensor, "v": {**tensor, "data_offsets": [4, 12]}}).encode(),
        b'{"w":' + json.dumps(tensor).encode() + b',"w":' + json.dumps(tensor).encode() + b"}",
        json.dumps({"w": "a tensor"}).encode(),
    ]
    if index < len(lies):
        return struct.pack("<Q", len(lies[index])) + lies[index] + values
    if index == len(lies):
        return struct.pack("<Q", 2**63) + said + values
    return ATTACKS["exec"]  # a pickle that calls itself safetensors


def mutant(family: str, index: int) -> tuple[str, bytes]:
    """The file name and the content of one mutant."""
    form, _, kind = family.partition("-")
    name = f"{family}-{index:03d}" + (".safetensors" if form == "safetensors" else ".pt")
    if kind == "flip":
        return name, flip(seed(form), name)
    if kind == "cut":
        return name, cut(seed(form), name, index, FAMILIES[family])
    if kind == "header":
        return name, header(index)
    if kind == "canary":
        return name, canary(form, index, name)
    if form == "zip":
        return name, repacked(seed("zip"), lambda pickle: swap(pickle, name))
    return name, legacy(seed("legacy"), 3, lambda pickle: swap(pickle, name))


def mutants() -> Iterator[tuple[str, bytes]]:
    """All of them, in the order of their families."""
    for family, count in FAMILIES.items():
        for index in range(count):
            yield mutant(family, index)


def truncations(count: int = 188) -> Iterator[tuple[str, bytes]]:
    """Cuts of the three seeds at places spread evenly from one byte to all but one."""
    forms = ("zip", "legacy", "safetensors")
    for i, form in enumerate(forms):
        data = seed(form)
        share = count // 3 + (i < count % 3)
        suffix = ".safetensors" if form == "safetensors" else ".pt"
        for k in range(share):
            length = 1 + k * (len(data) - 2) // (share - 1)
            yield f"{form}-{length:04d}{suffix}", data[:length]


def manifest() -> str:
    """One line a mutant: its SHA-256 and name."""
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in mutants())
