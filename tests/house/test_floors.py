"""The house: imports go down its floors only, files stay small and named for what they do, shapes stand in signatures.

Each rule is a function from a parsed file to what is wrong with it; it is run over the repository, and over
small made-up files that break it.
"""

import ast
import dataclasses
import pathlib
from collections.abc import Iterator
from types import EllipsisType

import pytest

ROOT = pathlib.Path(__file__).parents[2]

FLOORS = {
    "core": 0,
    "ops": 1,
    "parallel": 1,
    "text": 1,
    "layers": 2,
    "data": 2,
    "models": 3,
    "optim": 3,
    "objectives": 4,
    "checkpoints": 4,
    "decoding": 4,
    "interop": 5,
    "training": 6,
    "evaluation": 6,
    "parity": 6,
    "planning": 7,
    "serving": 7,
    "reporting": 7,
    "cli": 8,
    "__main__": 9,  # `python -m mmjax`
}
OUTSIDE = ("third_party", "tests", "benchmarks", "launch")
DRAWERS = ("utils", "util", "common", "helpers", "helper", "misc")
SHAPED_HOUSES = ("ops", "layers", "models", "objectives")
MAX_LINES = 500


@dataclasses.dataclass(frozen=True)
class File:
    """A source file by its path in the repository."""

    path: pathlib.PurePosixPath
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def house(self) -> str | None:
        """The part of mmjax that the file belongs to; "" for mmjax itself, None outside of it."""
        if self.path.parts[0] != "mmjax":
            return None
        return "" if self.path.name == "__init__.py" and len(self.path.parts) == 2 else self.path.parts[1].split(".")[0]

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") and not part.startswith("__") for part in self.path.parts)

    @property
    def package(self) -> list[str]:
        return list(self.path.parent.parts)


def files_under(*folders: str, suffixes: tuple[str, ...] = (".py",)) -> list[File]:
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.suffix in suffixes)
    return [File(pathlib.PurePosixPath(path.relative_to(ROOT)), path.read_text()) for path in paths]


def imported_modules(file: File) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, wherever in the file it does so.

    `from a import b` gives `a.b`: b may be a module of a.
    """
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = file.package[: len(file.package) + 1 - node.level] if node.level else []
            base += [node.module] if node.module else []
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            literals = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from ((node.lineno, name) for name in literals if isinstance(name, str))


def imported_within_functions(file: File) -> Iterator[tuple[int, str]]:
    """Line and name of the imports within functions."""
    for node in file.tree.body:
        if isinstance(node, ast.FunctionDef):
            yield from ((inner.lineno, node.name) for inner in ast.walk(node) if isinstance(inner, ast.ImportFrom))


def wrong_imports(file: File) -> Iterator[str]:
    """Imports of mmjax that go up, or across to another house of the same floor, or out of the house.

    mmjax itself may import from any floor, but only when a name is asked for (within a function).
    """
    if file.house and file.house not in FLOORS:
        yield f"{file.path}: {file.house} is on no floor; give it one in the README and here"
        return
    here = FLOORS.get(file.house, 0)
    late = {line for line, _ in imported_within_functions(file)} if file.house == "" else set()
    for line, name in imported_modules(file):
        if line in late:
            continue
        top, _, rest = name.partition(".")
        house = rest.split(".")[0]
        if top in OUTSIDE:
            yield f"{file.path}:{line}: {name} is outside of mmjax, which imports nothing from there"
        elif top == "mmjax" and house and not house.startswith("__") and house != file.house:
            if house not in FLOORS:
                yield f"{file.path}:{line}: {name} is on no floor"
            elif not file.house or FLOORS[house] >= here:
                yield f"{file.path}:{line}: {name} (floor {FLOORS[house]}) from floor {here}; imports go down only"


def wrong_configuration_imports(file: File) -> Iterator[str]:
    """ConfigDict below the command line: there each part has a frozen dataclass."""
    if file.house != "cli":
        for line, name in imported_modules(file):
            if name.split(".")[0] == "ml_collections":
                yield f"{file.path}:{line}: only the command line and configs/ know ml_collections"


def wrong_size(file: File) -> Iterator[str]:
    lines = len(file.text.splitlines())
    if lines > MAX_LINES:
        yield f"{file.path}: {lines} lines; cut it in parts of at most {MAX_LINES}"


def wrong_name(file: File) -> Iterator[str]:
    names = {pathlib.PurePosixPath(part).stem for part in file.path.parts}
    for name in sorted(names.intersection(DRAWERS)):
        if str(file.path) != "configs/common.py":
            yield f"{file.path}: {name} is a drawer, not a name; say what is in it"


def missing_docstring(file: File) -> Iterator[str]:
    if file.is_public and not ast.get_docstring(file.tree):
        yield f"{file.path}: a public module says in a docstring what it is for"


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Public functions of a module, and the public methods and `__call__` of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and (method.name == "__call__" or method.name[0] != "_"):
                    yield method


def has_unshaped_array(annotation: ast.expr) -> bool:
    """Whether an array type occurs without dtype and shape around it: `Array`, not `Float[Array, "B T"]`."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return has_unshaped_array(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple):
        first, *rest = annotation.slice.elts
        shaped = len(rest) == 1 and isinstance(rest[0], ast.Constant) and isinstance(rest[0].value, str | EllipsisType)
        if shaped and is_array_type(first):
            return False
    if is_array_type(annotation):
        return True
    return any(has_unshaped_array(child) for child in ast.iter_child_nodes(annotation) if isinstance(child, ast.expr))


