"""Config files and `--config.KEY=VALUE`: what is taken, and what is refused in words that say what to change."""

import pytest

from mmjax.cli.configs import load_config
from mmjax.core.config import to_tree
from mmjax.core.errors import ConfigError


def load(*overrides, reference="configs/flamingo_digits.py:tiny"):
    return load_config(reference, [tuple(item.split("=", 1)) for item in overrides])


def at(config, path):
    """The value at a dotted path of a configuration."""
    node = to_tree(config)
    for key in path.split("."):
        node = node[int(key)] if isinstance(node, list) else node[key]
    return node


@pytest.mark.parametrize("reference", ["flamingo_digits", "configs/flamingo_digits.py"])
def test_a_config_is_found_by_file_or_by_name(reference, tmp_path, monkeypatch):
    assert load(reference=reference) == load(reference="flamingo_digits")
    if "/" not in reference:
        monkeypatch.chdir(tmp_path)  # from anywhere
        assert load(reference=reference).batch_size == 16


def test_the_argument_chooses_a_variant():
    assert load().total_steps == 4 < load(reference="flamingo_digits").total_steps
    with pytest.raises(ConfigError, match="'tny' is no variant of this config; did you mean tiny"):
        load(reference="flamingo_digits:tny")


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("optim.learning_rate=1e-3", 1e-3),
        ("optim.learning_rate=1", 1.0),
        ("total_steps=1e3", 1000),
        ("mesh.data=-1", -1),
        ("data.pack=false", False),
        ("data.pack=True", True),
        ("compute_dtype=bfloat16", "bfloat16"),
        ("init_from=7", "7"),  # text stays text
        ("init_from=runs/a=b", "runs/a=b"),
        ("init_from=", ""),
        ("model.config.decoder.kv_heads=2", 2),
        ("model.config.decoder.kv_heads=None", None),
        ("model.config.decoder.remat=full", "full"),  # a default that the file does not spell out
        ("data.sources.read.options.holdout=tail", "tail"),
        ("data.sources.read.options.shots=[0,3]", [0, 3]),
        ("data.sources.read.options.shots=0,3", [0, 3]),
        ("data.sources.read.options.shots=3", [3]),
        ("data.sources.read.options.shots.1=7", 7),
        ("evaluation.tasks=read_single", ["read_single"]),
        ("evaluation.tasks=read_single, bind_2way", ["read_single", "bind_2way"]),
        ("evaluation.tasks=", []),
        ("optim.groups.0.weight_decay=0.5", 0.5),
        ("optim.groups.1={'pattern': '.*', 'learning_rate': 2}", {"learning_rate": 2.0, "frozen": False}),
        ("data.phases=[]", []),
        ("data.phases.0.weights.bind=2", 2.0),  # a name that was not there
        ("tokenizer.special.image=<|image|>", "<|image|>"),
    ],
)
def test_an_override_is_read_as_the_setting_that_it_replaces(override, value):
    found = at(load(override), override.split("=")[0])
    if isinstance(value, dict):
        assert value.items() <= found.items()
    else:
        assert found == value and type(found) is type(value)


def test_a_part_that_is_given_whole_can_be_overridden_next():
    whole = "data.sources={'b': {'kind': 'digits_bind', 'options': {'ways': [3]}}}"
    config = load("data.phases=[]", whole, "data.sources.b.options.shots=2,4")
    assert at(config, "data.sources.b.options.shots") == [2, 4]
    assert at(config, "data.sources.b.options.ways") == [3]


