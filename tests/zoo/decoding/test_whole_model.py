"""An adapter is added to its base: a model that loads without peft and does what the adapter did."""

from __future__ import annotations

import pytest
import torch

from epsopt.zoo.decoding.whole_model import require_base, save_whole_model
from epsopt.zoo.errors import EpsoptError, UsageError

from ..adapters import change_config, logits, save_adapter, save_base  # noqa: TID252

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


def test_the_model_loads_without_peft_and_does_what_the_adapter_does(base, tmp_path):
    from transformers import AutoModelForCausalLM

    adapter = save_adapter(base, tmp_path / "a", 1, r=3, use_rslora=True)
    require_base(adapter.parent)
    (adapter.parent / "tokenizer.json").write_text("{}")
    (adapter.parent / "optimizer.pt").write_text("no part of the model")
    save_whole_model(adapter.parent, tmp_path / "whole" / "m")
    assert {p.name for p in (tmp_path / "whole" / "m").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    }  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "m").eval()
    with torch.no_grad():
        found = model(input_ids=torch.arange(16)[None]).logits
    torch.testing.assert_close(found, logits(base, adapter.parent), rtol=1e-4, atol=1e-4)
    assert [p.name for p in (tmp_path / "whole").iterdir()] == ["m"], "nothing unfinished is left"


def test_nothing_is_written_over(base, tmp_path):
    adapter = save_adapter(base, tmp_path / "a", 1)
    (tmp_path / "m").mkdir()
    with pytest.raises(UsageError, match="m is there already: name another folder"):
        save_whole_model(adapter.parent, tmp_path / "m")


@pytest.mark.parametrize("named", ["/no/such/folder", "no-such-author/no-such-model"])
def test_a_base_that_is_not_here_is_named_and_nothing_is_downloaded(base, tmp_path, named):
    adapter = save_adapter(base, tmp_path / "a", 1)
    change_config(adapter, base_model_name_or_path=named)
    sentence = f"the base {named} of .* cannot be loaded by transformers"
    with pytest.raises(EpsoptError, match=sentence):
        save_whole_model(adapter.parent, tmp_path / "m")
    with pytest.raises(EpsoptError, match=sentence):
        require_base(adapter.parent)  # what a merge asks before it measures
    assert not (tmp_path / "m").exists()


def test_an_adapter_without_a_base_says_so(base, tmp_path):
    adapter = save_adapter(base, tmp_path / "a", 1)
    change_config(adapter, base_model_name_or_path=None)
    with pytest.raises(EpsoptError, match="names the base None, expected a folder or a model's name"):
        save_whole_model(adapter.parent, tmp_path / "m")
