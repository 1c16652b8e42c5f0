"""A tenth, or less, of what tests/faults/run.py does by hand: kills, damaged files, hostile text, properties."""

import sys

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests/faults"))
import damage  # noqa: E402
import kills  # noqa: E402
import small  # noqa: E402
import texts  # noqa: E402


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return small.Reference(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("name", ["loader", "settings", "boxes", "masks"])
def test_properties(name):
    pytest.importorskip("hypothesis")
    import properties

    assert properties.check(name, 300)[1] == []


def test_data_files():
    assert damage.data_files()[1] == []


def test_settings():
    assert damage.settings(0.2)[1] == []


def test_model_folders():
    assert damage.model_folders(0.5)[1] == []


def test_hostile_texts():
    assert texts.hostile(0.05)[1] == []


@pytest.mark.slow
def test_run_folders(reference):
    assert damage.run_folders(reference, 0.1)[1] == []


@pytest.mark.slow
def test_kills(reference, monkeypatch):
    """In the two scripts that are done soonest; all six are killed by hand."""
    monkeypatch.setattr(kills, "MAINS", {name: small.MAINS[name] for name in ("grpo", "lte")})
    made, wrong = kills.kills(reference, runs_per_script=1, kills_per_run=3)
    assert wrong == [] and made >= 2
