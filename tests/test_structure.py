"""The shape of the code: who may import whom, how long a file may be, and nothing patched from outside."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "secformer_jax"
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))
MAX_LINES = 300
MAY_IMPORT = {
    "errors": (),
    "functions": ("errors",),
    "models": ("errors", "functions"),
    "evaluation": ("errors", "functions", "models"),
    "training": ("errors", "functions", "models", "evaluation"),
    "mpc": ("errors", "functions"),
    "openings": ("errors", "functions", "models", "mpc"),
    "inference": ("errors", "functions", "models", "mpc", "openings"),
    "cluster": ("errors", "functions", "models", "mpc", "openings", "inference"),
    "files": ("errors",),
    "pipelines": ("errors", "functions", "models", "mpc", "openings", "inference", "cluster"),
    "gateway": ("errors", "functions", "models", "mpc", "openings", "inference", "cluster"),
    "cli": (
        *("errors", "functions", "models", "evaluation", "training", "mpc", "openings", "inference", "cluster"),
        *("files", "pipelines", "gateway"),
    ),
}
"""What each part of the package may import besides itself. `mpc` alone imports spu."""

PLAIN = ("errors", "functions", "models", "evaluation", "training")
"""What trains and answers in plaintext, on machines without SPU."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_by(path: Path) -> set[str]:
    """Full names of the modules (and of what may be modules) that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            found |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return found


IMPORTS = {module_name(path): imported_by(path) for path in FILES}


def imports(name: str, *roots: str) -> set[str]:
    """What a module imports from under any of these."""
    return {found for found in IMPORTS[name] if any(found == root or found.startswith(f"{root}.") for root in roots)}


def part(name: str) -> str:
    """The part of the package that a module belongs to; "" for what stands at its root."""
    return name.split(".")[1] if "." in name else ""


def test_every_module_has_its_part():
    loose = {path.name for path in (ROOT / PACKAGE).glob("*.py")}
    assert loose == {"__init__.py", "__main__.py", "errors.py"}
    assert {part(name) for name in IMPORTS} == {"", "__main__", *MAY_IMPORT}
    assert f"{PACKAGE}.mpc.runtime.config" in IMPORTS[f"{PACKAGE}.mpc.runtime.engine"]


@pytest.mark.parametrize("name", [name for name in IMPORTS if part(name) in MAY_IMPORT])
def test_parts_import_downwards(name):
    allowed = (part(name), *MAY_IMPORT[part(name)])
    others = imports(name, PACKAGE) - imports(name, *(f"{PACKAGE}.{each}" for each in allowed))
    assert others <= {PACKAGE, *(f"{PACKAGE}.{each}" for each in allowed), f"{PACKAGE}.__version__"}


@pytest.mark.parametrize("name", IMPORTS)
def test_imports_are_absolute(name):
    assert not {found for found in IMPORTS[name] if found.startswith(".")}


@pytest.mark.parametrize("name", [name for name in IMPORTS if part(name) == "functions"])
def test_functions_need_jax_only(name):
    others = {found.split(".")[0] for found in IMPORTS[name]} - {PACKAGE}
    assert others <= {"jax", "numpy", "scipy"} | set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", IMPORTS)
def test_only_mpc_imports_spu(name):
    assert part(name) == "mpc" or not imports(name, "spu", "sml")


@pytest.mark.parametrize("name", IMPORTS)
def test_nothing_imports_experiments_or_tests(name):
    assert not imports(name, "experiments", "tests", "sweeps", "conftest")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_nothing_is_patched(path):
    assert not patches(path.read_text())


def test_patches_are_found():
    assert patches("import jax\njax.nn.gelu = print") == ["jax.nn.gelu"]
    assert patches("from spu import utils as u\nsetattr(u, 'x', 1)") == ["u"]
    assert patches("from flax import linen\ndel linen.Dense\nlinen.x += 1") == ["linen.Dense", "linen.x"]
    assert not patches("import jax\nx = jax.nn\nx[0] = jax.numpy")


def patches(source: str) -> list[str]:
    """Where a file changes an attribute of something that it imports."""
    tree, names, found = ast.parse(source), set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load) and _root(node) in names:
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("setattr", "delattr"):
            found += [ast.unparse(node.args[0])] if _root(node.args[0]) in names else []
    return found


def _root(node: ast.AST) -> str:
    """The name that a chain of attributes and indices starts from."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def test_imports_without_spu():
    modules = ["", *(f".{name}" for name in (*PLAIN, "functions.gelu", "models.plaintext", "training.loop"))]
    code = "import sys, importlib; sys.modules['spu'] = None\n"
    code += f"for name in {modules}: importlib.import_module('{PACKAGE}' + name)\n"
    code += "assert not any(name.startswith(('spu.', 'secformer_jax.mpc')) for name in sys.modules)\n"
    code += "try: import secformer_jax.mpc.runtime.engine\nexcept ImportError: print('no spu')\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "no spu"


def test_every_claim_of_security_names_a_test_that_is_there():
    root = Path(__file__).resolve().parents[1]
    page = (root / "docs" / "security.md").read_text(encoding="utf-8")
    named = {name.strip() for group in re.findall(r"\[(test_[^\]]*)\]", page) for name in group.split(",")}
    files = sorted((root / "tests").rglob("test_*.py"))
    defined = {path.name for path in files}
    for path in files:
        defined |= set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(named) > 30 and not named - defined
