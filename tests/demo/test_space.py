import numpy as np

from epsopt.demo.space import SPACE, active, draw

ONLY_UNFROZEN = {"encoder_lr_scale", "unfreeze_epoch", "recon_weight", "kl_weight"}


def test_there_are_twelve_hyperparameters_and_their_defaults_lie_in_range():
    assert len({p.name for p in SPACE}) == 12
    for p in SPACE:
        if p.kind == "categorical":
            assert p.default in p.choices
        else:
            assert p.limits[0] <= p.low <= p.default <= p.high <= p.limits[1]


def test_draws_are_plain_values_in_range_and_leave_inactive_ones_out():
    rng = np.random.default_rng(0)
    for config in (draw(rng) for _ in range(300)):
        absent = {p.name for p in SPACE} - set(config)
        assert absent == (ONLY_UNFROZEN if config["encoder"] == "frozen" else set())
        for p in SPACE:
            if p.name in config:
                value = config[p.name]
                assert type(value) is type(p.default)
                assert value in p.choices if p.kind == "categorical" else p.low <= value <= p.high


def test_logarithmic_draws_spread_over_the_decades():
    rng = np.random.default_rng(1)
    recon = next(p for p in SPACE if p.name == "recon_weight")
    below = np.mean([recon.draw(rng) < np.sqrt(recon.low * recon.high) for _ in range(2_000)])
    assert 0.45 < below < 0.55


def test_active_drops_what_a_frozen_encoder_makes_idle():
    full = {p.name: p.default for p in SPACE}
    assert active(full) == full
    assert set(full) - set(active(full | {"encoder": "frozen"})) == ONLY_UNFROZEN
