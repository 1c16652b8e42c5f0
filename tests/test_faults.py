"""A tenth, or less, of what tests/faults/run.py does by hand, of every group: kills, damaged files, hostile text, properties."""

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


def test_model_folders(reference):
    assert damage.model_folders(reference)[1] == []


@pytest.mark.slow
def test_hostile_texts():
    assert texts.hostile(0.05)[1] == []


@pytest.mark.slow
def test_answers():
    assert texts.answers()[1] == []


@pytest.mark.slow
def test_run_folders(reference):
    assert damage.run_folders(reference, 0.1, ["grpo", "pos_neg_pairing"])[1] == []


@pytest.mark.slow
def test_full_disk(reference):
    """One case on a small file system, if one may be mounted here, and one under a limit."""
    tried, wrong = damage.full_disk(reference, 2)
    assert tried >= 1 and wrong == []


@pytest.mark.slow
def test_signals_and_two_processes(reference):
    sent, wrong = kills.signals(reference, 1)
    assert sent and wrong == []
    assert kills.two_at_once(reference, 1) == (3, [])


@pytest.mark.slow
def test_kills(reference, monkeypatch):
    """In the two scripts that are done soonest; all six are killed by hand."""
    monkeypatch.setattr(kills, "MAINS", {name: small.MAINS[name] for name in ("grpo", "lte")})
    made, wrong = kills.kills(reference, kills_per_script=2)
    assert wrong == [] and made == 4
    assert kills.kills_in_arms(reference, 1) == (2, [])  # extra and grpo of lte.py
