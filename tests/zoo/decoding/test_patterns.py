from __future__ import annotations

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from epsopt.zoo.decoding.patterns import separating_patterns

LAYERS = [f"{side}.layers.{i}.{kind}" for side in ("encoder", "decoder") for i in range(3) for kind in ("w", "bias")]


def test_a_part_of_a_network_is_one_pattern():
    encoder = [n for n in LAYERS if n.startswith("encoder")]
    assert separating_patterns(encoder, [n for n in LAYERS if n not in encoder]) == ["encoder.*"]
    biases = [n for n in LAYERS if n.endswith("bias")]
    assert separating_patterns(biases, [n for n in LAYERS if n not in biases]) == ["*.bias"]
    both = [n for n in biases if n in encoder]
    assert separating_patterns(both, [n for n in LAYERS if n not in both]) == ["encoder.layers.*.bias"]


names = st.text("ab01[]*?!.", min_size=1, max_size=6)


@given(st.sets(names, min_size=1), st.sets(names))
def test_every_name_inside_fits_and_none_outside(inside, outside):
    outside -= inside
    patterns = separating_patterns(sorted(inside), outside)
    assert all(any(fnmatchcase(name, p) for p in patterns) for name in inside)
    assert not any(fnmatchcase(name, p) for p in patterns for name in outside)
