"""Which of the tensors in a file are the model: the usual keys, the only state dict, or what the setting names."""

from __future__ import annotations

import collections
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.provenance import Provenance
from epsopt.zoo.decoding.recombination import Parent, Recombination
from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.ingestion.ingest import ingest, read_fingerprints
from epsopt.zoo.layouts.open_checkpoint import load_weights


def net(seed: int = 0, width: int = 8) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(4, width), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 1)
    ).state_dict()


def optimiser() -> dict:
    model = torch.nn.Linear(4, 1)
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    adam.step()
    return adam.state_dict()


MEASURED = {"acc": torch.tensor(91.2), "epoch": 1, "optimizer": optimiser(), "loss": torch.tensor(0.3)}


@pytest.mark.parametrize(
    "around",
    [
        lambda sd: {"net": sd},
        lambda sd: {"params": sd, "params_ema": net(7)},
        lambda sd: {"module": sd, "ds_version": "0.14", "buffer_names": [], "lr_scheduler": {"last_lr": [0.1]}},
        lambda sd: {"generator": sd, "g_optim": optimiser(), "g_ema": net(7)},
        lambda sd: {"network_weights": sd, "optimizer_state": optimiser(), "grad_scaler_state": {"scale": 1.0}},
        lambda sd: {"policy": sd, "policy_opt": optimiser(), "config": {"lr": torch.tensor(0.1)}},
        lambda sd: {"actor": sd, "obs_stats": {"mean.0": torch.zeros(3)}},
        lambda sd: {"policy_net": sd, "target_net": net(7)},
        lambda sd: {"ema": net(7), "model": sd},
        lambda sd: {"model_ema": net(7), "state_dict": sd},
        lambda sd: {"state_dict_ema": net(7), "state_dict": sd},
        lambda sd: {"agent_state_dict": sd, "optims": {"model": optimiser()}},
        lambda sd: {"state": {"network": sd, "optim": optimiser()}},
        lambda sd: {"checkpoint": {"model": sd, "head": {"x.weight": torch.ones(2, 2)}}},
        lambda sd: {"trainer": {"net": sd, "ema": net(7), "step": torch.tensor(3)}},
        lambda sd: {"swa_state": net(7), "net": collections.OrderedDict(sd)},
        lambda sd: {"net": {f"module.{k}": v for k, v in sd.items()}},
    ],
)
def test_the_only_state_dict_is_the_model_whatever_its_key(tmp_path, around):
    expected = net(3)
    torch.save({**MEASURED, **around(expected)}, tmp_path / "a.pt")
    loaded = load_weights(tmp_path / "a.pt")
    assert list(loaded) == list(expected)
    assert all(torch.equal(loaded[n], expected[n]) for n in expected)


def test_nested_parameters_are_one_model_with_dotted_names(tmp_path):
    tree = {"Dense_0": {"kernel": torch.ones(4, 8), "bias": torch.zeros(8)}, "Dense_1": {"kernel": torch.ones(8, 1)}}
    torch.save({"params": tree, "step": 3}, tmp_path / "a.pt")
    assert list(load_weights(tmp_path / "a.pt")) == ["Dense_0.kernel", "Dense_0.bias", "Dense_1.kernel"]


def test_an_average_alone_is_the_model(tmp_path):
    torch.save({"ema": net(3), "acc": torch.tensor(1.0)}, tmp_path / "a.pt")
    assert list(load_weights(tmp_path / "a.pt")) == list(net(3))


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"modelA_state_dict": net(1), "modelB_state_dict": net(2)}, "modelA_state_dict, modelB_state_dict"),
        ({"generator": net(1), "discriminator": net(2)}, "generator, discriminator"),
        ({"g": net(1), "d": net(2), "g_ema": net(3)}, "g, d"),
        ({"models": {"actor": net(1), "critic": net(2)}}, "models.actor, models.critic"),
        ({"student": net(1), "teacher": net(2)}, "student, teacher"),
        ({**net(1), "extra": net(2)}, "the top level, extra"),
    ],
)
def test_of_several_state_dicts_none_is_guessed(tmp_path, content, keys):
    torch.save({**MEASURED, **content}, tmp_path / "a.pt")
    with pytest.raises(UnreadableCheckpoint) as caught:
        load_weights(tmp_path / "a.pt")
    assert f"holds several state dicts ({keys})" in caught.value.reason
    assert "[runs] in epsopt.toml, as weights_key = " in caught.value.reason


