"""How one run of each family is trained and what it writes (benchmarks/families.py). No command of its own.

Each trainer is a training script as a stranger might write it, with the library that such models are trained with. It
draws its hyperparameters from wide ranges, from useless to good, and writes a run folder.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digits import images
from family_data import LENGTH, WORDS, accuracy, judge_images, sentences, sequences, some_digits
from family_models import ResNet, SequenceClassifier, TernaryReLU, cnn, mlp
from torch import Tensor, nn

from epsopt.demo.metrics import coverage, dist_corr, rad_hier
from epsopt.demo.model import poincare_distance
from epsopt.demo.ternary import N_OPERATIONS, operations, partners, target_distance, valuation

Rng = np.random.Generator
Batch = Callable[[], Tensor]
_PPO_EVERY = 1_500  # steps between checkpoints
POLES, SHORT_POLES = ("pole", "strange_pole"), ("short_pole", "strange_short_pole")
"""What policies are judged on; they are trained on the first."""
TWO_POLES = ("light_pole", "heavy_pole")
"""What policies that know a pole between the two are trained and judged on."""


def mlp_finetune(folder: Path, rng: Rng, home: Path) -> None:
    """A small MLP that knows upright digits learns inverted ones: new skill against the old one. Plain PyTorch."""
    config = {**optimisation(rng, 1e-3, 0.3), "frozen": int(rng.integers(0, 3)), "anchor": log_uniform(rng, 1e-6, 0.1),
              "replay": float(max(0.0, rng.uniform(-0.3, 0.5)))}  # fmt: skip
    base = torch.load(home / "base.pt")
    model = mlp()
    model.load_state_dict(base)
    x, y = images()[:2]
    for i in range(config["frozen"]):
        model[2 * i].requires_grad_(requires_grad=False)

    def loss() -> Tensor:
        rows = torch.from_numpy(rng.integers(0, len(x), config["batch_size"]))
        old = torch.from_numpy(rng.random((config["batch_size"], 1)) < config["replay"])
        pixels = x[rows].flatten(1)
        away = sum((p - base[n]).square().sum() for n, p in model.named_parameters())
        return nn.functional.cross_entropy(model(torch.where(old, pixels, 1.0 - pixels)), y[rows]) + (
            config["anchor"] * away
        )

    train_plain(folder, model, config, loss, lambda: judge_finetune(model), epochs=6, steps=50)


@torch.no_grad()
def judge_finetune(model: nn.Module) -> dict[str, float]:
    """Accuracy on inverted digits, the new task, and on upright ones, the old."""
    model.eval()
    test, labels = images()[2].flatten(1), images()[3]
    return {"new_accuracy": accuracy(model(1.0 - test), labels), "old_accuracy": accuracy(model(test), labels)}


def mlp_base(home: Path) -> None:
    """Train the MLP that all fine-tunes begin with."""
    torch.manual_seed(0)
    model, rng = mlp(), np.random.default_rng(0)
    x, y = images()[:2]

    def loss() -> Tensor:
        rows = torch.from_numpy(rng.integers(0, len(x), 64))
        return nn.functional.cross_entropy(model(x[rows].flatten(1)), y[rows])

    for _ in steps_of(model, {"optimizer": "adam", "lr": 3e-3, "weight_decay": 1e-4}, loss, 1, 300):
        pass
    torch.save(model.state_dict(), home / "base.pt")


def resnet_bn(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001 - every trainer is called alike
    """A small ResNet with BatchNorm on few, partly mislabelled digits, from scratch. Plain PyTorch."""
    config = {**optimisation(rng, 3e-4, 0.3), **_few_digits(rng), "smoothing": float(max(0.0, rng.uniform(-0.3, 0.3)))}
    model = ResNet()
    x, y = some_digits(rng, config["train_size"], config["label_noise"])

    def loss() -> Tensor:
        rows = torch.from_numpy(rng.integers(0, len(y), config["batch_size"]))
        return nn.functional.cross_entropy(model(x[rows][:, None]), y[rows], label_smoothing=config["smoothing"])

    train_plain(folder, model, config, loss, lambda: judge_images(model), epochs=6, steps=20)


def encoder(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001
    """PyTorch's TransformerEncoder on sequences of words, from scratch. Plain PyTorch."""
    train_classifier(folder, rng, lambda dropout: SequenceClassifier(dropout=dropout), (1e-4, 0.03), 0.4)


