"""Merged language models are measured by lm-evaluation-harness, as the project file says."""

from __future__ import annotations

import hashlib
import json
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest

from epsopt.hooks.lm_eval import evaluate, metrics_of
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import Parent, Recombination
from epsopt.zoo.errors import HookError
from epsopt.zoo.reading.hooks import load_hook

from ..zoo.adapters import save_adapter, save_base  # noqa: TID252

RESULTS = {
    "arc_easy": {"alias": "arc_easy", "sample_len": 200, "acc,none": 0.25, "acc_stderr,none": 0.01,
                 "acc_norm,none": 0.5, "acc_norm_stderr,none": "N/A"},
    "gsm8k": {"exact_match,strict-match": 0.125, "exact_match,flexible-extract": 0.375, "other,none": float("nan")},
}  # fmt: skip


@pytest.fixture
def harness(monkeypatch):
    """A module with the interface of lm-evaluation-harness 0.4 that writes down how it is called."""
    calls = []

    def simple_evaluate(
        model, model_args=None, tasks=None, num_fewshot=None, batch_size=None, max_batch_size=None, device=None,
        use_cache=None, cache_requests=False, rewrite_requests_cache=False, delete_requests_cache=False, limit=None,
        samples=None, bootstrap_iters=100000, check_integrity=False, write_out=False, log_samples=True,
        evaluation_tracker=None, system_instruction=None, apply_chat_template=False, fewshot_as_multiturn=True,
        gen_kwargs=None, task_manager=None, verbosity=None, predict_only=False,
    ):  # fmt: skip
        calls.append(locals())
        return {"results": RESULTS, "configs": {}}

    module = ModuleType("lm_eval")
    module.simple_evaluate = simple_evaluate
    monkeypatch.setitem(sys.modules, "lm_eval", module)
    return calls


def test_metrics_have_the_name_of_their_task_and_no_standard_errors():
    assert metrics_of(RESULTS) == {
        "arc_easy/acc": 0.25,
        "arc_easy/acc_norm": 0.5,
        "gsm8k/exact_match,strict-match": 0.125,
        "gsm8k/exact_match,flexible-extract": 0.375,
    }


def test_a_model_is_measured_as_the_options_say(harness, tmp_path):
    options = "tasks=arc_easy, gsm8k;limit=20;num_fewshot=3;batch_size=8;model_args=max_length=64,add_bos_token=True"
    hook = load_hook(f"epsopt.hooks.lm_eval:{options};device=cpu", "evaluate")
    assert hook(tmp_path, config={}, slot=0)["arc_easy/acc"] == 0.25
    (call,) = harness
    assert call["tasks"] == ["arc_easy", "gsm8k"]
    assert (call["limit"], call["num_fewshot"], call["batch_size"], call["device"]) == (20, 3, 8, "cpu")
    assert call["model_args"] == {"pretrained": str(tmp_path), "max_length": 64, "add_bos_token": True}
    assert (call["model"], call["bootstrap_iters"], call["apply_chat_template"]) == ("hf", 0, False)
    evaluate(tmp_path, config={}, slot=0, tasks="x", limit="0.5", batch_size="auto", apply_chat_template="true")
    assert (harness[1]["limit"], harness[1]["batch_size"], harness[1]["apply_chat_template"]) == (0.5, "auto", True)


def test_an_adapter_is_measured_with_its_base(harness, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    evaluate(tmp_path, config={"base_model_name_or_path": "org/base"}, slot=0, tasks="x")
    assert harness[0]["model_args"] == {"pretrained": "org/base", "peft": str(tmp_path)}
    evaluate(tmp_path, config={}, slot=0, tasks="x", base="mine", tokenizer="other")
    assert harness[1]["model_args"] == {"pretrained": "mine", "peft": str(tmp_path), "tokenizer": "other"}
    with pytest.raises(ValueError, match="names no base"):
        evaluate(tmp_path, config={}, slot=0, tasks="x")


def test_several_evaluations_at_a_time_take_a_gpu_each(harness, tmp_path, monkeypatch):
    import torch

    evaluate(tmp_path, config={}, slot=0, tasks="x")
    assert harness[0]["device"] == ("cuda:0" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for slot in (1, 2):
        evaluate(tmp_path, config={}, slot=slot, tasks="x")
    assert [call["device"] for call in harness[1:]] == ["cuda:1", "cuda:0"]


def test_without_tasks_a_sentence_says_how_to_name_them(harness, tmp_path):
    with pytest.raises(ValueError, match="tasks=arc_easy"):
        evaluate(tmp_path, config={}, slot=0, limit="5")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    base = save_base(folder / "base")
    return base, [save_adapter(base, folder / str(k), k) for k in (1, 2)]


def half(files):
    parents = tuple(Parent(str(f), hashlib.sha256(f.read_bytes()).hexdigest()) for f in files)
    return Recombination(parents, ((0.5, 0.5),))


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-evaluation-harness is installed")
def test_where_the_harness_is_not_installed_a_sentence_says_how_to_install_it(adapters):
    with WeightDecoder("epsopt.hooks.lm_eval:tasks=arc_easy") as decoder:
        decoded = decoder.decode(half(adapters[1]))
        with pytest.raises(HookError, match=r"pip install 'epsopt\[lm-eval\]'"):
            decoder.measure(decoded)


def test_the_harness_itself_measures_a_merge_of_adapters(adapters, tmp_path):
    pytest.importorskip("lm_eval")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    base, files = adapters
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(20)}, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w2").save_pretrained(tmp_path / "words")
    rows = [{"question": f"w{i} w{i + 1}", "choices": ["w3", "w4"], "answer": i % 2} for i in range(3, 9)]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path / 'rows.json'}\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{question}}"\ndoc_to_choice: choices\n'
        "doc_to_target: answer\nmetric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    options = f"tasks=mine;include_path={tmp_path};tokenizer={tmp_path / 'words'};device=cpu;base={base}"
    with WeightDecoder(f"epsopt.hooks.lm_eval:{options}") as decoder:
        found = decoder.measure(decoder.decode(half(files)))
    assert set(found) == {"mine/acc"}
    assert 0.0 <= found["mine/acc"] <= 1.0
