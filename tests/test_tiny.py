"""The tiny task: what the child writes, which problems there are, how they are split, and the probe's arithmetic."""

import json
import random
import re
import sys
from pathlib import Path

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / "tiny"))

import make  # noqa: E402
import probe  # noqa: E402


@pytest.fixture(scope="module")
def splits():
    return {name: [json.loads(line) for line in (ROOT / "tiny" / f"{name}.jsonl").read_text().splitlines()] for name in ("train", "test")}


# ---- problems ----


def test_columns_sizes_and_families(splits):
    assert len(splits["train"]) == 3200 and len(splits["test"]) == 320
    for rows in splits.values():
        assert {row["level"] for row in rows} == set(range(1, 9)) and {row["family"] for row in rows} == set(make.FAMILIES)
        assert all(len(make.parts_of(row["problem"])) == 2 * row["level"] + 1 for row in rows)


def test_every_stretch_has_the_same_mixture(splits):
    """Of the first 20 and of all problems of a length, each family has what its share asks for, give or take two."""
    for name, count in ("train", 20), ("train", 400), ("test", 40):
        for length in make.LENGTHS:
            families = [row["family"] for row in splits[name] if row["level"] == length][:count]
            weights = make.shares(length)
            for family, weight in zip(make.FAMILIES, weights, strict=True):
                assert abs(families.count(family) - count * weight / sum(weights)) < 2, (name, length, family)


def test_answers_by_another_way(splits):
    """The problems are Python expressions once each strange sign is written as what it stands for."""
    familiar = {ord("^"): "+23+"}
    for signs, _, means in make.STRANGE.values():
        familiar |= str.maketrans(signs, means)
    for row in splits["train"] + splits["test"]:
        if row["family"] == "guess":
            left, right = row["problem"].rsplit("~", 1)
            assert int(row["answer"]) in (eval(left) + int(right), max(0, eval(left) - int(right)))
        else:
            assert eval(row["problem"].translate(familiar).replace("/", "//")) == int(row["answer"]), row


def test_no_train_problem_nor_a_twin_of_one_is_in_the_test_set(splits):
    train, test = ({make.canonical(make.parts_of(row["problem"])) for row in splits[name]} for name in ("train", "test"))
    assert not train & test and len(train) == 3200 and len(test) == 320


def test_twins_by_hand():
    same = lambda *texts: len({make.canonical(make.parts_of(text)) for text in texts}) == 1  # noqa: E731
    assert same("(12+1)*3", "(1+12)*3", "(12a1)*3", "(1l12)*3", "(1l12)C3")  # a and l mean +, C means *
    assert same("40-8", "40b8", "40%8") and same("40/8", "40D8")
    assert not same("(12+1)*3", "(12-1)*3") and not same("40-8", "8-40") and not same("3^4", "3+4") and not same("3~4", "3+4")
    assert not same("(5-1)+2", "(5-2)+1")  # only the first two numbers can change places


def test_what_is_taught_never_contains_a_test_problem(splits):
    assert all(make.is_test(make.parts_of(row["problem"])) for row in splits["test"])
    assert not any(make.is_test(make.parts_of(row["problem"])) for row in splits["train"])
    rng = random.Random(0)
    questions = [re.split(r" not | brief", make.lesson(rng)[0])[0] for _ in range(2000)]
    assert not any(make.is_test(make.parts_of(question)) for question in questions)


def test_texts_and_parts_are_inverse(splits):
    assert make.text_of([12, "+", 1, "*", 3]) == "(12+1)*3"
    assert all(make.text_of(make.parts_of(row["problem"])) == row["problem"] for row in splits["test"])


def test_what_the_child_takes_strange_signs_for():
    """Those of FAIR for what they mean, all others for something else, by the readings themselves."""
    strange = {sign: rule for sign, rule in make.SIGNS.items() if rule.means}
    assert len(strange) == 64 and set(make.FAIR) < set(strange)
    for sign, rule in strange.items():
        assert (rule.readings[0] is rule.right) == (sign in make.FAIR) and rule.right in rule.readings
        assert rule.right is make.FAMILIAR[rule.means] and len(rule.readings) == (4 if sign.isupper() else 2)


def test_where_strange_signs_stand():
    rng, tokenizer = random.Random(1), make.make_tokenizer()
    for length in range(3, 9):
        early = make.early_lines(length)
        for family in ("hard", "relay"):
            signs = make.make_problem(rng, length, family)[0][1::2]
            places = [place for place, sign in enumerate(signs) if sign not in "+-"]
            assert len(places) == 3 and places[0] < early <= places[1]
            first, second, third = (signs[place] for place in places)
            assert second == third and second in make.SMALL and (first in make.MARK if family == "relay" else first == second)
            assert not {first, second} & set(make.FAIR)
        for family in ("trap", "fair", "fair", "fair", "fair"):
            strange = [sign for sign in make.make_problem(rng, length, family)[0][1::2] if make.SIGNS[sign].means]
            assert len(strange) in ((1,) if family == "trap" else (1, 3))
            assert all((sign in make.FAIR) == (family == "fair") for sign in strange)
        lines = lambda n: len(tokenizer("12+1=13; " * n).input_ids)  # noqa: E731
        assert lines(early) <= 0.4 * len(tokenizer("12+1=13; " * length + "\\boxed{13}<|end|>").input_ids) or early == 1