@pytest.mark.parametrize(
    "content",
    [
        {"acc": torch.tensor(91.2), "epoch": 1},
        {"metrics": {"val.loss": torch.tensor([0.3])}, "acc": torch.tensor(91.2)},
        {"optimizer": optimiser(), "loss": torch.tensor(0.3)},
        {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        {"optim": {"layer.weight": {"exp_avg": torch.ones(3, 3)}}},
        {"states": {"layer.weight": {"exp_avg": torch.ones(3, 3)}}},
    ],
)
def test_measured_numbers_and_moments_of_an_optimiser_are_no_model(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UnreadableCheckpoint, match="no weights under model_state_dict"):
        load_weights(tmp_path / "a.pt")


def test_loose_tensors_are_the_model_where_nothing_else_is(tmp_path):
    for content in (net(1), {**net(1), "epoch": 3}, {"W": torch.ones(3, 3), "b": torch.ones(3), "epoch": 3}):
        torch.save(content, tmp_path / "a.pt")
        assert list(load_weights(tmp_path / "a.pt")) == [k for k in content if k != "epoch"]


def nan_weights() -> dict[str, torch.Tensor]:
    return {name: torch.full_like(t, torch.nan) if t.is_floating_point() else t for name, t in net(3).items()}


@pytest.mark.parametrize(
    "content",
    [
        {"model": net(3), "state_dict": net(3)},
        {"model": {f"module.{k}": v for k, v in net(3).items()}, "model_state_dict": net(3)},
        {"model_state_dict": {k: v for k, v in net(3).items() if k.startswith("2.")}, "model": net(3)},
        {"model": nan_weights(), "state_dict": nan_weights()},
        {"model": {"depth": torch.tensor(3), "mean": torch.ones(3)}, "model_state": net(3)},
        {"state_dict": net(3), "model": torch.nn.Linear(4, 1)},
    ],
    ids=["equal", "wrapped", "part", "nan", "description", "object"],
)
def test_equal_state_dicts_under_two_keys_are_one_model_and_a_part_is_of_the_whole(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    assert list(load_weights(tmp_path / "a.pt")) == list(net(3))


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"model": net(1), "state_dict": net(2)}, "state_dict, model"),
        ({"model_state_dict": net(1), "state_dict": net(2)}, "model_state_dict, state_dict"),
        ({"model": net(1, 16), "state_dict": net(1)}, "state_dict, model"),
        ({"model": net(1), "model_state_dict": {"other.weight": torch.ones(2, 2)}}, "model_state_dict, model"),
        ({"model": net(1), "state_dict": {k: v.double() for k, v in net(1).items()}}, "state_dict, model"),
    ],
    ids=["values", "preferred", "shapes", "names", "types"],
)
def test_different_state_dicts_under_two_usual_keys_are_refused_with_both_and_the_setting(tmp_path, content, keys):
    torch.save({"epoch": 1, **content}, tmp_path / "a.pt")
    with pytest.raises(UnreadableCheckpoint) as caught:
        load_weights(tmp_path / "a.pt")
    assert f"holds several state dicts ({keys}), which differ" in caught.value.reason
    assert "[runs] in epsopt.toml, as weights_key = " in caught.value.reason
    for key in keys.split(", "):
        expected = content[key]
        loaded = load_weights(tmp_path / "a.pt", weights_key=key)
        assert all(torch.equal(loaded[n], expected[n]) for n in expected)


@pytest.mark.parametrize("key", ["discriminator", "models.critic", "a.b", "ema"])
def test_the_setting_names_the_key(tmp_path, key):
    expected = net(5)
    content = {"generator": net(1), "models": {"actor": net(2)}, "model": net(3)}
    if key == "models.critic":
        content["models"]["critic"] = expected
    else:
        content[key] = expected
    torch.save(content, tmp_path / "a.pt")
    loaded = load_weights(tmp_path / "a.pt", weights_key=key)
    assert all(torch.equal(loaded[n], expected[n]) for n in expected)