def test_the_last_of_two_overrides_counts():
    assert load("seed=1", "seed=2").seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rat=1", "config.optim.learning_rat is not a setting; did you mean learning_rate?"),
        ("opitm.learning_rate=1", "config.opitm is not a setting; did you mean optim?"),
        ("zzz=1", "config.zzz is not a setting; valid are: accumulate_steps, batch_size, "),
        ("optim.learning_rate=fast", "config.optim.learning_rate must be a number, not 'fast' (str)"),
        ("optim.learning_rate=0", "config.optim: learning_rate must be positive, not 0.0"),
        ("total_steps=2.5", "config.total_steps must be a whole number, not 2.5 (float)"),
        ("total_steps=True", "config.total_steps must be a whole number, not True (bool)"),
        ("total_steps=0", "config: total_steps must be at least 1, not 0"),
        ("data.pack=maybe", "config.data.pack must be True or False, not 'maybe' (str)"),
        ("compute_dtype=float16", "config.compute_dtype must be one of 'float32', 'bfloat16', not 'float16' (str)"),
        ("optim=3", "config.optim must be a group of settings (OptimConfig), not 3 (int)"),
        ("seed.x=3", "config.seed is a single value; it has no x"),
        ("seed.x.y=3", "config.seed is a single value; it has no x"),
        ("optim.groups.2.frozen=True", "config.optim.groups is a list of 2: name an item by 0 to 1, not 2"),
        ("optim.groups.-1.frozen=True", "config.optim.groups is a list of 2: name an item by 0 to 1, not -1"),
        (
            "evaluation.shots.0=1",
            "config.evaluation.shots is an empty list; give all of it: config.evaluation.shots=[...]",
        ),
        (
            "model.config.decoder.remmat=full",
            "config.model.config.decoder.remmat is not a setting; did you mean remat?",
        ),
        (
            "model.config.decoder.kv_heads=many",
            "config.model.config.decoder.kv_heads must be a whole number or None, not",
        ),
        ("model.family=flamngo", "config.model.family 'flamngo' is not a family; did you mean flamingo?"),
        (
            "data.sources.read.options.shot=1",
            "config.data.sources.read.options.shot is not a setting; did you mean shots?",
        ),
        (
            "data.sources.read.kind=digits_raed",
            "config.data.sources.read.kind 'digits_raed' is not a kind of data; did",
        ),
        ("data.sources.reed.weight=1", "config.data.sources.reed is not a setting; did you mean read?"),
        ("optim.schedule.kind=linear", "config.optim.schedule.kind must be one of 'constant', 'cosine', 'wsd', not"),
        ("accumulate_steps=3", "config: batch_size (8) must be a multiple of accumulate_steps (3)"),
    ],
)
def test_a_wrong_override_is_named(override, message):
    with pytest.raises(ConfigError) as caught:
        load(override)
    assert str(caught.value).startswith(message)


FILE = """
import ml_collections

def get_config(arg=""):
    config = ml_collections.ConfigDict()
    {}
    return config
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FILE.format("config.sed = 0"), "config.sed is not a setting; did you mean seed?"),
        (FILE.format("config.seed = 0"), "config.total_steps is missing; it must be set (a whole number)"),
        (FILE.format("config.seed = 'a'"), "config.seed must be a whole number, not 'a' (str)"),
        (FILE.format("config.seed = zero"), "FILE failed: NameError: name 'zero' is not defined"),
        ("def get_config(:", "FILE failed: SyntaxError: "),
        ("import nonsense_module", "FILE failed: ModuleNotFoundError: No module named 'nonsense_module'"),
        ("x = 1", "FILE has no function get_config(arg)"),
        ("get_config = dict", "get_config of FILE must return an ml_collections.ConfigDict, not dict"),
    ],
)
def test_a_file_that_is_wrong_says_how(text, message, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(reference=str(file))
    assert str(caught.value).startswith(message.replace("FILE", str(file)))


def test_a_file_that_is_not_there_names_the_nearest(tmp_path):
    with pytest.raises(
        ConfigError, match=r"^there is no config file configs/flamingo_digts.py; did you mean flamingo_d"
    ):
        load(reference="configs/flamingo_digts.py")
    with pytest.raises(ConfigError, match=r"; valid are: clip_l14, flamingo_3b, .*, siglip_so400m$"):
        load(reference=str(tmp_path))


def test_a_resolved_configuration_is_a_fixed_point():
    config = load("optim.learning_rate=2e-3")
    assert config.resolved() == config
    assert config.data.sources["read"].options["holdout"] == "random"
    assert config.model.config["decoder"]["remat"] == "none"
