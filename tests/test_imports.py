"""Who may import whom: reads the source of every module, runs none of it.

The rooms, from the bottom to the top; a module imports from its own room and from rooms below. Reports, configuration
and GenEval's verdict work where torch is not installed.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ROOMS = (
    ("types",),
    (
        "config",
        "seeding",
        "files",
        "cli",
        "compat",
        "metrics",
        "schema",
        "experts",
        "weights",
        "device",
        "hub",
        "asked",
    ),
    ("provenance", "setup", "processes", "sample_folder", "run_folder", "tracking"),
    (
        "flow",
        "windows",
        "advantages",
        "losses",
        "text_losses",
        "matching",
        "ema",
        "world",
        "backbones",
        "lora",
        "sharding",
        "checkpoint",
        "catalogue",
        "resolve",
        "study",
        "cost",
        "vlm",
        "plan",
    ),
    ("sampler", "rollout", "pairs", "drift", "examples", "methods"),
    ("evals", "rewards", "validate", "conformance", "report"),
)
COMMANDS = len(ROOMS)  # every other module that can be run: the top room

WITHOUT_TORCH = (
    "unigrpo.study.config", "unigrpo.core.records", "unigrpo.core.seeding", "unigrpo.study.catalogue", "unigrpo.study.resolve", "unigrpo.study.overview",
    "unigrpo.report", "unigrpo.planning.cost",
    "unigrpo.planning",
    "unigrpo.tools.diff", "unigrpo.study.run_folder", "unigrpo.world.geneval_verdict",
)  # fmt: skip
HEAVY = {"torch", "torchvision", "transformers", "diffusers", "accelerate", "open_clip", "timm", "safetensors"}


def find_modules() -> dict[str, Path]:
    """Dotted name -> file, of the method, the rewards and the evaluations."""
    found = {}
    for base, folder in ((ROOT / "src", "unigrpo"), (ROOT, "rewards"), (ROOT, "evals")):
        for path in sorted((base / folder).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = find_modules()


def imports(name: str, everywhere: bool) -> set[str]:
    """Modules that ``name`` imports when it is loaded; with ``everywhere`` also those inside its functions."""
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
            case ast.If(test=ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                pass
            case _:
                waiting += ast.iter_child_nodes(node)
    known = {m for m in found if m in MODULES}
    return known | {m.split(".")[0] for m in found} - {"unigrpo", "rewards", "evals"}


def room(name: str) -> int:
    """The room of a module: found by its name, or the top one if it is a command."""
    word = name.removeprefix("unigrpo.").split(".")[0]
    for level, words in enumerate(ROOMS):
        if word in words:
            return level
    assert "__main__" in MODULES[name].read_text(), f"{name}: in no room; place it in tests/test_imports.py"
    return COMMANDS


INSIDE = [name for name in MODULES if name != "unigrpo"]


@pytest.mark.parametrize("name", INSIDE)
def test_imports_point_down(name):
    upward = [m for m in imports(name, everywhere=True) & set(INSIDE) if room(m) > room(name)]
    assert not upward, f"{name} (room {room(name)}) imports upwards: {', '.join(sorted(upward))}"


@pytest.mark.parametrize("name", [m for m in INSIDE if m.startswith(WITHOUT_TORCH)])
def test_loads_without_torch(name):
    reached, waiting = set(), [name]
    while waiting:
        module = waiting.pop()
        if module in reached:
            continue
        reached.add(module)
        if module in MODULES:
            packages = {".".join(module.split(".")[:i]) for i in range(1, module.count(".") + 1)}
            waiting += imports(module, everywhere=False) | packages
    assert not reached & HEAVY


def test_the_walk_sees_what_there_is():
    assert {"torch", "unigrpo.core.records"} <= imports("unigrpo.objectives.flow", everywhere=False)
    assert "torch" in imports("unigrpo.core.seeding", everywhere=True)
    assert "torch" not in imports("unigrpo.core.seeding", everywhere=False)
    assert len(MODULES) > 30
