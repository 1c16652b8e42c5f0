"""Sizes and layers that keep the scripts pages one can read."""

import ast
import re
import subprocess
import sys

import pytest

from conftest import ROOT, SCRIPTS

PAGES = [*ROOT.glob("*.py"), *ROOT.glob("plumbing/*.py"), *ROOT.glob("results/*.py")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_its_paper_on_one_page(script):
    lines = (ROOT / f"{script}.py").read_text().splitlines()
    assert len(lines) <= 290
    sample, log = ([i for i, line in enumerate(lines) if f"# ---- ({letter})" in line][0] for letter in "be")
    assert log - sample <= 61  # 60 lines and the heading


def test_no_line_is_too_wide():
    assert [f"{path.name}:{i}" for path in PAGES for i, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 110] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_import_common_and_plumbing_alone(script):
    own = {path.stem for path in ROOT.glob("*.py")} | {"plumbing", "results", "tiny"}
    imported = set()
    for node in ast.walk(ast.parse((ROOT / f"{script}.py").read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported & own == {"common", "plumbing"} and imported - own <= {"torch", "random", "collections", "dataclasses"}


def test_common_stands_on_little_and_knows_no_method():
    """Of plumbing it needs four files and what these need; none of them needs it."""
    text = (ROOT / "common.py").read_text()
    assert set(re.findall(r"^from plumbing\.(\w+) import", text, re.M)) == {"cache", "engine", "model", "verifier"}
    assert not re.search(r"erpo|\blte\b|failure.prefix|prefix.rl|pairing|\bhint", text, re.I)
    for name in ("__init__", "cache", "model", "engine", "verifier", "distributed"):
        assert "from common import" not in (ROOT / "plumbing" / f"{name}.py").read_text()


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "grpo"])
def test_every_numbered_change_is_marked_where_it_is_made(script):
    _, header, body = (ROOT / f"{script}.py").read_text().split('"""', 2)
    promised = set(re.findall(r"^    \((\d)\) ", header, re.M))
    assert len(promised) >= 3 and promised == set(re.findall(r"(?:#.*|\"\"\".*)\((\d)\)", body)) | set(re.findall(r"\((\d)\) \(\d\)", body))


def test_linting():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
