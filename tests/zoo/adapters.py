"""Low-rank adapters as peft writes them, on a tiny base that transformers wrote."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

TARGETS = ["q_proj", "v_proj", "down_proj"]


def save_base(folder: Path) -> Path:
    """Save a Llama-shaped model of a few thousand weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                        num_attention_heads=2, max_position_embeddings=16)  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    return folder


def load_base(folder: Path) -> Any:
    """Load it."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder).eval()


def save_adapter(base: Path, folder: Path, seed: int, **options: Any) -> Path:
    """Save an adapter of the base with random factors; return its weights' file."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS, **options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(load_base(base), config)
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
    return folder / "adapter_model.safetensors"


def logits(base: Path, adapter: Path) -> torch.Tensor:
    """Return what the base with an adapter, loaded by peft, says to a few tokens."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(load_base(base), adapter).eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(16)[None]).logits
    return found


def merged_logits(base: Path, adapters: list[Path], coefficients: list[float]) -> torch.Tensor:
    """Return the same of the base plus the weighted sum of the updates that peft itself computes."""
    from peft import PeftModel

    model = load_base(base)
    state = {n: t.double() for n, t in model.state_dict().items()}
    for adapter, c in zip(adapters, coefficients, strict=True):
        whole = PeftModel.from_pretrained(load_base(base), adapter).merge_and_unload().state_dict()
        for n, t in load_base(base).state_dict().items():
            state[n] = state[n] + c * (whole[n].double() - t.double())
    model.load_state_dict({n: t.float() for n, t in state.items()})
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(16)[None]).logits
    return found


def other_gauge(adapter: Path, folder: Path, seed: int) -> Path:
    """Write the same adapter with other factors: ``B R`` and ``R^-1 A``, R random."""
    tensors = {n: t.double() for n, t in load_file(adapter).items()}
    generator = torch.Generator().manual_seed(seed)
    for name in [n for n in tensors if ".lora_A." in n]:
        up = name.replace(".lora_A.", ".lora_B.")
        rank = len(tensors[name])
        r = torch.randn(rank, rank, generator=generator, dtype=torch.float64) + 2.0 * torch.eye(rank)
        tensors[up], tensors[name] = tensors[up] @ r, torch.linalg.solve(r, tensors[name])
    folder.mkdir(parents=True)
    save_file({n: t.float().contiguous() for n, t in tensors.items()}, folder / adapter.name, {"format": "pt"})
    (folder / "adapter_config.json").write_text((adapter.parent / "adapter_config.json").read_text())
    return folder / adapter.name


def change_config(adapter: Path, **values: Any) -> None:
    """Set values of an adapter's configuration."""
    file = adapter.parent / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
