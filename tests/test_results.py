"""What is quoted from results/: tables are what the code makes of the logs that lie beside them, and the controls that are scripts of their own."""

import importlib
import sys
from pathlib import Path

import pytest

from sampler import Rollout

RESULTS = Path(__file__).resolve().parent.parent / "results"
sys.path.insert(0, str(RESULTS))

import analysis  # noqa: E402
import erpo_permuted  # noqa: E402
import failure_prefix_scored as scored  # noqa: E402

TABLES = [path.stem.removeprefix("claims_") for path in sorted(RESULTS.glob("claims_*.py")) if RESULTS.joinpath(f"{path.stem[7:]}.md").exists()]


@pytest.mark.parametrize("method", TABLES)
def test_a_table_is_made_of_the_logs_beside_it(method):
    claims, table = importlib.import_module(f"claims_{method}"), (RESULTS / f"{method}.md").read_text()
    folders = {arm: sorted((RESULTS / method / arm).glob("seed-*"), key=lambda folder: int(folder.name[5:])) for arm in claims.ARMS}
    rows = ["| " + " | ".join(row) + " |" for row in claims.statements(folders)]
    assert table.endswith("\n|---|---|---|---|\n" + "\n".join(rows) + "\n")


def test_the_readme_quotes_the_tables():
    readme = (RESULTS.parent / "README.md").read_text()
    for method in TABLES:
        section = readme.split(f"### `{method}.py`")[1].split("\n### ")[0].split("\n## ")[0]
        rows = (RESULTS / f"{method}.md").read_text().splitlines()
        quoted = [row for row in section.splitlines() if row.endswith(("| held |", "| **failed** |", "| reported |"))]
        held, failed = (sum(row.endswith(end) for row in rows) for end in ("| held |", "| **failed** |"))
        assert len(quoted) >= 4 and set(quoted) <= set(rows), method
        assert f"{held} of {held + failed} statements held; [all rows](results/{method}.md)" in section


def test_intervals_over_paired_seeds():
    assert analysis.differences([[3, 5], [1, 1], [9, 9]], [[1, 1], [0, 2]]) == [[2, 4], [1, -1]]  # the seeds that both have
    assert analysis.interval([[0.5, 0.5], [0.5, 0.5]]) == (0.5, 0.5, 0.5)
    mean, low, high = analysis.interval([[0.0, 1.0] * 20] * 5)
    assert mean == 0.5 and 0.4 < low < 0.5 < high < 0.6  # 200 coins: two standard errors are .07


def test_an_opening_is_scored_as_well(monkeypatch):
    monkeypatch.setattr(scored, "SIZES", {(5, 6, 7): 2})
    batch = scored.collate([Rollout([5, 6, 7], [8, 2], [-0.1, -0.2], True), Rollout([5, 6], [9], [-0.3], True)])
    assert batch["completion_mask"].int().tolist() == [[1, 1, 1, 1], [0, 1, 0, 0]]  # 6, 7, 8, 2 are predicted; 9 has no opening
    assert batch["generated_mask"].int().tolist() == [[0, 0, 1, 1], [0, 1, 0, 0]]


def test_permuted_temperatures_are_the_same_ones():
    tracker = erpo_permuted.Permuted(start=1.0, step=0.05, highest=1.5)
    for name in range(1, 9):
        for _ in range(name):
            tracker.update(name, all_right=True)
    own = [super(erpo_permuted.Permuted, tracker).temperature(name) for name in range(1, 9)]
    dealt = [tracker.temperature(name) for name in range(1, 9)]
    assert sorted(dealt) == sorted(own) and dealt != own and tracker.temperature("new") == 1.0