def test_a_file_without_the_key_of_the_setting_is_refused_unless_it_holds_nothing_but_tensors(tmp_path):
    torch.save({"discriminator": net(1), "epoch": 1}, tmp_path / "a.pt")
    torch.save(net(1), tmp_path / "b.pt")
    with pytest.raises(UnreadableCheckpoint, match=r"no state dict under 'generator', the weights_key .*disc"):
        load_weights(tmp_path / "a.pt", weights_key="generator")
    assert list(load_weights(tmp_path / "b.pt", weights_key="generator")) == list(net(1))


def gan(folder: Path) -> Path:
    for run in range(2):
        for epoch in range(2):
            path = folder / f"run_{run}" / f"epoch_{epoch}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {"generator": net(run * 10 + epoch), "discriminator": net(99, 16), "epoch": epoch}
            torch.save({**content, "metrics": {"fid": 10.0 - run - epoch}, "config": {"lr": 0.1 * (run + 1)}}, path)
    return folder


def test_the_setting_reaches_whoever_reads_weights_and_is_kept_for_them(tmp_path):
    runs = gan(tmp_path / "runs")
    url = f"sqlite:///{tmp_path / 'epsopt.db'}"
    with Catalogue(url) as catalogue:
        report = ingest(catalogue, runs)
        assert (report.added, len(report.failed)) == (0, 4)
    with Catalogue(url, weights_key="generator") as catalogue:
        assert ingest(catalogue, runs).added == 4
        assert ingest(catalogue, runs).unchanged == 4
    with Catalogue(url) as catalogue:  # somebody who knows the database only
        assert catalogue.weights_key == "generator"
        parents = catalogue.checkpoints()
        count = sum(t.numel() for t in net().values() if t.is_floating_point())
        assert [c.n_parameters for c in parents] == [count] * 4
        assert read_fingerprints([Path(parents[0].path)], catalogue)[0].n_parameters == count
    merge = Recombination(tuple(Parent(c.path, c.sha256) for c in parents[:2]), ((0.5, 0.5),))
    with WeightDecoder(weights_key="generator") as decoder:
        decoded = decoder.decode(merge)
        decoder.save(decoded, tmp_path / "merged.pt", Provenance("merge"))
    saved = torch.load(tmp_path / "merged.pt", weights_only=True)
    assert list(saved["generator"]) == list(net())


def test_another_key_reads_the_same_files_again(tmp_path):
    runs = gan(tmp_path / "runs")
    url = f"sqlite:///{tmp_path / 'epsopt.db'}"
    sizes = []
    for key in ("generator", "discriminator"):
        with Catalogue(url, weights_key=key) as catalogue:
            report = ingest(catalogue, runs)
            sizes.append({c.n_parameters for c in catalogue.checkpoints()})
            assert len(catalogue.checkpoints()) == report.found == 4
            assert report.failed == []
    assert len(sizes[0] | sizes[1]) == 2


@pytest.mark.parametrize(("forced", "key"), [(False, "state_dict_ema"), (True, "state_dict")])
def test_the_average_that_timm_measured_is_the_model(tmp_path, forced, key):
    content = {
        "epoch": 3,
        "arch": "resnet50",
        "state_dict": {"conv1.weight": torch.zeros(2, 3)},
        "state_dict_ema": {"conv1.weight": torch.ones(2, 3)},
        "optimizer": {"state": {}, "param_groups": []},
        "version": 2,
        "args": Namespace(model_ema=True, model_ema_force_cpu=forced),
    }
    torch.save(content, tmp_path / "a.pth.tar")
    assert torch.equal(load_weights(tmp_path / "a.pth.tar")["conv1.weight"], content[key]["conv1.weight"])


def test_an_average_beside_the_weights_of_another_program_is_not_the_model(tmp_path):
    content = {"state_dict": {"conv1.weight": torch.zeros(2, 3)}, "state_dict_ema": {"conv1.weight": torch.ones(2, 3)}}
    torch.save(content, tmp_path / "a.pt")
    assert torch.equal(load_weights(tmp_path / "a.pt")["conv1.weight"], torch.zeros(2, 3))
