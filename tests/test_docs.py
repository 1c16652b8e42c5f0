"""What the README and the docs promise exists: commands parse, files are there, code and tables are quoted as they are."""

import contextlib
import functools
import importlib
import io
import re
import subprocess
import sys

import pytest
import torch

from conftest import ROOT, SCRIPTS
from plumbing.settings import MACHINE
from pos_neg_pairing import pair_advantages

sys.path.insert(0, str(ROOT / "results"))
README = (ROOT / "README.md").read_text()
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]}
METHODS = [name for name in SCRIPTS if name != "grpo"]
COMMON_FLAGS = {"--model", "--tiny", "--out", "--resume", "--help"}


@functools.cache
def helped(script):
    """What --help prints; the six scripts are asked without a start of their own, which takes seconds."""
    if script.removesuffix(".py") in SCRIPTS:
        with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
            importlib.import_module(script.removesuffix(".py")).main(["--help"])
        return printed.getvalue()
    return subprocess.run([sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True, check=True).stdout


def test_the_readme_is_one_sitting():
    lines = README.splitlines()
    assert len(lines) <= 200 and max(map(len, lines)) <= 100


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_commands_exist_and_take_their_flags(page):
    """Every `python SCRIPT ...` names a script here, and every --flag of it is listed by that script's --help."""
    for script, rest in re.findall(r"python ((?:\w+/)*\w+\.py)([^\n`#]*)", PAGES[page]):
        assert (ROOT / script).exists(), script
        flags = re.findall(r"--[\w-]+", rest)
        if flags:
            assert all(re.search(rf"{flag}\b", helped(script)) for flag in flags), (script, flags)
    for module in re.findall(r"python -m (plumbing\.\w+)", PAGES[page]):
        assert importlib.util.find_spec(module)


@pytest.mark.parametrize("page", PAGES)
def test_settings_named_in_the_text_exist(page):
    known = {name for script in SCRIPTS for name in importlib.import_module(script).SETTINGS} | set(MACHINE)
    known = {"--" + name.replace("_", "-") for name in known} | COMMON_FLAGS
    assert set(re.findall(r"`(--[\w-]+)", PAGES[page])) <= known


@pytest.mark.parametrize("page", PAGES)
def test_files_and_links_exist(page):
    here = (ROOT / page).parent
    for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", PAGES[page]):
        assert (here / target).exists(), target
    for file in re.findall(r"pip install -r (\S+?)`?(?:[\s.]|$)", PAGES[page]):
        assert (ROOT / file.removesuffix(".")).exists() or (ROOT / (file + ".txt")).exists(), file


def test_the_map_names_files_that_exist():
    in_map = re.findall(r"^\| `([\w./]+)`", README.split("## Map")[1], re.M)
    assert len(in_map) >= 8 and all((ROOT / file).exists() for file in in_map)


def test_code_in_the_readme_is_that_of_the_scripts():
    """Three lines a method, comments aside, each a line of its script."""
    blocks = re.findall(r"\(`(\w+)\.py`, arXiv.*?```python\n(.*?)```", README, re.S)
    assert [name for name, _ in blocks] == METHODS
    for name, code in blocks:
        source = (ROOT / f"{name}.py").read_text()
        lines = [re.sub(r"\s+#.*", "", line).strip() for line in code.splitlines()]
        assert len(lines) == 3 and all(line in source for line in lines), (name, [line for line in lines if line not in source])


@pytest.mark.parametrize("method", METHODS)
def test_a_page_a_paper_with_one_template(method):
    page = PAGES[f"docs/{method}.md"]
    template = ["Idea", "Equation", "Diff against grpo.py", "What is ours", "Findings", "Figure", "Table", "Command"]
    assert re.findall(r"^## (.*)", page, re.M) == template
    rows = (ROOT / "results" / f"{method}.md").read_text().splitlines()
    quoted = [row for row in page.splitlines() if row.endswith(("| held |", "| **failed** |", "| reported |"))]
    held, failed = (sum(row.endswith(end) for row in rows) for end in ("| held |", "| **failed** |"))
    assert len(quoted) >= 4 and set(quoted) <= set(rows)
    assert f"{held} of {held + failed} statements held; [all rows](../results/{method}.md)" in page
    changes = re.findall(r"^ {4}\((\d)\) ", importlib.import_module(method).__doc__, re.M)
    explained = page.split("## Diff against grpo.py")[1].split("\n## ")[0]
    assert len(re.findall(r"^\d\. ", explained, re.M)) >= len(changes) - (method == "prefix_rl")


def test_the_table_of_advantages():
    """docs/pos_neg_pairing.md: one right answer of eight to q+, one wrong of eight to q-, under every reading."""
    import pos_neg_variants

    rewards = torch.tensor([[1.0] + [0.0] * 7, [1.0] * 7 + [0.0]])
    roles = torch.tensor([1, -1])
    table = PAGES["docs/pos_neg_pairing.md"].split("| reading |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(table) == 6
    for reading, weights, *shown in ([cell.strip() for cell in row.strip("|").split("|")] for row in table):
        mode = reading.split("`")[1]
        compute = pair_advantages if mode in ("per_prompt", "role_pooled") else pos_neg_variants.pair_advantages
        for weight in weights.split(" and "):
            found = compute(rewards, roles, mode, float(weight))
            assert [f"{float(cell):.2f}" for cell in shown] == [f"{found[i, j] + 0:.2f}" for i, j in ((0, 0), (0, 1), (1, 0), (1, 7))]


def test_metrics_are_explained():
    """What all scripts log (tests/test_run.py) has a row in docs/metrics.md."""
    text = PAGES["docs/metrics.md"]
    for name in ("reward", "frac_reward_zero_std", "frac_all_right", "completions/mean_length", "loss", "grad_norm", "entropy", "kl", "lr",
                 "clip_ratio/low_mean", "sampling/sampling_logp_difference/mean", "num_tokens", "verify/no_answer", "time/sync",
                 "time/padding"):  # fmt: skip
        assert f"`{name}`" in text, name


def test_the_install_files_build_on_each_other():
    assert "-r ../requirements-cpu.txt" in (ROOT / "tests/requirements.txt").read_text()
    assert "-r requirements-cpu.txt" in (ROOT / "requirements.txt").read_text()
    assert "vllm" not in (ROOT / "requirements-cpu.txt").read_text().replace("without vllm", "")
