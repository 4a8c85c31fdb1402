"""Attacks beside good weights: whatever a pickle names stands as a name, and what it would call is not called."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import os
import pickle
import time
import zipfile
from pathlib import Path

import pytest
import torch

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.layouts.open_checkpoint import load_weights
from epsopt.zoo.reading.foreign_objects import recovered
from epsopt.zoo.reading.unpickler import InertUnpickler, RefusedGlobalError

from .attacks import ATTACKS, call, entry, name, text, whole


def unpickled(data: bytes):
    return recovered(InertUnpickler(data, lambda _key: None).load())


def beside_weights(folder: Path, value: bytes) -> Path:
    """Write a checkpoint with plain weights, and a value, assembled opcode by opcode, under "config"."""
    file = io.BytesIO()
    torch.save({"model": {"w": torch.eye(3)}, "config": 12345}, file)
    path = folder / "a.pt"
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(path, "w") as target:
        for record in source.infolist():
            content = source.read(record)
            if record.filename.endswith("/data.pkl"):
                assert content.count(b"M90") == 1  # 12345
                content = content.replace(b"M90", value)
            target.writestr(zipfile.ZipInfo(record.filename, (1980, 1, 1, 0, 0, 0)), content)
    return path


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_beside_good_weights_runs_nothing(tmp_path, monkeypatch, attack):
    monkeypatch.setenv("EPSOPT_CANARY", str(tmp_path / "fired"))
    body = ATTACKS[attack][2:-1]
    path = beside_weights(tmp_path, body)
    with contextlib.suppress(UnreadableCheckpoint):
        assert list(load_weights(path)) == ["w"]
    assert not (tmp_path / "fired").exists()


@pytest.mark.parametrize("attack", ["os-system", "exec", "subprocess", "getattr", "pickle-within", "storage-within"])
def test_a_call_of_code_is_refused_by_its_name(tmp_path, attack):
    with pytest.raises(UnreadableCheckpoint, match=r"refers to [\w.]+, which is code"):
        load_weights(beside_weights(tmp_path, ATTACKS[attack][2:-1]))


def test_a_function_that_is_only_named_is_data(tmp_path):
    path = beside_weights(tmp_path, name("os", "system"))
    assert list(load_weights(path)) == ["w"]
    assert unpickled(whole(name("os", "system"))) == "<os.system>"


@pytest.mark.parametrize(
    "body",
    [
        call("datetime", "__setattr__", text("datetime"), text("x")),
        call("datetime", "sys"),
        call("operator", "methodcaller", text("system"), text("true")),
        call("operator", "attrgetter", text("__class__")),
        call("copyreg", "_reconstructor", name("os", "system"), name("builtins", "object"), b"N"),
        call("functools", "partial", name("os", "system")),
        call("functools", "reduce", name("os", "system"), b"]" + text("true") + b"a"),
        call("types", "FunctionType", text("x")),
        call("typing", "get_type_hints", text("x")),
        call("builtins", "getattr", name("os", "system"), text("__globals__")),
        call("builtins", "type", text("X"), b")", b"}"),
        name("builtins", "dict") + b")\x81}" + text("__class__") + name("os", "system") + b"sb",
        call("collections", "OrderedDict") + b"}" + text("items") + text("x") + b"sb",
        call("torch.nn", "Module"),
        call("numpy", "load", text("/etc/passwd")),
        call("numpy.testing._private.utils", "runstring", text("import os"), b"}"),
    ],
)
def test_calls_that_put_data_together_are_noted_and_not_made(tmp_path, body, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = dict(vars(dt))
    unpickled(whole(body))
    assert vars(dt) == before
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_imported_for_a_name(tmp_path, monkeypatch):
    (tmp_path / "loud.py").write_text(f"open({str(tmp_path / 'fired')!r}, 'w').write('fired')")
    monkeypatch.syspath_prepend(tmp_path)
    for body in (name("loud", "X"), call("loud", "X"), name("loud", "X") + b")\x81", name("torch.loud", "X")):
        unpickled(whole(body))
    assert not (tmp_path / "fired").exists()


@pytest.mark.parametrize(
    "body",
    [
        call("builtins", "bytes", b"J\xff\xff\xff\x7f"),
        call("builtins", "bytearray", b"J\xff\xff\xff\x7f"),
        call("_codecs", "encode", text("x"), text("idna")),
        b"\x82\x01",  # an extension of the registry
        b"]q\x00}b",  # a state for a list
        name("os", "system") + b"}b",  # a state for a name
        b"N)R",  # a call of None
        b"N)\x81",
        b"K\x01a",
        b"(K\x01K\x02t]a",
        b"]}" + text("a") + b"K\x01s" * 2,
        b"\x97",  # a buffer from outside
        b"Q",
        b"(NQ",
        b"(" + text("storage") + b"NNNNtQ",
    ],
)
def test_bombs_and_nonsense_end_at_once(body):
    before = time.monotonic()
    with pytest.raises((pickle.UnpicklingError, RefusedGlobalError, IndexError, TypeError, ValueError, EOFError)):
        unpickled(whole(body))
    assert time.monotonic() - before < 60


def test_a_lattice_of_tuples_as_a_shape_is_refused_without_being_written_out():
    nest: object = (1,)
    for _ in range(60):
        nest = (nest, nest)

    class Evil:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (None, 0, nest, nest, False, {})

    file = io.BytesIO()
    pickle.Pickler(file, 2).dump(Evil())
    with pytest.raises(pickle.UnpicklingError):
        InertUnpickler(file.getvalue(), lambda _key: None).load()


def test_an_entry_of_an_attack_is_no_weight(tmp_path):
    path = beside_weights(tmp_path, entry("lr", ATTACKS["exec"][2:-1]))
    with pytest.raises(UnreadableCheckpoint, match=r"refers to builtins.exec"):
        load_weights(path)
    assert os.path.exists(path)  # noqa: PTH110
