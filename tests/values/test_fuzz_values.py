"""Recipes and manifests of anything: a noun, or one line that says why not."""

import copy
import json
import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capdeploy import recipes
from capdeploy.errors import CapdeployError, ConfigError
from capdeploy.values.manifest import Manifest
from capdeploy.values.recipe import Recipe

MANIFEST = Path(__file__).parents[2] / "benchmarks" / "corpus" / "manifest" / "manifest.json"
PLAIN = json.loads(MANIFEST.read_text())
REQUIRED = {"checkpoint": "c.pth", "data": "digits"}
HUGE = st.sampled_from([2**63, -(10**30), 10**400, 10**4000])
SCALARS = (
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["50%", "150M", "80/20", "0.5", "cpu", "pytorch", "[1,  2]", "a" * 300, ""])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
# What a field may well hold, so that many recipes are valid.
LIKELY = st.sampled_from(
    [0, 1, 2, 0.5, 0.25, True, False, [0.5, 0.75], ["50%"], ["a", "b"], [8, 8], [0.5] * 3, "cpu",
     "sgd", "global", "this-host", ["cpu"], ["onnxruntime"], {}, {"a": 1}, "uniform", "stretch"]
)  # fmt: skip
WORDS = st.text(min_size=1, max_size=20)
VALID = st.fixed_dictionaries(
    {},
    optional={
        "arch": WORDS,
        "arch_args": st.dictionaries(WORDS, st.booleans() | st.integers() | st.text()),
        "strategy_args": st.dictionaries(WORDS, st.floats(-1e300, 1e300) | st.text()),
        "ratio": st.lists(st.sampled_from([0, 0.5, 0.75, 1e-300]), unique=True),
        "max_macs": st.lists(st.sampled_from(["50%", "150M", "1e6", "0.5k"]), unique=True),
        "max_size": st.lists(st.sampled_from(["2MiB", " 100 %", "1e300"]), unique=True),
        "classes": st.lists(st.text()), "protect": st.lists(st.text()), "state_key": st.text(),
        "labels": st.text(), "epochs": st.integers(0), "seed": st.integers(0),
        "lr": st.floats(0, exclude_min=True, allow_infinity=False), "threads": st.integers(1),
        "mean": st.tuples(*[st.floats(-1e300, 1e300)] * 3).map(list),
        "input_size": st.tuples(st.integers(), st.integers()).map(list),
    },
)  # fmt: skip
KEYS = st.sampled_from(sorted(Recipe.model_fields))
ANY = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def one_line(error):
    assert str(error).isprintable(), repr(str(error))


def resolved(*layers):
    """Resolve, and see that the outcome is a recipe that survives its own TOML, or one line."""
    try:
        recipe = recipes.resolve(*layers)
    except ConfigError as error:
        one_line(error)
        return None
    assert isinstance(recipe, Recipe)
    again = tomllib.loads(recipes.to_toml(recipe))
    assert recipes.resolve(None, {}, [], again) == recipe
    return recipe


@ANY
@given(st.dictionaries(KEYS | st.text(max_size=12), VALUES | LIKELY, max_size=4))
def test_a_recipe_file_of_anything(tmp_path, table):
    file = tmp_path / "recipe.toml"
    file.write_text(tomli_w.dumps(REQUIRED | table), encoding="utf-8")
    resolved(file, {}, [], {})


@ANY
@given(VALID)
def test_a_valid_recipe_survives_its_own_toml(tmp_path, table):
    file = tmp_path / "recipe.toml"
    file.write_text(tomli_w.dumps(REQUIRED | table), encoding="utf-8")
    assert resolved(file, {}, [], {}) is not None


@ANY
@given(st.dictionaries(KEYS, LIKELY, max_size=3), st.booleans())
def test_a_likely_recipe(table, as_flags):
    resolved(None, {}, [], REQUIRED | table) if as_flags else resolved(
        None, {}, [f"{key}={json.dumps(value)}" for key, value in table.items()], REQUIRED
    )


@ANY
@given(
    st.dictionaries(KEYS, st.text(max_size=20) | st.sampled_from(["9" * 5000, "[" * 2000])),
    st.lists(st.text(max_size=20) | st.builds("{}={}".format, KEYS, st.text(max_size=20))),
)
def test_an_environment_and_settings_of_anything(variables, given_settings):
    environment = {f"{recipes.PREFIX}{key.upper()}": text for key, text in variables.items()}
    resolved(None, environment, given_settings, REQUIRED)


@ANY
@given(KEYS, HUGE)
def test_a_recipe_of_huge_numbers(key, number):
    resolved(None, {}, [], REQUIRED | {key: number})


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000])
@pytest.mark.parametrize("key", ["seed", "lr", "arch_args.a", "unknown"])
def test_a_number_longer_than_any_text(tmp_path, key, number):
    file = tmp_path / "recipe.toml"
    file.write_text(f"{tomli_w.dumps(REQUIRED)}\n{key} = {number}\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        recipes.resolve(file, {}, [], {})


def places(data):
    """List the paths of everything inside plain data."""
    steps = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in steps:
        yield (key,)
        if isinstance(value, dict | list):
            yield from ((key, *rest) for rest in places(value))


PATHS = sorted(places(PLAIN), key=str)


@st.composite
def mutated(draw):
    """A real manifest with one to three things dropped, retyped, nested, renamed or made huge."""
    data = copy.deepcopy(PLAIN)
    for path in draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=3)):
        inner = data
        try:
            for step in path[:-1]:
                inner = inner[step]
            old = inner[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it away
        if isinstance(inner, str):
            continue
        change = draw(st.sampled_from(["drop", "retype", "nest", "wrap", "rename"]))
        if change == "drop":
            del inner[path[-1]]
        elif change == "rename" and isinstance(inner, dict):
            inner[draw(st.text(max_size=300))] = inner.pop(path[-1])
        else:
            new = {"nest": [old], "wrap": {"a": old}}
            inner[path[-1]] = new.get(change, draw(VALUES | HUGE))
    return data


@settings(max_examples=500, deadline=None)
@given(mutated())
def test_a_mutated_manifest(data):
    try:
        manifest = Manifest.from_plain(data, source="m")
    except CapdeployError as error:
        one_line(error)
    else:
        assert Manifest.from_json(manifest.to_json()) == manifest


@settings(max_examples=500, deadline=None)
@given(mutated())
def test_a_mutated_manifest_as_json(data):
    try:
        manifest = Manifest.from_json(json.dumps(data), source="m")
    except CapdeployError as error:
        one_line(error)
    else:
        assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_manifest_that_is_changed_is_a_real_one():
    assert Manifest.from_plain(PLAIN, source="m").to_json() == MANIFEST.read_text()
