"""The house: catalogues, errors, budgets of size, schemas, contracts that bite."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

import capdeploy
from capdeploy import cli, errors, profiles, recipes
from capdeploy.catalog import Catalog, nearest
from capdeploy.cli import compress, train
from capdeploy.data import KINDS
from capdeploy.errors import CapdeployError, ConfigError
from capdeploy.runtimes import RUNTIMES
from capdeploy.strategies import STRATEGIES
from capdeploy.values.profile import HardwareProfile
from capdeploy.values.recipe import Recipe, TrainRecipe
from capdeploy.zoo import SOURCES

ROOT = Path(capdeploy.__file__).parent.parent
SHELVES = {"strategies": STRATEGIES, "runtimes": RUNTIMES, "data": KINDS, "zoo": SOURCES}


@pytest.mark.parametrize("shelf", SHELVES)
def test_every_file_of_a_shelf_is_a_member_that_loads(shelf):
    catalog = SHELVES[shelf]
    files = {p.stem for p in (ROOT / "capdeploy" / shelf).glob("*.py")} - {"__init__"}
    assert set(catalog.names()) == files
    for name in catalog.names():
        assert catalog.load(name) is not None


def test_an_unknown_member_offers_the_nearest():
    with pytest.raises(ConfigError, match="unknown strategy 'ocpa'; did you mean ocap"):
        STRATEGIES.load("ocpa")
    assert nearest("Cat", ("cat", "dog")) == "did you mean cat?"


def test_listing_imports_no_member():
    code = (
        "import sys; from capdeploy.strategies import STRATEGIES; STRATEGIES.names();"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules and 'x' or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_broken_member_is_not_mistaken_for_a_missing_extra(tmp_path, monkeypatch):
    catalog = Catalog("capdeploy.strategies", "NO_SUCH_NAME", "thing")
    with pytest.raises(AttributeError):
        catalog.load("ocap")


def test_every_error_has_an_exit_code_from_the_table_and_is_in_the_tree():
    kinds = [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, CapdeployError)
    ]
    assert len(kinds) > 10
    for kind in kinds:
        assert kind.exit_code in {1, 2, 3, 4}
        assert kind.__name__ in errors.__doc__
        assert kind.__doc__


def test_files_and_functions_stay_small():
    for path in (ROOT / "capdeploy").rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                doc = node.body[0] if ast.get_docstring(node) else None
                size = node.end_lineno - node.lineno + 1
                size -= (doc.end_lineno - doc.lineno + 1) if doc else 0
                assert size <= 45, f"{path}:{node.lineno} {node.name} has {size} lines"


FIELD = """
import importlib.abc, sys
allowed = set(sys.argv[1].split(",")) | set(sys.stdlib_module_names) | {"capdeploy"}
class Bare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Bare())
from capdeploy import workplace
from capdeploy.bench import gate, matrix, history
from capdeploy.cli import _gate, bench, gate, profiles, report, verify
"""


def test_a_device_needs_no_more_than_the_base_installation():
    """`capdeploy[onnxruntime]` once imported a library that only the workshop's extra brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split("[><=]", each)[0].replace("-", "_") for each in project["dependencies"]}
    # What those bring themselves.
    names |= {"annotated_types", "pydantic_core", "typing_extensions", "typing_inspection",
              "markdown_it", "mdurl", "pygments"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", FIELD, ",".join(names)], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_texts_are_utf_8_wherever_they_are_written():
    """Else what one machine writes, another one cannot read back."""
    for path in (ROOT / "capdeploy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                named = {word.arg for word in node.keywords}
                texts = ("read_text", "write_text", "NamedTemporaryFile")
                if node.func.attr in texts:
                    assert "encoding" in named, f"{path}:{node.lineno}"


@pytest.mark.parametrize("name", profiles.names())
def test_every_shipped_profile_is_valid_and_knows_its_sources(name):
    profile = profiles.load(name)
    assert profile.id == name
    assert set(profile.runtime.runtimes) <= set(RUNTIMES.names())
    assert set(profile.runtime.devices) <= {"cpu", "cuda", "gpu"}
    text = (profiles.FOLDER / f"{name}.toml").read_text()
    assert name == "this-host" or text.count("http") >= 1


def test_the_profiles_asked_for_are_there():
    wanted = {"this-host", "x86-laptop", "raspberry-pi-4", "raspberry-pi-5", "jetson-orin-nano",
              "intel-n100"}  # fmt: skip
    assert wanted <= set(profiles.names())


def test_profile_inheritance_and_its_refusals(tmp_path):
    child = tmp_path / "mine.toml"
    child.write_text('schema = 1\nid = "mine"\ninherits = "intel-n100"\n[runtime]\nthreads = 2\n')
    mine = profiles.load(str(child))
    parent = profiles.load("intel-n100")
    assert mine.runtime.threads == 2
    assert mine.device == parent.device
    child.write_text(f'schema = 1\nid = "mine"\ninherits = "{child}"\n')
    with pytest.raises(ConfigError, match="inherits from itself"):
        profiles.load(str(child))
    child.write_text("not toml")
    with pytest.raises(ConfigError, match="not valid TOML"):
        profiles.load(str(child))
    child.write_text('schema = 1\nid = "mine"\n[device]\narch = "any"\nalgn = 8\n')
    with pytest.raises(ConfigError, match="algn"):
        profiles.load(str(child))
    with pytest.raises(ConfigError, match="did you mean raspberry-pi-4"):
        profiles.load("raspberry-pi4")


def test_schemas_are_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "schemas"), "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def commands_below(command, path):
    yield path, command
    for name in command.list_commands(None) if isinstance(command, click.Group) else ():
        yield from commands_below(command.get_command(None, name), f"{path} {name}")


def test_every_option_is_in_the_list_of_all_commands():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    sections = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])
    there = dict(commands_below(cli.root, "capdeploy"))
    assert sections.keys() == there.keys(), "run scripts/commands"
    for path, command in there.items():
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                words = set(re.findall(r"--[a-z][a-z0-9-]*", sections[path]))
                assert words.issuperset(option.opts[-1:]), (
                    path,
                    option.opts,
                    "run scripts/commands",
                )


