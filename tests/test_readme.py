"""What the README promises exists: commands parse, files are there, metrics are logged."""

import contextlib
import functools
import importlib
import io
import re
import subprocess
import sys

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()
METHODS = ["failure_prefix.py", "prefix_rl.py", "erpo.py", "pos_neg_pairing.py", "lte.py"]


@functools.cache
def helped(script):
    """What --help prints; the six scripts are asked without a start of their own, which takes seconds."""
    if script in ["grpo.py", *METHODS]:
        with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
            importlib.import_module(script.removesuffix(".py")).main(["--help"])
        return printed.getvalue()
    return subprocess.run([sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True, check=True).stdout


def test_commands_exist_and_take_their_flags():
    """Every `python SCRIPT ...` names a script here, and every --flag of it is listed by that script's --help."""
    commands = re.findall(r"python ((?:\w+/)?\w+\.py)([^\n`&#]*)", README)
    assert {script for script, _ in commands} >= {"grpo.py", "curves.py"}
    for script, rest in commands:
        assert (ROOT / script).exists(), script
        flags = re.findall(r"--[\w-]+", rest)
        assert all(re.search(rf"{flag}\b", helped(script)) for flag in flags), (script, flags)


def test_settings_named_in_the_text_exist():
    scripts = [importlib.import_module(file.removesuffix(".py")) for file in ["grpo.py", *METHODS]]
    known = {"--" + name.replace("_", "-") for script in scripts for name in script.SETTINGS} | {"--model", "--out", "--resume", "--help"}
    assert set(re.findall(r"`(--[\w-]+)", README)) <= known


def test_installs_and_map_name_files_that_exist():
    in_map = re.findall(r"^\| `([\w./]+)` \|", README.split("## Map")[1].split("##")[0], re.M)
    assert len(in_map) >= 6
    for file in in_map + re.findall(r"pip install -r (\S+)", README) + re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (ROOT / file).exists(), file


def test_the_install_files_build_on_each_other():
    assert "-r ../requirements-cpu.txt" in (ROOT / "tests/requirements.txt").read_text()
    assert "-r requirements-cpu.txt" in (ROOT / "requirements.txt").read_text()
    assert "vllm" not in (ROOT / "requirements-cpu.txt").read_text()


@pytest.mark.parametrize("script", METHODS)
def test_every_numbered_change_is_marked_where_it_is_made(script):
    """And the settings of the tiny column are listed by --help."""
    _, header, body = (ROOT / script).read_text().split('"""', 2)
    promised = set(re.findall(r"^    \((\d)\) ", header, re.M))
    assert len(promised) >= 3 and promised == set(re.findall(r"(?:# |\"\"\")\((\d)\)", body))
    assert "--compare" in helped(script)


def test_linting():
    assert subprocess.run([sys.executable, "-m", "ruff", "check", str(ROOT)], capture_output=True).returncode == 0
