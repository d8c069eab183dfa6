"""With ``--vectors`` the vectors alone are checked, and the report ends the output."""

from __future__ import annotations


def pytest_collection_modifyitems(config, items):
    if config.getoption("--vectors"):
        others = [item for item in items if item.path.name != "test_vectors.py"]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


def pytest_terminal_summary(terminalreporter, config):
    if not config.getoption("--vectors"):
        return
    terminalreporter.section("conformance")
    for outcome in ("passed", "failed"):
        for test in terminalreporter.stats.get(outcome, []):
            for line in dict(test.user_properties).get("report", []):
                terminalreporter.write_line(line)
