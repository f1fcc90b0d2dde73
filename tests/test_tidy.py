"""The style guide as a test: sizes, dead modules, banned calls, what the package may name."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "ostraka"
FILES = sorted(SOURCE.rglob("*.py"))
SANS_IO = (
    *("net", "mailbox", "party", "wire", "algebra", "crypto", "sharing"),
    *("protocols", "rules", "trust", "attacks"),
)
FUNCTION_LINES, FILE_LINES, PROTOCOL_LINES = 70, 400, 250
ASSERTS_ALLOWED = 12


def module(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


def dotted(node: ast.AST) -> str:
    """`np.random.default_rng` for such an expression, else an empty text."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in FILES:
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def is_sans_io(path: Path) -> bool:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py") in SANS_IO


@pytest.mark.parametrize("path", FILES, ids=module)
def test_files_are_at_most_400_lines_and_protocols_250(path: Path) -> None:
    limit = PROTOCOL_LINES if path.parent.name == "protocols" else FILE_LINES
    assert len(path.read_text().splitlines()) <= limit


def test_functions_are_at_most_70_lines() -> None:
    long = [
        f"{module(path)}.{node.name}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES
    ]
    assert long == []


def test_no_eval_exec_pickle_or_object_arrays_anywhere() -> None:
    banned = {"eval", "exec", "compile", "__import__"}
    found = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = dotted(node.func)
                if name in banned or name in {"torch.load", "np.frompyfunc"}:
                    found.append(f"{module(path)}:{node.lineno} {name}")
                if any(k.arg == "allow_pickle" and _true(k.value) for k in node.keywords):
                    found.append(f"{module(path)}:{node.lineno} allow_pickle")
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                if {"pickle", "marshal", "shelve", "dill"} & set(names):
                    found.append(f"{module(path)}:{node.lineno} pickle")
    assert found == []


def _true(node: ast.AST) -> bool:
    return not (isinstance(node, ast.Constant) and node.value is False)


def test_no_hidden_randomness_or_clock_where_protocols_and_rules_live() -> None:
    """import-linter cannot see numpy.random or os.urandom; generators come in as arguments."""
    allowed = {"np.random.Generator"}
    found = []
    for path, tree in trees():
        if not is_sans_io(path):
            continue
        for node in ast.walk(tree):
            name = dotted(node) if isinstance(node, ast.Attribute) else ""
            hidden = name.startswith(("np.random.", "numpy.random.", "os.", "sys.std"))
            if hidden and name not in allowed:
                found.append(f"{module(path)}:{node.lineno} {name}")
    assert found == []


def test_no_global_random_state_anywhere() -> None:
    """Even drivers and learning use explicit generators only."""
    allowed = {"Generator", "PCG64", "SeedSequence", "Random", "fork_rng"}
    found = []
    for path, tree in trees():
        for node in ast.walk(tree):
            name = dotted(node) if isinstance(node, ast.Attribute) else ""
            is_global = re.match(r"(np|numpy|torch)\.random\.\w+$|random\.\w+$", name)
            if is_global and name.rpartition(".")[2] not in allowed:
                found.append(f"{module(path)}:{node.lineno} {name}")
    assert found == []


ARRIVING = {
    "ostraka.trust.serverless.peer",
}
"""Parts of trust model serverless (docs/adr/0006-serverless-parts.md) that stand, with their tests,
before what will use them. Whoever uses one takes it out of here."""


def test_every_module_is_used() -> None:
    text = {path: path.read_text() for path in FILES}
    outside = "".join(p.read_text() for p in (ROOT / "pyproject.toml",))
    dead = []
    for path in FILES:
        name = module(path)
        if path.name == "__init__.py":
            continue
        parent, _, last = name.rpartition(".")
        patterns = (f"from {name} import", f"import {name}", f'"{name}"', f"{name}:")
        within = any(p in t for p in patterns for q, t in text.items() if q != path)
        within |= any(
            re.search(rf"from {re.escape(parent)} import [^\n]*\b{last}\b", t)
            for q, t in text.items()
            if q != path
        )
        if not within and f"{name}:" not in outside:
            dead.append(name)
    assert set(dead) == ARRIVING


def test_broad_excepts_stand_only_at_the_outermost_frame() -> None:
    found = [
        module(path)
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or dotted(node.type) in {"Exception", "BaseException"})
    ]
    assert found == ["ostraka.app.cli"]


def test_asserts_are_few() -> None:
    """`assert` is for what cannot happen whatever peers do; the suite also passes under -O."""
    count = sum(isinstance(n, ast.Assert) for _, tree in trees() for n in ast.walk(tree))
    assert count <= ASSERTS_ALLOWED


def test_everything_public_is_annotated_and_documented() -> None:
    bare = []
    for path, tree in trees():
        if not ast.get_docstring(tree):
            bare.append(module(path))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is None:
                bare.append(f"{module(path)}.{node.name}")
    assert bare == []


def test_no_unfinished_words() -> None:
    words = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError|placeholder|stub)\b", re.IGNORECASE)
    found = [f"{module(p)}: {m[0]}" for p in FILES if (m := words.search(p.read_text()))]
    assert found == []


def test_dependencies_have_lower_bounds_only_and_constraints_pin_all() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["learn"], *extras["dev"]]
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for requirement in wanted:
        name, _, bound = requirement.partition(">=")
        assert bound, requirement
        assert not set("<=!~,") & set(bound), requirement
        assert name.lower().replace("_", "-") in pinned, requirement


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return listed.stdout.split()


def test_no_data_set_is_in_the_repository_but_the_digits() -> None:
    heavy = [
        name
        for name in tracked()
        if re.search(r"ubyte|\.npz$|\.bin$|\.pt$|\.pkl$", name)
        and not name.endswith("learn/datasets/digits.npz")
    ]
    assert heavy == []