def default_of(option, kind):
    """Write the recipe's default as the help does; empty if there is none."""
    default = kind.model_fields[option.name].get_default(call_default_factory=True)
    if isinstance(default, bool):
        return (option.opts if default else option.secondary_opts)[0].removeprefix("--")
    if isinstance(default, tuple):
        return ",".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize(("command", "kind"), [(compress, Recipe), (train, TrainRecipe)])
def test_the_help_tells_every_default(command, kind):
    told = 0
    for option in command.command.params:
        if isinstance(option, click.Option) and option.name in kind.model_fields:
            found = option.help.partition("  [default: ")[2].removesuffix("]")
            default = default_of(option, kind)
            silent = default in {"", "None", "{}", "PydanticUndefined"}
            assert found == ("" if silent or "efault:" in option.help.partition("  [")[0]
                             else default), option.name  # fmt: skip
            told += not silent
    assert told >= 10


@pytest.mark.parametrize(("command", "kind"), [(compress, Recipe), (train, TrainRecipe)])
def test_keys_without_a_flag_are_named(command, kind):
    options = [each for each in command.command.params if isinstance(each, click.Option)]
    others = {"schema_version", "checkpoint"}
    flagless = {*kind.model_fields} - {option.name for option in options} - others
    assert flagless
    [settings] = [option for option in options if option.name == "settings"]
    assert {*settings.help.partition("own: ")[2].rstrip(".").split(", ")} == flagless


def test_documents_satisfy_their_published_schemas(run):
    import json

    import jsonschema

    pairs = {
        "plan": run.bundle / "plan.json",
        "manifest": run.bundle / "manifest.json",
        "report": run.folder / "report.json",
    }
    for name, path in pairs.items():
        schema = json.loads((ROOT / "docs" / "schemas" / f"{name}.json").read_text())
        jsonschema.validate(json.loads(path.read_text()), schema)
    schema = json.loads((ROOT / "docs" / "schemas" / "profile.json").read_text())
    profile = HardwareProfile.model_dump(profiles.load("intel-n100"), mode="json", by_alias=True)
    jsonschema.validate(profile, schema)