def is_array_type(node: ast.expr) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
    return name in ("Array", "ndarray", "ArrayLike")


def missing_shapes(file: File) -> Iterator[str]:
    """Parameters of public functions without an annotation, and arrays in a signature without dtype and shape."""
    if file.house not in SHAPED_HOUSES or not file.is_public:
        return
    for function in public_functions(file.tree):
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        extra = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
        for argument in [*named, *extra]:
            if argument.annotation is None and argument.arg not in ("self", "cls"):
                yield f"{file.path}:{argument.lineno}: {function.name}({argument.arg}) has no annotation"
            elif argument.annotation is not None and has_unshaped_array(argument.annotation):
                yield f"{file.path}:{argument.lineno}: {function.name}({argument.arg}) is an array without a shape"
        if function.returns is not None and has_unshaped_array(function.returns):
            yield f"{file.path}:{function.lineno}: {function.name} returns an array without a shape"


SOURCES = (".py", ".html", ".js", ".css")
RULES = [
    (wrong_imports, ("mmjax",), (".py",)),
    (wrong_configuration_imports, ("mmjax",), (".py",)),
    (missing_docstring, ("mmjax", "launch"), (".py",)),
    (missing_shapes, ("mmjax",), (".py",)),
    (wrong_name, ("mmjax", "tests", "configs", "launch"), SOURCES),
    (wrong_size, ("mmjax", "tests", "configs", "launch"), SOURCES),
]


@pytest.mark.parametrize("rule, folders, suffixes", RULES, ids=[rule.__name__ for rule, _, _ in RULES])
def test_the_repository_keeps_the_rule(rule, folders, suffixes):
    found = [problem for file in files_under(*folders, suffixes=suffixes) for problem in rule(file)]
    assert not found, "\n" + "\n".join(found)


def test_the_rules_see_the_repository():
    houses = {file.house for file in files_under("mmjax")}
    assert {"", "core", "ops", "checkpoints"} <= houses
    assert any(file.path.name == "conftest.py" for file in files_under("tests"))