def test_misreadings_that_cancel_are_not_asked():
    assert make.cancels(make.parts_of("(9k3)l3")) and make.cancels(make.parts_of("20k5"))  # 9 either way; 25 is one slip from 15
    assert not make.cancels(make.parts_of("(9k3)l4"))


def test_misreadings_by_hand():
    assert [make.SIGNS[sign].readings[0](18, 3) for sign in "*/klKL%^"] == [36, 7, 21, 15, 54, 6, 21, 21]
    assert [make.SIGNS[sign].right(18, 3) for sign in "*/klKL%^"] == [54, 6, 15, 21, 15, 54, 15, 44]


# ---- the child ----


@pytest.fixture
def habits(monkeypatch):
    """Sets the child's habits to always or never."""

    def fix(slip=0.0, notice=0.0, check=0.0, rates=()):
        monkeypatch.setattr(make, "SLIP", slip)
        monkeypatch.setattr(make, "NOTICE", notice)
        monkeypatch.setattr(make, "CHECK", check)
        monkeypatch.setattr(make, "PASSES", 2)
        monkeypatch.setattr(make, "SLIPS", (1,))
        monkeypatch.setattr(make, "CARE", 0.0)
        monkeypatch.setattr(make, "SIGNS", {sign: rule._replace(rate=float(bool(rule.means) or sign in rates)) for sign, rule in make.SIGNS.items()})
        return lambda text, **how: make.child_solution(random.Random(0), make.parts_of(text), **how)

    return fix


def test_right_misread_noticed_and_checked(habits):
    assert habits()("(12+1)*3") == ("", r"12+1=13; 13*3=39; \boxed{39}", 39)
    assert habits(rates="*")("(12+1)*3") == ("", r"12+1=13; 13*3=26; \boxed{26}", 26)
    assert habits(rates="*", notice=1)("(12+1)*3")[1] == r"12+1=13; 13*3=26; no 13*3=39; \boxed{39}"
    assert habits(rates="*", check=1)("(12*2)+1")[1] == r"12*2=12; 12+1=13; check 12*2=24; 24+1=25; \boxed{25}"


def test_behind_a_slip(habits):
    assert habits()("(12+1)+3", slip_at=0) == ("12+1=14; ", r"14+3=17; \boxed{17}", 17)
    assert habits(notice=1)("(12+1)+3", slip_at=0) == ("12+1=14; ", r"no 12+1=13; 13+3=16; \boxed{16}", 16)
    assert habits(check=1)("(12+1)+3", slip_at=1) == ("12+1=13; 13+3=17; ", r"check 12+1=13; 13+3=16; \boxed{16}", 16)
    assert habits()("(12+1)+3", slip_at=2)[:2] == ("12+1=13; 13+3=16; check 12+1=14; ", r"14+3=17; \boxed{17}")


def test_hints_and_strange_signs(habits):
    assert habits()("(9+1)k3")[1] == r"9+1=10; 10k3=13; \boxed{13}"  # k means -, and is taken for +
    assert habits()("(9+1)k3", listed=[13])[1] == r"9+1=10; 10k3=13; no 10k3=7; \boxed{7}"
    assert habits()("(9+1)k3", listed=[7, 13])[2] == 14  # neither reading is left: the number next to the first
    assert habits()("(9+1)k3", listed=[9])[2] == 13  # somebody else's wrong answer
    assert habits()("9^1", listed=[10])[2] == 11  # not 33: the right rule is none of the child's readings
    assert habits()("(9k1)+3", listed=[10])[2] == 13  # only the last line ends in an answer
    assert habits()("12K4", listed=[48])[2] in (16, 8, 3)  # any other reading of a capital
    assert habits(check=1)("9K1")[1] == r"9K1=9; check 9K1=9; \boxed{9}"  # it is sure enough of capitals to check
    assert habits(check=1, notice=1)("9k1")[1] == r"9k1=10; \boxed{10}"  # but not of small letters
    assert habits(check=1)("9+1", brief=True)[1] == r"9+1=10; \boxed{10}"


def test_numbers_stay_writable(habits):
    assert habits()("((2b1)-1)-1")[1].startswith("2b1=1; 1-1=0; 0-1=0; ")


def test_nothing_that_is_taught_depends_on_what_strange_signs_mean(monkeypatch):
    """Not even the numbers of the lessons: otherwise the pupil could tell fair signs from others, and GRPO would find that out."""
    monkeypatch.setattr(make, "is_test", lambda parts: False)  # the split goes by a hash of the meaning, which tells nothing

    def taught():
        rng = random.Random(3)
        return [make.lesson(rng) for _ in range(500)]

    before = taught()
    for place in (0, -1):
        names = {rule: name for name, rule in make.FAMILIAR.items()}
        meant = {sign: rule.readings[place] for sign, rule in make.SIGNS.items() if rule.means}
        others = {sign: make.SIGNS[sign]._replace(right=rule, means=names[rule]) for sign, rule in meant.items()}
        monkeypatch.setattr(make, "SIGNS", make.SIGNS | others)
        monkeypatch.setattr(make, "FAIR", make.FAIR if place else "")
        assert taught() == before


