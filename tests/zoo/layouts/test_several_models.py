"""Several models that one run saves at one moment: the log speaks of one of them, and none has it by chance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from epsopt.zoo import Catalogue
from epsopt.zoo.ingestion.ingest import IngestReport, ingest, read_fingerprints

from .examples import weights

EPOCHS = (1, 2)


def critic(seed: int) -> dict[str, torch.Tensor]:
    return {"c.weight": torch.full((2, 3), float(seed)), "c.bias": torch.zeros(2)}


def save(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def log(run: Path) -> None:
    (run / "metrics.csv").write_text("epoch,fid\n1,50.0\n2,25.0\n")


def measured(folder: Path, key: str = "", database: str = "a.db") -> tuple[dict[str, float | None], IngestReport]:
    """Return what the catalogue says of each file, by its name below the folder, and the report of ingest."""
    with Catalogue(f"sqlite:///{folder.parent / database}", weights_key=key) as catalogue:
        report = ingest(catalogue, folder)
        found = {str(Path(c.path).relative_to(folder)): c.metrics["fid"] for c in catalogue.checkpoints() if c.metrics}
        again = ingest(catalogue, folder)
    assert again.side_file_failures == report.side_file_failures, "every ingest says so"
    return found, report


@pytest.mark.parametrize(
    ("model", "other", "key"),
    [
        ("netG_epoch_{}.pth", "netD_epoch_{}.pth", "netG"),
        ("epoch_{}/G.pt", "epoch_{}/D.pt", "G"),
        ("checkpoints/generator/epoch_{}.pt", "checkpoints/discriminator/epoch_{}.pt", "generator"),
        ("checkpoint-{}/unet/model.pt", "checkpoint-{}/controlnet/model.pt", "unet"),
        ("actor_{}.pth", "critic_{}.pth", "actor"),
    ],
)
def test_of_two_networks_of_one_moment_none_has_the_log_until_one_is_named(tmp_path, model, other, key):
    runs = tmp_path / "runs"
    for epoch in EPOCHS:
        save(runs / "a" / model.format(epoch), weights(epoch))
        save(runs / "a" / other.format(epoch), critic(epoch))
    log(runs / "a")
    found, report = measured(runs)
    assert found == {}
    assert report.found == 4
    (failure,) = report.side_file_failures
    assert "are different networks of one moment" in failure.reason
    assert "(so it is at 1 other moment)" in failure.reason
    assert 'weights_key = "' in failure.reason
    suggested = failure.reason.rpartition('weights_key = "')[2].partition('"')[0]
    assert len(measured(runs, suggested, "b.db")[0]) == 2, "the setting of the message decides"
    found, report = measured(runs, key, "c.db")
    assert found == {f"a/{model.format(1)}": 50.0, f"a/{model.format(2)}": 25.0}
    assert report.side_file_failures == []


def test_models_that_accelerate_saves_together_are_distinguished_by_their_number(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    from accelerate.utils import ProjectConfiguration

    run = tmp_path / "runs" / "a"
    config = ProjectConfiguration(project_dir=str(run), automatic_checkpoint_naming=True)
    accelerator = accelerate.Accelerator(cpu=True, project_config=config)
    models = accelerator.prepare(torch.nn.Linear(4, 6), torch.nn.Linear(6, 1))
    for epoch in range(2):
        with torch.no_grad():
            for model in models:
                for parameter in model.parameters():
                    parameter.fill_(epoch + 1.0)
        accelerator.save_state()
    (run / "metrics.jsonl").write_text("".join(json.dumps({"epoch": e, "fid": 50.0 / (e + 1)}) + "\n" for e in (0, 1)))
    found, report = measured(run.parent)
    assert found == {}
    assert "model.safetensors, model_1.safetensors are different networks" in report.side_file_failures[0].reason
    for i, (key, name) in enumerate((("model", "model.safetensors"), ("model_1", "model_1.safetensors"))):
        found, _ = measured(run.parent, key, f"{i}.db")
        assert found == {f"a/checkpoints/checkpoint_{e}/{name}": 50.0 / (e + 1) for e in (0, 1)}


@pytest.mark.parametrize(
    ("raw", "average", "key"),
    [
        ("model_epoch_{}.pt", "model_ema_epoch_{}.pt", "ema"),
        ("model00000{}.pt", "ema_0.9999_00000{}.pt", "ema"),
        ("checkpoint-{}/unet/m.pt", "checkpoint-{}/unet_ema/m.pt", "unet_ema"),
        ("critic_{}.pt", "critic_target_{}.pt", "target"),
    ],
)
def test_an_average_beside_the_weights_has_the_log_only_where_it_is_named(tmp_path, raw, average, key):
    runs = tmp_path / "runs"
    for epoch in EPOCHS:
        save(runs / "a" / raw.format(epoch), weights(epoch))
        save(runs / "a" / average.format(epoch), weights(10 + epoch))
    log(runs / "a")
    found, report = measured(runs)
    assert found == {f"a/{raw.format(1)}": 50.0, f"a/{raw.format(2)}": 25.0}
    assert "a moving average or a target network beside" in report.side_file_failures[0].reason
    assert f'weights_key = "{key}"' in report.side_file_failures[0].reason
    found, _ = measured(runs, key, "b.db")
    assert found == {f"a/{average.format(1)}": 50.0, f"a/{average.format(2)}": 25.0}


def test_the_model_that_is_named_by_its_file_may_lie_under_a_usual_key(tmp_path):
    runs = tmp_path / "runs"
    for epoch in EPOCHS:
        save(runs / "a" / f"netG_{epoch}.pth", {"state_dict": weights(epoch), "epoch": epoch})
        save(runs / "a" / f"netD_{epoch}.pth", {"state_dict": critic(epoch), "epoch": epoch})
    log(runs / "a")
    found, report = measured(runs, "netG")
    assert found == {"a/netG_1.pth": 50.0, "a/netG_2.pth": 25.0}
    assert [Path(f.path).name for f in report.failed] == ["netD_1.pth", "netD_2.pth"], "named and counted"


def test_one_network_that_several_callbacks_save_has_the_log_in_each_file(tmp_path):
    runs = tmp_path / "runs"
    for epoch in EPOCHS:
        save(runs / "a" / f"epoch_{epoch}.pt", weights(epoch))
    save(runs / "a" / "best_2.pt", weights(12))
    save(runs / "a" / "ema_3.pt", weights(13))
    log(runs / "a")
    found, report = measured(runs)
    assert found == {"a/epoch_1.pt": 50.0, "a/epoch_2.pt": 25.0, "a/best_2.pt": 25.0}
    assert report.side_file_failures == []


def test_the_end_of_a_run_is_not_given_to_one_of_two_networks_by_its_name(tmp_path):
    runs = tmp_path / "runs"
    save(runs / "a" / "encoder.pt", weights(1))
    save(runs / "a" / "decoder.pt", critic(1))
    (runs / "a" / "metrics.json").write_text('{"fid": 5.0}')
    found, report = measured(runs)
    assert found == {}
    assert "decoder.pt, encoder.pt are different networks" in report.side_file_failures[0].reason
    assert measured(runs, "encoder", "b.db")[0] == {"a/encoder.pt": 5.0}


def test_files_that_are_only_looked_at_are_distinguished_alike(tmp_path):
    save(tmp_path / "a" / "netG_1.pth", weights(1))
    save(tmp_path / "a" / "netD_1.pth", critic(1))
    log(tmp_path / "a")
    said: list[str] = []
    paths = [tmp_path / "a" / name for name in ("netG_1.pth", "netD_1.pth")]
    found = read_fingerprints(paths, on_failure=lambda f: said.append(f.reason))
    assert [c.metrics for c in found] == [{}, {}]
    assert "different networks of one moment" in said[0]