def train_classifier(
    folder: Path, rng: Rng, network: Callable[[float], nn.Module], rates: tuple[float, float], most_dropout: float
) -> None:
    """Teach a network of some dropout to classify sequences of words, of few of which some words are others."""
    config = optimisation(rng, *rates, adam_only=True)
    config["dropout"], config["train_size"] = float(rng.uniform(0.0, most_dropout)), round(log_uniform(rng, 100, 1024))
    config["word_dropout"] = float(max(0.0, rng.uniform(-0.3, 0.5)))
    model = network(config["dropout"])
    words, labels = sequences()[:2]

    def loss() -> Tensor:
        rows = torch.from_numpy(rng.integers(0, config["train_size"], config["batch_size"]))
        some = words[rows]
        other = torch.from_numpy(rng.integers(0, WORDS, some.shape))
        some = torch.where(torch.from_numpy(rng.random(some.shape) < config["word_dropout"]), other, some)
        return nn.functional.cross_entropy(model(some), labels[rows])

    train_plain(folder, model, config, loss, lambda: judge_sequences(model), epochs=6, steps=25)


@torch.no_grad()
def judge_sequences(model: nn.Module) -> dict[str, float]:
    """Accuracy on sequences of words, the same with strange words in them, and the loss."""
    model.eval()
    test, strange, truth = sequences()[2:]
    logits = model(test)
    return {"accuracy": accuracy(logits, truth), "strange_accuracy": accuracy(model(strange), truth),
            "test_loss": float(nn.functional.cross_entropy(logits, truth))}  # fmt: skip


def vit(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001
    """A ViT of transformers on few, partly mislabelled digits, from scratch; its own loop, plain checkpoints."""
    config = {**optimisation(rng, 1e-4, 0.03, adam_only=True), **_few_digits(rng)}
    config["dropout"] = float(rng.uniform(0.0, 0.3))
    model = small_vit(config["dropout"])
    x, y = some_digits(rng, config["train_size"], config["label_noise"])

    def loss() -> Tensor:
        rows = torch.from_numpy(rng.integers(0, len(y), config["batch_size"]))
        return nn.functional.cross_entropy(model(x[rows][:, None]).logits, y[rows])

    train_plain(folder, model, config, loss, lambda: judge_vit(model), epochs=6, steps=25)


def small_vit(dropout: float = 0.0) -> Any:
    """A ViT of transformers for images of 8 x 8 pixels."""
    from transformers import ViTConfig, ViTForImageClassification

    shape = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=8,
                      patch_size=2, num_channels=1, num_labels=10, hidden_dropout_prob=dropout)  # fmt: skip
    return ViTForImageClassification(shape)