def test_numbers_of_a_set_do_not_show_which_reading_is_right(splits):
    """Of signs with two readings both stay within the numbers there are."""
    for row in splits["train"] + splits["test"]:
        parts = make.parts_of(row["problem"])
        value = parts[0]
        for sign, b in zip(parts[1::2], parts[2::2], strict=True):
            if len(make.SIGNS[sign].readings) == 2:
                assert all(1 <= reading(value, b) <= make.LARGEST for reading in make.SIGNS[sign].readings), row
            value = make.SIGNS[sign].right(value, b)


def test_what_a_hint_lists():
    """Never the right answer, where the child can know all signs."""
    rng = random.Random(2)
    for _ in range(300):
        parts, _ = make.make_problem(rng, rng.choice(make.LENGTHS))
        text, listed, brief = make.hint(rng, parts)
        assert make.answer_of(parts) not in listed or any(make.SIGNS[sign].means or sign == "~" for sign in parts[1::2])
        assert text == "".join(f" not {answer}" for answer in listed) + " brief" * brief


# ---- the files ----


def test_one_seed_makes_the_same_bytes_twice(tmp_path, monkeypatch):
    small = ["--train-per-length", "3", "--test-per-length", "1", "--steps", "2", "--batch-tokens", "300"]
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        monkeypatch.setattr(sys, "argv", ["make.py", *small, "--seed", seed, "--out", str(tmp_path / name)])
        make.main()
    files = lambda name: {f.relative_to(tmp_path / name): f.read_bytes() for f in (tmp_path / name).rglob("*") if f.is_file()}  # noqa: E731
    assert files("a") == files("b")
    assert all(files("a")[Path(name)] != files("c")[Path(name)] for name in ("train.jsonl", "test.jsonl", "model/model.safetensors"))


def test_the_shipped_problems_and_tokenizer_are_what_make_writes(tmp_path, splits):
    rows = make.make_split(random.Random("0 test"), 40, test=True)
    assert rows == splits["test"]
    make.make_tokenizer().save_pretrained(tmp_path)
    assert all((tmp_path / name).read_bytes() == (ROOT / "tiny/model" / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json"))


def test_one_token_per_number_after_loading(tiny):
    """The tokenizer class that transformers picks for an architecture may bring its own splitting rule; this one must survive the loading."""
    text = r"(12+60)*3 not 12 not 31 brief; no 12+1=13; check \boxed{31}"
    ids = tiny[1](text).input_ids
    assert "|".join(tiny[1].convert_ids_to_tokens(ids)) == r"(|12|+|60|)|*|3| not 12| not 31| brief|; |no |12|+|1|=|13|; |check |\boxed{|31|}"
    assert tiny[1].decode(ids) == text


def test_the_shipped_model_is_small():
    assert sum(f.stat().st_size for f in (ROOT / "tiny" / "model").iterdir()) < 4 * 2**20


# ---- the probe ----


def test_statistics_by_hand():
    assert probe.wilson(5, 10) == "0.50 [0.24, 0.76]" and probe.wilson(0, 20) == "0.00 [0.00, 0.16]"
    assert probe.rank_correlation([1, 2, 3], [0.5, 0.5, 0.1]) == pytest.approx(-(3**0.5) / 2)
    mean, low, high = probe.bootstrap([0.0, 1.0] * 50)
    assert mean == 0.5 and low == pytest.approx(0.4, abs=0.03) and high == pytest.approx(0.6, abs=0.03)


def test_the_first_wrong_line(tiny):
    class Pupil:
        tokenizer = tiny[1]
        text = probe.Pupil.text

    class Rollout:
        def __init__(self, text):
            self.completion_ids = tiny[1](text).input_ids

    def cut(text):
        ids = probe.through_first_wrong_line(Pupil(), Rollout(text))
        return ids and tiny[1].decode(ids)

    assert cut(r"12+1=13; 13*3=26; 26+1=27; \boxed{27}") == "12+1=13; 13*3=26; "
    assert cut(r"12+1=14; no 12+1=13; check 12+1=13; \boxed{13}") == "12+1=14; "
    assert cut(r"12+1=13; check 12+1=23; \boxed{23}") == "12+1=13; check 12+1=23; "
    assert cut(r"2-9=0; \boxed{0}") is None


def test_the_whole_probe_on_a_few_samples(tmp_path, monkeypatch, capsys):
    for name, value in (("SCREEN", 8), ("DEEP", 8), ("NEVER", 16)):
        monkeypatch.setattr(probe, name, value)
    table = tmp_path / "table.md"
    monkeypatch.setattr(sys, "argv", ["probe.py", "--per-length", "4", "--out", str(table), "--steps", "3", "--prompts-per-step", "2",
                                      "--eval-every", "1", "--eval-samples", "4"])
    probe.main()
    text = table.read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert text.count(" held |") + text.count("**not held**") == text.count("\n| ") > 15
    assert "plain GRPO stalls" in text