PLANTED = {
    "layers": ("capdeploy/values/cost.py", "import capdeploy.score"),
    "wall": ("capdeploy/bench/stats.py", "import onnx"),
    "wall through a member": ("capdeploy/bench/stats.py", "import capdeploy.strategies.ocap"),
    "doors": ("capdeploy/strategies/__init__.py", "import torchvision"),
    "members": ("capdeploy/strategies/ocap.py", "import capdeploy.strategies.taylor"),
    "library": ("capdeploy/train/head.py", "import click"),
    "acyclic": ("capdeploy/values/noun.py", "import capdeploy.values.plan"),
    "exhaustive": ("capdeploy/helpers.py", ""),
}


NAMES = {
    "layers": "Imports only look back along the street BROKEN",
    "wall": "The wall: the field side knows neither the workshop nor torch nor onnx BROKEN",
    "doors": "Shelf doors are light BROKEN",
    "members": "Members of a shelf do not know each other BROKEN",
    "library": "The library does not know its command line BROKEN",
    "acyclic": "No import cycles between siblings BROKEN",
    "exhaustive": "helpers",
}
NAMES["wall through a member"] = NAMES["wall"]


@pytest.mark.parametrize("contract", PLANTED)
def test_each_contract_reports_a_planted_violation(contract, tmp_path):
    file, line = PLANTED[contract]
    shutil.copytree(ROOT / "capdeploy", tmp_path / "capdeploy")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    target = tmp_path / file
    old = target.read_text() if target.exists() else ""
    target.write_text(f"{old}\n{line}\n")
    tool = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [str(tool), "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert NAMES[contract] in done.stdout + done.stderr


def test_recipe_layers_in_order(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(
        'checkpoint = "file.pth"\narch = "resnet18"\ndata = "digits"\nseed = 1\nepochs = 1\n'
        'batch_size = 10\nstrategy = "taylor"\n'
    )
    env = {"CAPDEPLOY_SEED": "2", "CAPDEPLOY_EPOCHS": "2", "CAPDEPLOY_CLASSES": "a,b", "HOME": "x",
           "CAPDEPLOY_COMPLETE": "bash"}  # fmt: skip
    made = recipes.resolve(file, env, ["epochs=3", "ratio=0.5,0.75"], {"batch_size": 20})
    assert (made.seed, made.epochs, made.batch_size, made.strategy) == (2, 3, 20, "taylor")
    assert made.classes == ("a", "b")
    assert made.ratio == (0.5, 0.75)
    env = {"CAPDEPLOY_MEAN": "0.5", "CAPDEPLOY_STD": "0.1,0.2,0.3"}
    told = recipes.resolve(file, env, ["input_size=32"], {})
    assert (told.mean, told.std, told.input_size) == ((0.5,) * 3, (0.1, 0.2, 0.3), (32, 32))
    again = tmp_path / "again.toml"
    again.write_text(recipes.to_toml(made))
    assert recipes.resolve(again, {}, [], {}) == made


def test_align_comes_from_the_profile_unless_given(tmp_path):
    file = tmp_path / "wide.toml"
    file.write_text('schema = 1\nid = "wide"\n[device]\narch = "any"\nalign = 16\n')
    base = {"checkpoint": "c", "arch": "a", "data": "digits", "profile": str(file)}
    assert recipes.resolve(None, {}, [], base).align == 16
    assert recipes.resolve(None, {}, [], base | {"align": 4}).align == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["epohcs=1"], "unknown recipe key 'epohcs'; did you mean epochs"),
        (["epochs"], "expected key=value"),
        (["epochs=many"], "epochs: .*valid integer"),
        (["ratio=abc"], "ratio"),
    ],
)
def test_bad_settings_are_one_line(settings, words):
    base = {"checkpoint": "c", "arch": "a", "data": "digits"}
    with pytest.raises(ConfigError, match=words):
        recipes.resolve(None, {}, settings, base)


@pytest.mark.parametrize(
    "arguments", [["list"], ["list", "shelves"], ["compress", "--residual", "x"]]
)
def test_what_is_refused_before_a_command_runs_is_one_line(arguments, capsys):
    assert cli._run(arguments, debug=False) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