def judge_vit(model: nn.Module) -> dict[str, float]:
    """What :func:`judge_images` says of a network that wraps its logits."""

    class Logits(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return model(pixels).logits  # type: ignore[no-any-return]

    model.eval()
    return judge_images(Logits())


def ternary_relu(folder: Path, rng: Rng, home: Path) -> None:
    """Ternary operations with another network (ReLU) and other losses than the demo's, from one base. Plain PyTorch."""
    config = {**optimisation(rng, 1e-3, 0.3), "distance": log_uniform(rng, 1e-2, 10.0),
              "radius": log_uniform(rng, 1e-3, 3.0), "reconstruction": log_uniform(rng, 1e-2, 3.0),
              "frozen_encoder": bool(rng.random() < 0.3)}  # fmt: skip
    model = TernaryReLU()
    model.load_state_dict(torch.load(home / "base.pt"))
    model.encoder.requires_grad_(requires_grad=not config["frozen_encoder"])
    levels = torch.from_numpy(valuation(np.arange(N_OPERATIONS))).float()

    def loss() -> Tensor:
        left = rng.integers(0, N_OPERATIONS, 128)
        right = partners(left, rng)
        (a, logits), (b, _) = model(operations()[left]), model(operations()[right])
        wanted = torch.from_numpy(target_distance(left, right)).float()
        inner = (a.norm(dim=1) - 0.9 * (1.0 - levels[left] / 10.0)).abs().mean()
        return (
            config["distance"] * (poincare_distance(a, b).log1p() - wanted).abs().mean()
            + config["radius"] * inner
            + config["reconstruction"] * _right_trits(logits, left)
        )

    train_plain(folder, model, config, loss, lambda: judge_ternary(model), epochs=8, steps=50)


def ternary_base(home: Path) -> None:
    """Train the network that reconstructs operations, which all runs begin with."""
    torch.manual_seed(0)
    model, rng = TernaryReLU(), np.random.default_rng(0)

    def loss() -> Tensor:
        left = rng.integers(0, N_OPERATIONS, 512)
        return _right_trits(model(operations()[left])[1], left)

    for _ in steps_of(model, {"optimizer": "adam", "lr": 3e-3, "weight_decay": 0.0}, loss, 1, 1200):
        pass
    torch.save(model.state_dict(), home / "base.pt")


def cnn_lightning(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001
    """A CNN on few, partly mislabelled digits, from scratch, with Lightning and its CSVLogger."""
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger

    config = {**optimisation(rng, 3e-3, 0.5), **_few_digits(rng)}
    x, y = some_digits(rng, config["train_size"], config["label_noise"])

    class Module(pl.LightningModule):
        def __init__(self, **hyperparameters: Any) -> None:
            super().__init__()
            self.save_hyperparameters(hyperparameters)
            self.model = cnn(8)

        def training_step(self, batch: Tensor, index: int) -> Tensor:  # noqa: ARG002
            return nn.functional.cross_entropy(self.model(x[batch][:, None]), y[batch])

        def validation_step(self, batch: Tensor, index: int) -> None:  # noqa: ARG002
            self.log_dict({f"val_{k}": v for k, v in judge_images(self.model).items()})

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return _optimizer(self, config)

    rows = torch.from_numpy(rng.integers(0, len(y), (8 * 40, config["batch_size"])))
    loader: Any = torch.utils.data.DataLoader(rows, batch_size=None)
    trainer = pl.Trainer(
        max_epochs=8, limit_train_batches=40, accelerator="cpu", logger=CSVLogger(folder, name=""),
        callbacks=[ModelCheckpoint(save_top_k=-1, save_weights_only=True)], enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=5.0, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(Module(**config), loader, torch.utils.data.DataLoader(torch.zeros(1, 1), batch_size=None))


def llama(folder: Path, rng: Rng, home: Path) -> None:
    """A Llama-shaped language model goes on from one base with a blend of two languages. Hugging Face's Trainer."""
    from transformers import LlamaForCausalLM

    train_language(folder, rng, LlamaForCausalLM.from_pretrained(home / "base"), (1e-4, 3e-2))


def gpt2(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001
    """A GPT-2, whose projections are fused Conv1D, learns two languages from scratch. Hugging Face's Trainer."""
    train_language(folder, rng, small_gpt2(), (3e-4, 3e-2))


def small_gpt2() -> Any:
    """A GPT-2 of two blocks for both languages."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2))


def ppo(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001
    """PPO learns to balance a pole, judged on that pole and on one that is heavier to move. Stable-Baselines3."""
    _ppo(folder, rng, POLES)


def ppo_noisy(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001
    """PPO learns to balance a short pole that it sees through noise, judged on that one and on a strange one."""
    _ppo(folder, rng, SHORT_POLES)


def ppo_finetune(folder: Path, rng: Rng, home: Path) -> None:
    """PPO goes on from a policy that holds one pole upright, with two others: a light one and a heavy one."""
    heavy = int(rng.integers(0, 5))
    _ppo(folder, rng, TWO_POLES, trained_on=[TWO_POLES[0]] * (4 - heavy) + [TWO_POLES[1]] * heavy, base=home)


def ppo_base(home: Path) -> None:
    """Train the policy that all fine-tunes begin with."""
    from stable_baselines3 import PPO

    model = PPO("MlpPolicy", _several(1, "middle_pole"), n_steps=250, batch_size=50, device="cpu", seed=0)
    model.learn(10_000)
    model.save(home / "base.zip")


def _ppo(
    folder: Path, rng: Rng, poles: tuple[str, str], trained_on: Sequence[str] = (), base: Path | None = None
) -> None:
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
    from stable_baselines3.common.logger import configure

    class Judge(BaseCallback):  # type: ignore[misc]
        def _on_step(self) -> bool:
            if self.num_timesteps % _PPO_EVERY == 0:
                for name, value in judge_policy(self.model, poles).items():
                    self.logger.record(f"eval/{name}", value)
                self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
                self.logger.dump(self.num_timesteps)
            return True

    several = _among(trained_on or poles[:1])
    steps = int(rng.choice([128, 250, 500])) // several.num_envs
    model = PPO(
        "MlpPolicy", several, learning_rate=log_uniform(rng, 1e-4, 2e-2), n_steps=steps, batch_size=64,
        n_epochs=int(rng.integers(2, 11)), gamma=float(rng.uniform(0.9, 0.999)), ent_coef=log_uniform(rng, 1e-4, 0.1),
        gae_lambda=float(rng.uniform(0.8, 1.0)), clip_range=float(rng.uniform(0.1, 0.4)), device="cpu",
        seed=int(rng.integers(2**31)),
    )  # fmt: skip
    if base is not None:
        model.set_parameters(base / "base.zip")
    model.set_logger(configure(str(folder), ["csv"]))
    saved = CheckpointCallback(_PPO_EVERY // model.n_envs, str(folder), name_prefix="rl_model")
    model.learn(6 * _PPO_EVERY, callback=[Judge(), saved])


def judge_policy(model: Any, poles: tuple[str, str] = POLES) -> dict[str, float]:
    """Mean return of twenty episodes, on the pole that was trained on and on a longer one with a weaker motor."""
    from stable_baselines3.common.evaluation import evaluate_policy

    out = {}
    for name, pole in zip(("mean_reward", "strange_reward"), poles, strict=True):
        several = _several(20, pole)
        several.seed(7)
        out[name] = float(np.mean(evaluate_policy(model, several, n_eval_episodes=20, warn=False)[0]))
    return out


def small_policy() -> Any:
    """The network of a policy, untrained."""
    from stable_baselines3 import PPO

    return PPO("MlpPolicy", _several(1, "pole"), device="cpu").policy


_POLES = {
    "pole": (0.5, 10.0, 0.0),
    "strange_pole": (1.0, 7.0, 0.0),
    "short_pole": (0.1, 10.0, 0.6),
    "strange_short_pole": (0.2, 7.0, 0.6),
    "middle_pole": (0.4, 10.0, 0.4),
    "light_pole": (0.1, 15.0, 0.4),
    "heavy_pole": (1.5, 5.0, 0.4),
}
"""Half of a pole's length, the motor's force, and the noise on what is seen, in standard deviations of a state."""
_CENTRED = {"middle_pole", *TWO_POLES}
"""Poles whose reward is less the further they lean and the further the cart is from the middle: 500 is out of reach."""


def _several(count: int, pole: str) -> Any:
    return _among([pole] * count)


def _among(poles: Sequence[str]) -> Any:
    from stable_baselines3.common.vec_env import DummyVecEnv

    return DummyVecEnv([partial(_balance, pole) for pole in poles])


def _balance(pole: str) -> Any:
    import gymnasium

    length, force, noise = _POLES[pole]

    class Noisy(gymnasium.ObservationWrapper):  # type: ignore[misc]
        def observation(self, observation: Any) -> Any:
            drawn = self.np_random.normal(size=observation.shape) * noise * (0.2, 1.0, 0.05, 1.0)
            return (observation + drawn).astype(observation.dtype)

    class Centred(gymnasium.Wrapper):  # type: ignore[misc]
        def step(self, action: Any) -> Any:
            seen, reward, *ended = self.env.step(action)
            off = (abs(seen[0]) / cart.x_threshold + abs(seen[2]) / cart.theta_threshold_radians) / 2.0
            return seen, float(reward) * max(1.0 - off, 0.0), *ended

    env = gymnasium.make("CartPole-v1")
    cart: Any = env.unwrapped
    cart.length, cart.polemass_length, cart.force_mag = length, cart.masspole * length, force
    env = Centred(env) if pole in _CENTRED else env
    return Noisy(env) if noise else env


def lora(folder: Path, rng: Rng, home: Path) -> None:
    """LoRA of rank 4 or 8 teaches a language model a second language. peft with Hugging Face's Trainer."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    adapter = LoraConfig(
        r=int(rng.choice([4, 8])), lora_alpha=int(rng.choice([4, 8, 16])), lora_dropout=float(rng.uniform(0.0, 0.2)),
        target_modules=["q_proj", "v_proj", "down_proj"],
    )  # fmt: skip
    base = LlamaForCausalLM.from_pretrained(home / "base")
    train_language(folder, rng, get_peft_model(base, adapter), (5e-4, 5e-2))


def llama_base(home: Path) -> None:
    """Train the language model on the first language alone."""
    torch.manual_seed(0)
    model, rng = small_llama(), np.random.default_rng(0)

    def loss() -> Tensor:
        rows = sentences(0)[rng.integers(0, 768, 32)]
        return model(input_ids=rows, labels=rows).loss  # type: ignore[no-any-return]

    for _ in steps_of(model, {"optimizer": "adam", "lr": 3e-3, "weight_decay": 0.0}, loss, 1, 300):
        pass
    model.save_pretrained(home / "base")


def small_llama() -> Any:
    """A Llama-shaped network of two blocks for both languages."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(vocab_size=WORDS, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                        num_attention_heads=2, max_position_embeddings=LENGTH)  # fmt: skip
    return LlamaForCausalLM(shape)


@torch.no_grad()
def judge_languages(model: nn.Module) -> dict[str, float]:
    """Loss on sentences of both languages that no run was trained on."""
    model.eval()
    judged = {"first": sentences(0)[768:], "second": sentences(1)[768:]}
    return {f"eval_{name}_loss": float(model(input_ids=rows, labels=rows).loss) for name, rows in judged.items()}


def train_language(folder: Path, rng: Rng, model: Any, rates: tuple[float, float]) -> None:
    """Teach a language model a blend of two languages, with a learning rate between two. Hugging Face's Trainer."""
    from transformers import PrinterCallback, Trainer, TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity_error()
    share = float(rng.uniform(0.0, 1.0))  # of the second language
    rows = torch.from_numpy(rng.integers(0, 768, 1024))
    second = torch.from_numpy(rng.random((1024, 1)) < share)
    words = torch.where(second, sentences(1)[rows], sentences(0)[rows])
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=120, eval_strategy="steps", eval_steps=20, save_strategy="steps",
        save_steps=20, logging_steps=20, save_only_model=True, learning_rate=log_uniform(rng, *rates),
        weight_decay=log_uniform(rng, 1e-3, 0.3), lr_scheduler_type=str(rng.choice(["linear", "constant"])),
        warmup_steps=int(rng.integers(0, 20)), per_device_train_batch_size=int(rng.choice([8, 16])),
        per_device_eval_batch_size=256, report_to=[], use_cpu=True, disable_tqdm=True, seed=int(rng.integers(2**31)),
    )  # fmt: skip
    judged = {"first": sentences(0)[768:], "second": sentences(1)[768:]}
    trainer = Trainer(
        model,
        arguments,
        train_dataset=_as_dataset(words),
        eval_dataset={name: _as_dataset(part) for name, part in judged.items()},
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()  # fmt: skip


def _as_dataset(words: Tensor) -> Any:
    return [{"input_ids": row, "labels": row} for row in words]


def _right_trits(logits: Tensor, indices: Any) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), (operations()[indices].long() + 1).flatten())


@torch.no_grad()
def judge_ternary(model: TernaryReLU) -> dict[str, float]:
    """The demo's three metrics."""
    model.eval()
    points, logits = model(operations())
    return {"coverage": coverage(logits, operations()), "dist_corr": dist_corr(points), "rad_hier": rad_hier(points)}


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """A number between two, any order of magnitude as likely as any other."""
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def _few_digits(rng: Rng) -> dict[str, Any]:
    return {"train_size": round(log_uniform(rng, 50, 1000)), "label_noise": float(max(0.0, rng.uniform(-0.4, 0.6)))}


def optimisation(rng: Rng, low: float, high: float, *, adam_only: bool = False) -> dict[str, Any]:
    """Hyperparameters of an optimizer whose learning rate lies between two; Adam's a tenth of SGD's."""
    optimizer = "adam" if adam_only else str(rng.choice(["sgd", "adam"]))
    slower = 1.0 if adam_only or optimizer == "sgd" else 0.1
    return {"optimizer": optimizer, "lr": slower * log_uniform(rng, low, high),
            "weight_decay": log_uniform(rng, 1e-6, 3e-2), "batch_size": int(rng.choice([16, 32, 64]))}  # fmt: skip


def _optimizer(model: nn.Module, config: Mapping[str, Any]) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.AdamW, "sgd": lambda *a, **k: torch.optim.SGD(*a, momentum=0.9, **k)}
    trained = [p for p in model.parameters() if p.requires_grad]
    return kind[config["optimizer"]](trained, lr=config["lr"], weight_decay=config["weight_decay"])  # type: ignore[no-any-return]


def steps_of(
    model: nn.Module, config: Mapping[str, Any], loss: Callable[[], Tensor], epochs: int, steps: int
) -> Any:  # yields the number of each epoch when it is done
    optimizer = _optimizer(model, config)
    for epoch in range(1, epochs + 1):
        model.train()
        for _ in range(steps):
            value = loss()
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        yield epoch


def train_plain(
    folder: Path, model: nn.Module, config: Mapping[str, Any], loss: Callable[[], Tensor],
    judge: Callable[[], dict[str, float]], epochs: int, steps: int,
) -> None:  # fmt: skip
    """Train in plain PyTorch, and save weights, metrics and configuration every epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    for epoch in steps_of(model, config, loss, epochs, steps):
        content = {"model_state_dict": model.state_dict(), "metrics": judge(), "config": config, "epoch": epoch}
        torch.save(content, folder / f"epoch_{epoch:03d}.pt")


warnings.filterwarnings("ignore", module="pytorch_lightning")
