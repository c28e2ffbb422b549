"""Finding the verb, help, and mistakes: one line on standard error, exit code 2, and no traceback unless asked for."""

import json
import pathlib
import re

import jax
import pytest

from mmjax import __version__
from mmjax.cli.main import VERBS, main
from mmjax.core.errors import ConfigError, InputError, MmjaxError
from tests.cli.program import run_program

CONFIG = "configs/flamingo_digits.py:tiny"


def test_help_names_every_verb_and_how_settings_are_changed(mmjax):
    code, out, err = mmjax("--help")
    assert (code, err) == (0, "")
    for verb, summary in VERBS.items():
        assert verb in out and summary in out
    assert "--config.KEY=VALUE" in out and "exit codes: 0 done, 1 failed, 2" in out
    assert mmjax("--version") == (0, f"mmjax {__version__}\n", "")


SETTING = "a setting of the configuration is --config"


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb, mmjax):
    code, out, err = mmjax(verb, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: mmjax {verb} ")
    options = out.split("options:")[1]
    reports = () if verb == "chat" else ("--json",)  # a conversation is no report
    for option in ("--help", "--debug", "--simulate-devices N", *reports):
        assert option in options
    described = out.split("\n\n")[1]
    assert described[0].isupper() and described.strip()
    # Every option has an explanation: its line, or the next, goes on after the name.
    lines = [line for line in options.splitlines() if line.strip()]
    for here, below in zip(lines, [*lines[1:], ""], strict=True):
        if here.startswith("  -"):
            assert re.match(r"  -.*?\S  +\S", here) or below.startswith(" " * 10), here


def test_without_a_verb_the_help_is_shown(mmjax):
    code, out, err = mmjax()
    assert (code, out) == (2, "") and err.startswith("usage: mmjax") and "train" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no verb 'trian'; did you mean train? (mmjax --help explains)"),
        (
            ["zzz"],
            "there is no verb 'zzz'; valid are: chat, data, eval, export, generate, import, inspect, parity,",
        ),
        (["--bogus"], "unrecognized arguments: --bogus (mmjax --help explains)"),
        (["train"], "the following arguments are required: --config, --workdir (mmjax train --help explains)"),
        (["inspect", "--bogus"], f"there is no option --bogus; {SETTING}.bogus (mmjax inspect --help explains)"),
        (
            ["inspect", "a", "--bogus=1"],
            f"there is no option --bogus=1; {SETTING}.bogus=1 (mmjax inspect --help explains)",
        ),
        (["inspect", "a", "b"], "there is no option b (mmjax inspect --help explains)"),
        (["train", "--config", CONFIG, "--work", "x"], "the following arguments are required: --workdir"),
        (["eval", "--checkpoint", "x", "--seeds", "many"], "argument --seeds: invalid int value: 'many' (mmjax eval"),
        (["data", "shwo", "--config", CONFIG], "argument what: invalid choice: 'shwo' (choose from"),
        (["inspect", "--config", CONFIG, "--simulate-devices", "0"], "--simulate-devices must be 1 or more, not 0"),
        (["inspect"], "give either a PATH (a workdir, a checkpoint) or --config FILE"),
        (["inspect", "a", "--config", CONFIG], "give either a PATH (a workdir, a checkpoint) or --config FILE"),
        (["inspect", "a", "--config.seed=1"], "--config.seed=1 changes a config file, but no --config FILE is given"),
        (
            ["eval", "--checkpoint", "x", "--config.seed=1"],
            "--config.seed=1: eval takes no settings, a run keeps its own",
        ),
        (["inspect", "--config", CONFIG, "--config.seed"], "--config.seed needs a value: --config.seed=VALUE"),
        (
            ["inspect", "--config", CONFIG, "--config.seed", "--json"],
            "--config.seed needs a value: --config.seed=VALUE",
        ),
        (["inspect", "--config", CONFIG, "--config.sed=1"], "config.sed is not a setting; did you mean seed?"),
        (["inspect", "--config", CONFIG, "--config.seed=a"], "config.seed must be a whole number, not 'a' (str)"),
        (
            ["inspect", "--config", "flamingo_digts"],
            "there is no config file flamingo_digts; did you mean flamingo_digits",
        ),
        (["train", "--config", "nowhere.py", "--workdir", "x"], "there is no config file nowhere.py; valid are: "),
    ],
)
def test_a_mistake_is_one_line(arguments, message, refused):
    assert refused(*arguments).startswith(message)


@pytest.mark.parametrize("verb", ["inspect", "data"])
def test_a_setting_may_follow_its_name_without_an_equals_sign(verb, mmjax):
    """Also where the verb takes words of its own."""
    words = {"inspect": [], "data": ["ids", "--steps", "0:1"]}[verb]
    spelled = mmjax(verb, "--config", CONFIG, "--config.seed", "5", "--config.mesh.data", "-1", *words, "--json")
    joined = mmjax(verb, *words, "--config", CONFIG, "--config.seed=5", "--config.mesh.data=-1", "--json")
    assert spelled == joined and joined[0] == 0


def fails_with(error, monkeypatch):
    """A verb that raises `error`."""

    def run(options):
        raise error

    monkeypatch.setattr("mmjax.cli.inspect.run", run)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("no such thing;\n  give another"), 2, "error: no such thing; give another\n"),
        (ConfigError("a.b is wrong"), 2, "error: a.b is wrong\n"),
        (MmjaxError("it did not work"), 1, "error: it did not work\n"),
        (
            ValueError("shapes\n(2,) and (3,)"),
            1,
            "error: ValueError: shapes (2,) and (3,) (the same command with --debug shows where)\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(error, code, line, monkeypatch, mmjax):
    fails_with(error, monkeypatch)
    assert mmjax("inspect", "x") == (code, "", line)


@pytest.mark.parametrize("error", [InputError("no such thing"), ValueError("shapes")])
def test_debug_shows_where_an_error_came_from(error, monkeypatch, mmjax):
    fails_with(error, monkeypatch)
    with pytest.raises(type(error), match=str(error)):
        main(["inspect", "x", "--debug"])


def test_what_stands_before_jax_starts(monkeypatch, tmp_path, mmjax):
    monkeypatch.setattr("mmjax.cli.inspect.run", lambda options: 0)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert mmjax("inspect", "x") == (0, "", "")
    assert pathlib.Path(jax.config.jax_compilation_cache_dir).is_relative_to(tmp_path / "mmjax")


def test_the_installed_program():
    """The same by the program of the environment: exit codes, and nothing but the answer on standard output."""
    code, out, err = run_program("inspect", "--config", CONFIG, "--config.optim.learning_rat=1")
    assert (code, out) == (2, "")
    assert err == "error: config.optim.learning_rat is not a setting; did you mean learning_rate?\n"
    code, out, err = run_program("inspect", "--config", CONFIG, "--config.optim.learning_rat=1", "--debug")
    assert code == 1 and out == "" and "Traceback" in err and "ConfigError" in err


def test_simulated_devices_are_processors_whatever_else_there_is():
    arguments = ("inspect", "--config", CONFIG, "--json", "--simulate-devices", "3")
    code, out, err = run_program(*arguments, JAX_PLATFORMS="rocm")
    assert (code, err) == (0, "")
    assert json.loads(out)["parameters"] > 0
