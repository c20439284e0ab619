"""A config that cannot be built is refused with value, rule and remedy;
every preset is what was published.
"""

import json
import math
import re
from dataclasses import FrozenInstanceError, fields

import pytest

from llmcore.config import GPT2, LLAMA, PRESETS, TOY, ModelConfig, RotaryScaling

pytestmark = pytest.mark.usefixtures("as_a_reader_calls_it")

IMPOSSIBLE = {
    r"n_heads=3 does not divide d_model=4.*choose a divisor": {"n_heads": 3},
    r"n_kv_heads=3 does not divide n_heads=2": {"n_kv_heads": 3},
    r"d_head=1 is odd: rotary turns pairs": {"position": "rotary", "n_heads": 4},
    r"d_model=3 is odd: sinusoidal": {"d_model": 3, "n_heads": 1},
    r"rotary_scaling with position='sinusoidal' would be ignored": {"rotary_scaling": RotaryScaling()},
    r"norm='batch' is unknown: choose one of \['layer', 'rms'\]": {"norm": "batch"},
    r"family='both' is unknown": {"family": "both"},
    r"feed_forward='tanh' is unknown": {"feed_forward": "tanh"},
    r"position='alibi' is unknown": {"position": "alibi"},
    r"residual='none' is unknown": {"residual": "none"},
    r"attention='flash' is unknown": {"attention": "flash"},
    r"dropout=1.0: is a probability": {"dropout": 1.0},
    r"n_layers=0: must be a whole number": {"n_layers": 0},
    r"vocab_size=2.5: must be a whole number": {"vocab_size": 2.5},
    r"d_ff=True: must be a whole number": {"d_ff": True},
    r"n_kv_heads=-1: must be a whole number": {"n_kv_heads": -1},
    r"n_segments=2 in a decoder": {"n_segments": 2},
    r"init_std=0.*need norm_eps >= 0 and init_std > 0": {"init_std": 0},
    r"rotary_scaling=8: must be a RotaryScaling, its fields as a dict, or None": {"rotary_scaling": 8},
    r"rotary_base=1: must be above 1": {"rotary_base": 1},
}


@pytest.mark.parametrize("message", IMPOSSIBLE)
def test_an_impossible_combination_names_value_rule_and_remedy(message):
    with pytest.raises(ValueError, match=message):
        TOY.with_(**IMPOSSIBLE[message])


NUMBERS = [f.name for f in fields(ModelConfig) if f.type in ("int", "float")]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, "2", None])
def test_every_number_is_finite_and_in_its_range(name, value):
    with pytest.raises(ValueError, match=rf"{name}={re.escape(repr(value))}"):
        TOY.with_(**{name: value})


@pytest.mark.parametrize("name", [f.name for f in fields(ModelConfig) if f.type == "bool"])
@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_a_switch_is_true_or_false(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value!r}: must be True or False"):
        TOY.with_(**{name: value})


@pytest.mark.parametrize("name", [f.name for f in fields(RotaryScaling)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1])
def test_rotary_scaling_takes_only_finite_numbers(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value}.*needs factor >= 1, 0 < low < high"):
        RotaryScaling(**{name: value})


def test_rotary_scaling_refuses_the_impossible():
    with pytest.raises(ValueError, match="needs factor >= 1, 0 < low < high"):
        RotaryScaling(low=4.0, high=1.0)


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_survives_json(name):
    assert ModelConfig(**json.loads(json.dumps(PRESETS[name].to_dict()))) == PRESETS[name]


def test_a_config_is_frozen():
    with pytest.raises(FrozenInstanceError):
        TOY.d_model = 8


def test_with_derives_again_what_was_derived():
    assert GPT2.with_(n_heads=6).d_head == 128
    assert GPT2.with_(n_heads=6).n_kv_heads == 6
    assert GPT2.with_(d_head=32).d_head == 32
    assert LLAMA.with_(n_heads=16).n_kv_heads == 8