BROKEN = [
    (wrong_imports, "mmjax/ops/a.py", "from mmjax.layers import mlp", "imports go down only"),
    (wrong_imports, "mmjax/ops/a.py", "import mmjax.parallel.mesh", "imports go down only"),
    (wrong_imports, "mmjax/ops/a.py", "from mmjax import training", "imports go down only"),
    (wrong_imports, "mmjax/ops/deep/a.py", "from ...models import vit", "imports go down only"),
    (wrong_imports, "mmjax/ops/__init__.py", "from ..models.vit import ViT", "imports go down only"),
    (wrong_imports, "mmjax/core/a.py", "def f():\n    from mmjax.ops import rope", "imports go down only"),
    (
        wrong_imports,
        "mmjax/core/a.py",
        "import importlib\nimportlib.import_module('mmjax.cli')",
        "imports go down only",
    ),
    (wrong_imports, "mmjax/__init__.py", "from mmjax.core import errors", "imports go down only"),
    (wrong_imports, "mmjax/tools/a.py", "", "tools is on no floor"),
    (wrong_imports, "mmjax/cli.py", "from mmjax.tools import a", "mmjax.tools.a is on no floor"),
    (wrong_imports, "mmjax/cli.py", "import third_party.lmms", "outside of mmjax"),
    (wrong_configuration_imports, "mmjax/training/a.py", "from ml_collections import ConfigDict", "ml_collections"),
    (missing_docstring, "mmjax/ops/a.py", "x = 1", "docstring"),
    (wrong_name, "mmjax/ops/utils.py", "", "drawer"),
    (wrong_name, "tests/helpers/a.py", "", "drawer"),
    (wrong_name, "mmjax/common.py", "", "drawer"),
    (wrong_size, "configs/a.py", "x = 1\n" * 501, "501 lines"),
    (missing_shapes, "mmjax/ops/a.py", "def f(x): ...", "f(x) has no annotation"),
    (missing_shapes, "mmjax/ops/a.py", "def f(x: jax.Array): ...", "f(x) is an array without a shape"),
    (missing_shapes, "mmjax/ops/a.py", "def f(x: Array | None = None): ...", "f(x) is an array without a shape"),
    (missing_shapes, "mmjax/ops/a.py", "def f(x: 'dict[str, Array]'): ...", "f(x) is an array without a shape"),
    (missing_shapes, "mmjax/ops/a.py", "def f(*x: np.ndarray): ...", "f(x) is an array without a shape"),
    (missing_shapes, "mmjax/ops/a.py", "def f() -> Array: ...", "returns an array without a shape"),
    (missing_shapes, "mmjax/layers/a.py", "class A:\n    def __call__(self, x): ...", "__call__(x) has no annotation"),
]


@pytest.mark.parametrize("rule, path, text, problem", BROKEN, ids=[f"{case[0].__name__}-{case[1]}" for case in BROKEN])
def test_a_broken_rule_is_noticed(rule, path, text, problem):
    (found,) = rule(File(pathlib.PurePosixPath(path), text))
    assert problem in found


KEPT = [
    (wrong_imports, "mmjax/cli.py", "from mmjax.training import loop\nimport numpy\nfrom mmjax import __version__"),
    (
        wrong_imports,
        "mmjax/__init__.py",
        "def __getattr__(name):\n    from mmjax.interop.pretrained import load_pretrained",
    ),
    (wrong_imports, "mmjax/models/deep/a.py", "from mmjax.models import b\nfrom ..b import C\nfrom . import d"),
    (wrong_configuration_imports, "mmjax/cli/train.py", "import ml_collections"),
    (missing_docstring, "mmjax/ops/_a.py", "x = 1"),
    (wrong_name, "configs/common.py", ""),
    (
        missing_shapes,
        "mmjax/ops/a.py",
        "def f(x: Float[Array, 'B T'] | None, n: int) -> dict[str, Int[Array, '']]: ...",
    ),
    (missing_shapes, "mmjax/ops/a.py", "def f(x: 'Float[np.ndarray, \"B\"]', y: PyTree): ...\ndef _g(x): ..."),
    (missing_shapes, "mmjax/training/a.py", "def f(x): ..."),
    (missing_shapes, "mmjax/ops/a.py", "def f(x: Float[Array, ...]): ..."),
    (missing_shapes, "mmjax/ops/_a.py", "def f(x): ..."),
]


@pytest.mark.parametrize("rule, path, text", KEPT, ids=[f"{case[0].__name__}-{case[1]}" for case in KEPT])
def test_what_keeps_the_rule_is_left_alone(rule, path, text):
    assert not list(rule(File(pathlib.PurePosixPath(path), text)))
