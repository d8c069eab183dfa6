"""Who may import whom: rooms from the bottom to the top, one line each; a module imports from its own room and below.

What a plug-in is called is known to nobody: plug-ins are loaded by the doors of ``unigrpo.study.facts``.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    "unigrpo.core",
    "unigrpo.world",
    "unigrpo.study",
    "unigrpo.objectives",
    "unigrpo.models",
    "unigrpo.judges",
    "unigrpo.sampling",
    "unigrpo.episodes",
    "unigrpo.methods",
    "unigrpo.training",
    "unigrpo.planning",
    "unigrpo.report",
    "unigrpo.tools",
    "evals",
    "rewards",
    "unigrpo.commands",
    "unigrpo",  # __init__ and __main__
)
WITHOUT_TORCH = (
    *("unigrpo.core", "unigrpo.study", "unigrpo.report", "unigrpo.commands", "unigrpo.methods"),
    *("unigrpo.objectives.regularisers", "unigrpo.tools.describe", "unigrpo.world.geneval_verdict"),
)
HEAVY = {"torch", "torchvision", "transformers", "diffusers", "accelerate", "open_clip", "timm", "safetensors"}
HEAVY_CORE = {"unigrpo.core.distributed", "unigrpo.core.tensor_files"}


def find_modules() -> dict[str, Path]:
    """Dotted name -> file, of the package, the rewards and the evaluations."""
    found = {}
    for base, folder in ((ROOT / "src", "unigrpo"), (ROOT, "rewards"), (ROOT, "evals")):
        for path in sorted((base / folder).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = find_modules()


def imports(name: str, everywhere: bool = True, typing: bool = True) -> set[str]:
    """Modules that ``name`` imports: ``everywhere`` also inside functions, ``typing`` also for annotations alone."""
    found, waiting = set(), [ast.parse(MODULES[name].read_text())]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.Import(names=aliases):
                found |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=module, names=aliases, level=0):
                found |= {module, *(f"{module}.{alias.name}" for alias in aliases)}
            case ast.ImportFrom():
                pytest.fail(f"{name}: a relative import; write the full name")
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() if not everywhere:
                pass
            case ast.If(test=ast.Name("TYPE_CHECKING")) if not typing:
                pass
            case _:
                waiting += ast.iter_child_nodes(node)
    return {m for m in found if m in MODULES} | {m.split(".")[0] for m in found} - {"unigrpo", "rewards", "evals"}


def room(name: str) -> int:
    """The number of a module's room."""
    fitting = [level for level, start in enumerate(ROOMS) if f"{name}.".startswith(f"{start}.")]
    return min(fitting) if name not in ("unigrpo", "unigrpo.__main__") else len(ROOMS) - 1


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    known = imports(name) & set(MODULES) - {"unigrpo"}
    upward = [m for m in known if room(m) > room(name)]
    assert not upward, f"{name} imports upwards: {', '.join(sorted(upward))}"


def test_every_module_is_in_a_room():
    loose = [m for m in MODULES if room(m) == len(ROOMS) - 1 and m not in ("unigrpo", "unigrpo.__main__")]
    assert not loose


def test_no_module_imports_itself_on_the_way():
    """Depth first over imports that loading follows; an edge back to an open module closes a circle."""
    graph = {name: imports(name, everywhere=False, typing=False) & set(MODULES) - {name} for name in MODULES}
    state: dict[str, int] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        state[name] = 1
        for child in graph[name]:
            packages = name.startswith(f"{child}.") or child.startswith(f"{name}.")
            if not packages:
                assert state.get(child) != 1, f"circle: {' -> '.join([*path, name, child])}"
                if child not in state:
                    visit(child, (*path, name))
        state[name] = 2

    for name in graph:
        if name not in state:
            visit(name, ())


@pytest.mark.parametrize("start", WITHOUT_TORCH)
def test_loads_without_torch(start):
    """In a process of its own every module of the room is imported, with all that they import."""
    names = [m for m in MODULES if f"{m}.".startswith(f"{start}.") and m not in HEAVY_CORE]
    code = "import importlib, sys\n" + "".join(
        f"importlib.import_module({m!r}); assert not {HEAVY!r} & sys.modules.keys(), {m!r}\n" for m in names
    )
    variables = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert names and done.returncode == 0, done.stderr[-500:]


def test_names_are_unique_and_not_the_standard_librarys():
    leaves = [m.rpartition(".")[2] for m, path in MODULES.items() if path.stem not in ("__init__", "__main__")]
    assert sorted(leaves) == sorted(set(leaves)), sorted(n for n in set(leaves) if leaves.count(n) > 1)
    packages = {m.rpartition(".")[2] for m, path in MODULES.items() if path.stem == "__init__"}
    plugins = {m.rpartition(".")[2] for m in MODULES if m.startswith("unigrpo.models.backbones.")}  # of a scale's words
    assert not set(leaves) & packages - plugins and not (set(leaves) | packages) & set(sys.stdlib_module_names)


def test_sizes():
    """No file above 450 lines, no folder above 16 files, no function above 70 lines."""
    for name, path in MODULES.items():
        text = path.read_text()
        assert text.count("\n") <= 450, name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 70, f"{name}.{node.name}"
    folders = [path.parent for path in MODULES.values()]
    assert max(folders.count(folder) for folder in folders) <= 16
