"""Decoded weights are the merge that was asked for, in files that every reader takes, with memory bounded."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epsopt.zoo import ingest, load_weights
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.parents import weighted_sum
from epsopt.zoo.decoding.provenance import Provenance, labels
from epsopt.zoo.decoding.recombination import Parent, Recombination, is_recombined, recombination
from epsopt.zoo.errors import EpsoptError, HookError, UsageError

from ...sweeps import examples  # noqa: TID252
from ..conftest import BASE, state_dict  # noqa: TID252

HOOK = """
import torch
def evaluate(state):
    assert list(state) == ["a.weight", "a.bias", "b.weight", "b.bias"], list(state)
    return {"mean": float(state["a.weight"].mean()), "nothing": float("nan")}
def broken(state):
    raise ValueError("no such layer")
def silly(state):
    return {"mean": "high"}
"""


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hooks")
    (folder / "some_hooks.py").write_text(HOOK)
    sys.path.insert(0, str(folder))
    with WeightDecoder("some_hooks:evaluate") as opened:
        yield opened
    sys.path.remove(str(folder))


@pytest.fixture
def parents(runs, catalogue) -> list[Checkpoint]:
    assert not ingest(catalogue, runs, jobs=1).failed
    return catalogue.checkpoints()


def mean_of(parents, coefficients):
    weights = [load_weights(p.path) for p in parents]
    return {n: sum(c * w[n].double() for c, w in zip(coefficients, weights, strict=True)) for n in weights[0]}


def test_decoded_weights_are_the_merge(decoder, parents):
    coefficients = [0.5, 0.7, -0.2]
    decoded = decoder.decode(recombination(parents[:3], [coefficients]))
    found = load_weights(decoded.path)
    assert list(found) == list(BASE)  # the order of the state dict, not of the file
    for name, wanted in mean_of(parents[:3], coefficients).items():
        torch.testing.assert_close(found[name].double(), wanted, rtol=1e-6, atol=1e-6)


def test_groups_of_tensors_have_coefficients_of_their_own(decoder, parents):
    decoded = decoder.decode(recombination(parents[:2], [[0.25, 0.75], [1.0, 0.0]], ["a.*"]))
    found, quarter = load_weights(decoded.path), mean_of(parents[:2], [0.25, 0.75])
    torch.testing.assert_close(found["a.bias"].double(), quarter["a.bias"], rtol=1e-6, atol=1e-6)
    assert torch.equal(found["b.weight"], load_weights(parents[0].path)["b.weight"])


class Held:
    """Stands in for an open file: gives tensors that are in memory."""

    def __init__(self, tensor):
        self.tensor = tensor

    def read(self, name):
        return self.tensor.clone()


@settings(max_examples=examples(40), deadline=None)
@given(
    st.integers(1, 5), st.integers(0, 2**16), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), st.data()
)
def test_mixing_agrees_with_its_definition(k, seed, dtype, data):
    g = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(3, 5, generator=g).to(dtype) for _ in range(k)]
    raw = [data.draw(st.floats(-1.0, 2.0)) for _ in range(k - 1)]
    coefficients = [*raw, 1.0 - sum(raw)]
    held = [Held(t) for t in tensors]
    mixed = weighted_sum("w", list(zip(held, coefficients, strict=True)))
    assert mixed.dtype == dtype
    wanted = sum(c * t.double() for c, t in zip(coefficients, tensors, strict=True))
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(mixed.double(), wanted, rtol=tolerance, atol=tolerance)


def test_what_parents_share_and_a_parent_alone_come_out_bit_by_bit():
    shared, other = torch.randn(7), torch.randn(7)
    same = [(Held(shared), c) for c in (0.41, 0.33, 0.26)]
    assert torch.equal(weighted_sum("w", same), shared)
    alone = [(Held(other), 1.0), (Held(shared), 0.0)]
    assert torch.equal(weighted_sum("w", alone), other)
    counters = [(Held(t), c) for t, c in ((torch.tensor(7), 0.6), (torch.tensor(9), 0.4))]
    assert int(weighted_sum("w", counters)) == 7


def test_saved_checkpoints_load_everywhere_and_say_where_they_come_from(decoder, parents, tmp_path):
    decoded = decoder.decode(recombination(parents[:2], [[0.5, 0.5]]))
    measured = decoder.measure(decoded)
    predicted = {"coverage": {"value": 0.5, "low": 0.4, "high": 0.6}}
    origin = Provenance("merge", predicted, measured, decoder.hook, labels(parents))
    out = tmp_path / "new" / "folder"
    old = os.umask(0o022)
    try:
        for suffix in (".safetensors", ".pt"):
            decoder.save(decoded, out / f"m{suffix}", origin)
    finally:
        os.umask(old)
    assert {stat.S_IMODE(p.stat().st_mode) for p in out.iterdir()} == {0o644}
    wanted = load_weights(decoded.path)
    assert all(torch.equal(v, wanted[k]) for k, v in safetensors.torch.load_file(out / "m.safetensors").items())
    content = torch.load(out / "m.pt", weights_only=True)
    assert list(content["model_state_dict"]) == list(BASE)
    assert all(torch.equal(v, wanted[k]) for k, v in content["model_state_dict"].items())
    # What parents agree on stays, what they do not is gone, and nothing predicted passes for measured.
    assert content["config"] == {"lr": 0.1, "recombined": True}
    assert content["metrics"] == {"mean": pytest.approx(float(wanted["a.weight"].mean()))}
    with safetensors.safe_open(out / "m.safetensors", "pt") as file:
        record = json.loads(file.metadata()["epsopt"])
    assert record == content["epsopt"]
    assert [(p["path"], p["sha256"], p["coefficients"]) for p in record["parents"]] == [
        (p.path, p.sha256, [0.5]) for p in parents[:2]
    ]
    assert record["predicted"] == predicted
    assert record["measured"] == measured
    assert record["measured"]["nothing"] is None


def test_bare_state_dicts_stay_bare_and_their_origin_lies_beside_them(decoder, tmp_path):
    parents = []
    for k in range(2):
        path = tmp_path / f"bare_{k}.pt"
        torch.save({f"module.{n}": t for n, t in state_dict(k, BASE).items()}, path)
        parents.append(Parent(str(path), hashlib.sha256(path.read_bytes()).hexdigest()))
    decoded = decoder.decode(Recombination(tuple(parents), ((0.5, 0.5),)))
    assert list(decoded.types) == list(BASE)
    decoder.save(decoded, tmp_path / "new.pt", Provenance("merge", None, {"coverage": 0.5}))
    found = torch.load(tmp_path / "new.pt", weights_only=True)
    assert list(found) == [f"module.{n}" for n in BASE]
    beside = json.loads((tmp_path / "new.json").read_text())
    assert beside["metrics"] == {"coverage": 0.5}
    assert [p["path"] for p in beside["epsopt"]["parents"]] == [p.path for p in parents]


def test_saved_checkpoints_are_ingested_into_their_parents_lineage(decoder, parents, runs, catalogue):
    decoded = decoder.decode(recombination(parents[:2], [[0.5, 0.5]]))
    decoder.save(decoded, runs / "merged" / "m_1.pt", Provenance("merge"))
    decoder.save(decoder.decode(recombination(parents[2:], [[0.5, 0.5]])), runs / "merged" / "m_2.safetensors",
                 Provenance("merge", None, {"coverage": 0.5}))  # fmt: skip
    assert not ingest(catalogue, runs, jobs=1).failed
    merged = [c for c in catalogue.checkpoints() if c.run == "merged"]
    assert [is_recombined(c) for c in catalogue.checkpoints()] == [c.run == "merged" for c in catalogue.checkpoints()]
    assert {c.lineage_id for c in merged} == {parents[0].lineage_id}
    assert {c.signature for c in merged} == {parents[0].signature}
    assert [c.metrics for c in merged] == [{}, {"coverage": 0.5}]


def test_nothing_is_ever_written_over(decoder, parents, tmp_path):
    decoded = decoder.decode(recombination(parents[:2], [[0.5, 0.5]]))
    taken, link = tmp_path / "taken.pt", tmp_path / "link.safetensors"
    taken.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    for path in (taken, link):
        with pytest.raises(UsageError, match="is there already"):
            decoder.save(decoded, path, Provenance("merge"))
    assert taken.read_text() == "mine"
    assert link.is_symlink()
    assert not link.exists()
    with pytest.raises(UsageError, match=r"expected \.safetensors or \.pt"):
        decoder.save(decoded, tmp_path / "m.bin", Provenance("merge"))
    assert {p.name for p in tmp_path.iterdir()} >= {"taken.pt", "link.safetensors"}
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_parent_that_changed_or_is_gone_is_named(decoder, parents, save):
    changed = Path(parents[1].path)
    save(changed, 999)
    with pytest.raises(EpsoptError, match="is not what was ingested") as error:
        decoder.decode(recombination(parents[:2], [[0.5, 0.5]]))
    assert str(changed) in str(error.value)
    changed.unlink()
    with pytest.raises(EpsoptError, match="not there"):
        decoder.decode(recombination(parents[:2], [[0.5, 0.5]]))


def test_a_hostile_parent_is_refused_in_the_child(decoder, parents, tmp_path):
    class Attack:
        def __reduce__(self):
            return (os.system, ("touch /tmp/epsopt-canary-decoding",))

    path = tmp_path / "attack.pt"
    torch.save({"model_state_dict": state_dict(1), "x": Attack()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    merge = Recombination((Parent(parents[0].path, parents[0].sha256), Parent(str(path), digest)), ((0.5, 0.5),))
    with pytest.raises(EpsoptError, match="refers to"):
        decoder.decode(merge)
    assert not Path("/tmp/epsopt-canary-decoding").exists()


def test_only_one_lineage_is_ever_mixed(parents):
    for other, reason in (
        (replace(parents[1], lineage_id=99), "are of two lineages: neither a base that their runs name"),
        (replace(parents[1], signature="x"), "other names or shapes"),
    ):
        with pytest.raises(UsageError, match=reason):
            recombination([parents[0], other], [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("rows", "groups", "reason"),
    [
        ([[0.5, 0.6]], [], "sum to 1.1"),
        ([[0.5, float("nan")]], [], "finite"),
        ([[1.0]], [], "columns"),
        ([[0.5, 0.5]], ["a.*"], "expected 2"),
    ],
)
def test_coefficients_that_make_no_merge_are_refused(parents, rows, groups, reason):
    with pytest.raises(UsageError, match=reason):
        recombination(parents[:2], rows, groups)


def test_a_decoder_that_rests_holds_no_process_of_the_hook_and_measures_again(parents, decoder):
    decoded = decoder.decode(recombination(parents[:1], [[1.0]]))
    with WeightDecoder(decoder.hook) as other:
        other.rest()
        before = other.measure(decoded)
        (process,) = other.measuring.processes()
        other.rest()
        assert other.measuring.processes() == []
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
        assert other.measure(decoded) == before


def test_a_hook_that_fails_is_named(parents, decoder):
    decoded = decoder.decode(recombination(parents[:1], [[1.0]]))
    for hook, reason in (
        ("some_hooks:broken", "no such layer"),
        ("some_hooks:silly", "'high'"),
        ("nowhere:x", "import"),
    ):
        with WeightDecoder(hook) as other, pytest.raises(HookError, match=reason) as error:
            other.measure(decoded)
        assert hook in str(error.value)
    with WeightDecoder() as nothing, pytest.raises(UsageError, match="evaluate hook"):
        nothing.measure(decoded)


MEASURE = """
import sys, gc
from pathlib import Path
from epsopt.zoo.decoding.worker import recombine
from epsopt.zoo.reading.source import Limits
import json
request, warm_up = (json.loads(Path(p).read_text()) for p in sys.argv[1:])
recombine(warm_up, Limits())  # what torch needs to read any file
gc.collect()
# The most that this process ever held, forgotten now: what comes is decoding's.
Path("/proc/self/clear_refs").write_text("5")
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
before = peak()
recombine(request, Limits())
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure a process's memory")
def test_memory_is_bounded_by_a_few_tensors_whatever_the_model(tmp_path):
    """Four parents of six tensors of 8 MB: 192 MB in files, and at most one tensor of each parent in memory."""
    rows, tensors, n_parents = 2_000_000, 6, 4

    def request(name: str, length: int) -> str:
        parents = []
        for k in range(n_parents):
            path = tmp_path / f"{name}{k}.pt"
            torch.save({f"t{i}.weight": torch.full((length,), float(k + i)) for i in range(tensors)}, path)
            with path.open("rb") as file:
                parents.append(Parent(str(path), hashlib.file_digest(file, "sha256").hexdigest()))
        merge = Recombination(tuple(parents), ((0.25,) * n_parents,))
        said = {"recombination": merge.to_json(), "to": str(tmp_path / f"{name}.safetensors")}
        (tmp_path / f"{name}.json").write_text(json.dumps(said))
        return str(tmp_path / f"{name}.json")

    program = [sys.executable, "-c", MEASURE, request("large", rows), request("small", 10)]
    # Freed memory goes back at once: what is measured is what is held.
    given = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(program, capture_output=True, text=True, check=True, env=given)
    assert int(done.stdout) < n_parents * rows * 4 / 1024
    found = load_weights(tmp_path / "large.safetensors", ["t5.weight"])["t5.weight"]
    assert torch.equal(found, torch.full((rows,), 6.5))
