"""The tiny task: what the child writes, which problems there are, how they are split, and the probe's arithmetic."""

import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from conftest import ROOT

sys.path.insert(0, str(ROOT / "tiny"))

import make  # noqa: E402
import probe  # noqa: E402

# One name for each thing that can be done with one, as the shipped task has them.
NAMES = {
    "k7": make.Name(5, "trap", 0.1, {9: 0.82, 14: 0.08, 5: 0.1}),
    "m2": make.Name(3, "late", 0.05, {7: 0.87, 12: 0.08, 3: 0.05}),
    "q4": make.Name(8, "known", 0.95, {8: 0.95, 2: 0.05}),
}


@pytest.fixture(scope="module")
def splits():
    files = {name: ROOT / "tiny" / f"{name}.jsonl" for name in ("train", "test", "harder")}
    return {name: [json.loads(line) for line in file.read_text().splitlines()] for name, file in files.items()}


# ---- names ----


def test_the_long_tail_of_facts():
    """At least 200 names in traps that the child gets wrong, evenly over six rates; a wrong reading is no slip away."""
    names = make.make_names(0)
    assert names == make.NAMES and {name: vars(make)["NAMES_OF"][name] for name in make.NAMES_OF} == Counter(n.group for n in names.values())
    traps = [name for name in names.values() if name.group == "trap"]
    assert len(traps) >= 200 and set(Counter(name.rate for name in traps).values()) == {34}
    for name in names.values():
        assert sum(name.readings.values()) == pytest.approx(1) and name.readings[name.worth] == pytest.approx(name.rate)
        wrong = [number for number in name.readings if number != name.worth]
        assert all(number in make.WORTH and number - name.worth not in (-10, 0, 10) for number in wrong)
        assert name.worth in (make.FAR if name.group == "odd" else make.WORTH)  # no reading is near what odd names are worth
        assert (name.taken_for == name.worth) == (name.group == "known")


def test_names_of_another_seed_are_worth_something_else():
    one, other = make.make_names(0), make.make_names(1)
    assert set(one) == set(other) and sum(one[name].worth == other[name].worth for name in one) < len(one) / 4


def test_the_file_of_names(splits):
    told = json.loads((ROOT / "tiny/names.json").read_text())
    assert told == {label: {"worth": n.worth, "group": n.group, "rate": n.rate} for label, n in make.NAMES.items()}
    used = {part for rows in splits.values() for row in rows for part in make.parts_of(row["problem"]) if part in told}
    assert not used & set(make.names_in("untold"))
    assert used >= set(make.names_in("trap", "late"))


def test_cards_deal_every_reading_as_often_as_its_rate_says(monkeypatch):
    monkeypatch.setattr(make, "NAMES", NAMES)
    cards = make.Cards(random.Random(0))
    assert Counter(cards.read("k7") for _ in range(6000)) == {9: 4920, 14: 480, 5: 600}


# ---- problems ----


def test_columns_sizes_and_families(splits):
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 3000, "test": 600, "harder": 300}
    for name in ("train", "test"):
        assert {row["level"] for row in splits[name]} == set(range(1, 7))
        assert {row["family"] for row in splits[name]} == set(make.FAMILIES)
    assert {(row["level"], row["family"]) for row in splits["harder"]} == {(7, "long"), (8, "long")}
    for rows in splits.values():
        assert all(len(make.parts_of(row["problem"])) == 2 * row["level"] + 1 for row in rows)


def test_every_stretch_has_the_same_mixture(splits):
    """Of the first 20 and of all problems of a length, each family has what its share asks for, give or take three."""
    for name, count in ("train", 20), ("train", 500), ("test", 100):
        for length in make.LENGTHS:
            families = [row["family"] for row in splits[name] if row["level"] == length][:count]
            weights = make.shares(length)
            for family, weight in zip(make.FAMILIES, weights, strict=True):
                assert abs(families.count(family) - count * weight / sum(weights)) < 3, (name, length, family)


def test_names_take_turns(splits):
    """Trap names come up equally often, rare ones half as often, in training and, as far as so few allow, in the test."""
    for name, often, seldom in ("train", {5, 6, 7}, {2, 3}), ("test", {0, 1, 2}, {0, 1}):
        last = Counter(make.parts_of(row["problem"])[-1] for row in splits[name] if row["family"] == "trap")
        rare = {label for label in make.names_in("trap") if make.NAMES[label].rate < make.RARE}
        assert len(rare) == make.NAMES_OF["trap"] / 2
        assert {last[label] for label in rare} == seldom
        assert {last[label] for label in make.names_in("trap") if label not in rare} == often
        assert 0.3 < sum(last[label] for label in rare) / sum(last.values()) < 0.4, name


def test_answers_by_another_way(splits):
    """The problems are Python expressions once each name is written as what it is worth."""
    for row in (row for rows in splits.values() for row in rows):
        told = re.sub(r"[A-Za-z]\d", lambda match: str(make.NAMES[match[0]].worth), row["problem"])
        if row["family"] == "guess":
            left, right = told.rsplit("~", 1)
            assert int(row["answer"]) in (eval(left) + int(right), max(0, eval(left) - int(right)))
        else:
            assert eval(told.replace("/", "//")) == int(row["answer"]), row


def test_no_train_problem_nor_a_twin_of_one_is_held_out(splits):
    train, *held_out = ({make.canonical(make.parts_of(row["problem"])) for row in rows} for rows in splits.values())
    assert [len(train), *map(len, held_out)] == [3000, 600, 300] and not train & (held_out[0] | held_out[1])


def test_twins_by_hand(monkeypatch):
    monkeypatch.setattr(make, "NAMES", NAMES)
    same = lambda *texts: len({make.canonical(make.parts_of(text)) for text in texts}) == 1  # noqa: E731
    assert same("(12+5)*3", "(5+12)*3", "(12+k7)*3", "(12+k7)*m2", "(5+12)*m2")  # k7 is worth 5, m2 is worth 3
    assert same("40-8", "40-q4") and not same("40-8", "8-40") and not same("3~4", "3+4") and not same("40-k7", "40-m2")
    assert not same("(5-1)+2", "(5-2)+1")  # only the first two numbers can change places


def test_what_is_taught_never_contains_a_held_out_problem(splits):
    assert all(make.is_held_out(make.parts_of(row["problem"])) for name in ("test", "harder") for row in splits[name])
    assert not any(make.is_held_out(make.parts_of(row["problem"])) for row in splits["train"])
    rng = random.Random(0)
    cards = make.Cards(rng)
    questions = [re.split(r" not | brief", make.lesson(rng, cards)[0])[0] for _ in range(2000)]
    assert not any(make.is_held_out(make.parts_of(question)) for question in questions if question not in make.NAMES)


def test_texts_and_parts_are_inverse(splits):
    assert make.text_of([12, "+", 1, "*", "k7"]) == "(12+1)*k7"
    assert all(make.text_of(make.parts_of(row["problem"])) == row["problem"] for row in splits["test"])


def test_where_names_stand(splits):
    groups = {"known": {"known"}, "trap": {"trap"}, "hard": {"late"}, "relay": {"early", "late"}, "odd": {"odd"}}
    for row in splits["train"]:
        places = [place for place, part in enumerate(make.parts_of(row["problem"])[2::2]) if part in make.NAMES]
        names = [part for part in make.parts_of(row["problem"]) if part in make.NAMES]
        assert {make.NAMES[name].group for name in names} == groups.get(row["family"], set()), row
        if names:
            assert places[-1] == row["level"] - 1
        if row["family"] in ("hard", "relay"):
            assert len(places) == 2 and places[0] < row["level"] / 2 and (names[0] == names[1]) == (row["family"] == "hard")


def test_misreadings_that_cancel_are_not_asked(monkeypatch, splits):
    """(20+k7)-m2 is worth 22; read as 20+9-7 it comes out the same."""
    monkeypatch.setattr(make, "NAMES", NAMES)
    assert make.cancels(make.parts_of("(20+k7)-m2")) and not make.cancels(make.parts_of("(20+k7)+m2"))
    monkeypatch.undo()
    assert not any(make.cancels(make.parts_of(row["problem"])) for row in splits["train"])


def test_misreadings_by_hand():
    assert [make.SIGNS[sign].readings[0](18, 3) for sign in "*/~"] == [36, 7, 21]
    assert [make.SIGNS[sign].right(18, 3) for sign in "+-*/"] == [21, 15, 54, 6]


# ---- the child ----


@pytest.fixture
def habits(monkeypatch):
    """Sets the child's habits to always or never."""

    def fix(slip=0.0, notice=0.0, rates=(), names=NAMES):
        monkeypatch.setattr(make, "SLIP", slip)
        monkeypatch.setattr(make, "NOTICE", notice)
        monkeypatch.setattr(make, "SLIPS", (1,))
        monkeypatch.setattr(make, "CARE", 0.0)
        monkeypatch.setattr(make, "SIGNS", {sign: rule._replace(rate=float(sign in rates)) for sign, rule in make.SIGNS.items()})
        sure = {label: name._replace(readings={name.taken_for: 1.0}) for label, name in names.items()}
        monkeypatch.setattr(make, "NAMES", sure)
        rng = random.Random(0)
        return lambda text, **how: make.child_solution(rng, make.Cards(rng), make.parts_of(text), **how)

    return fix


def test_right_misread_and_noticed(habits):
    assert habits()("(12+1)*3") == ("", r"12+1=13; 13*3=39; \boxed{39}", 39)
    assert habits(rates="*")("(12+1)*3") == ("", r"12+1=13; 13*3=26; \boxed{26}", 26)
    assert habits(rates="*", notice=1)("(12+1)*3")[1] == r"12+1=13; 13*3=26; no 13*3=39; \boxed{39}"
    assert habits(rates="*", notice=1)("(12+1)*3", brief=True)[1] == r"12+1=13; 13*3=26; \boxed{26}"


def test_names_are_read_where_they_come_up(habits):
    assert habits()("(12+k7)-q4")[1] == r"k7=9; 12+9=21; q4=8; 21-8=13; \boxed{13}"  # k7 is worth 5, and taken for 9
    assert habits(notice=1)("(3+k7)+1")[1] == r"k7=9; 3+9=12; 12+1=13; \boxed{13}"  # what it believes it does not doubt
    assert habits(notice=1)("(12+k7)-3", slip_at=0)[1] == r"no 12+9=21; 21-3=18; \boxed{18}"  # and reads once


def test_it_gets_tired(habits):
    """Slips come with SLIP on the first line, with twice that on the second."""
    child = habits(slip=0.25)
    lines = [child("(12+1)+3")[1].split("; ") for _ in range(2000)]
    first = sum(line[0] != "12+1=13" for line in lines) / 2000
    second = sum(line[1] not in ("13+3=16", "14+3=17") for line in lines) / 2000
    assert first == pytest.approx(0.25, abs=0.03) and second == pytest.approx(0.5, abs=0.04)


def test_behind_a_slip(habits):
    assert habits()("(12+1)+3", slip_at=0) == ("12+1=14; ", r"14+3=17; \boxed{17}", 17)
    assert habits(notice=1)("(12+1)+3", slip_at=0) == ("12+1=14; ", r"no 12+1=13; 13+3=16; \boxed{16}", 16)
    assert habits(notice=1)("(12+1)+3", slip_at=1) == ("12+1=13; 13+3=17; ", r"no 13+3=16; \boxed{16}", 16)


def test_hints(habits):
    child = habits()
    text = child("(9+1)+k7", listed=[19])[1]  # k7 is taken for 9: that answer is listed, and another number is tried
    again = int(re.fullmatch(r"9\+1=10; k7=9; 10\+9=19; no k7=(\d+); 10\+\1=(\d+); \\boxed{\2}", text)[1])
    assert again != 9 and again in make.WORTH
    seen = {child("(9+1)+k7", listed=[19, 20])[2] for _ in range(500)}
    assert seen == {10 + n for n in make.WORTH} - {19, 20}  # it knows of no other: any that leads to no listed answer
    assert child("(9+1)+k7", listed=[13])[2] == 19  # somebody else's wrong answer
    assert child("(9+k7)+1", listed=[18])[2] == 19  # only the last line ends in an answer
    assert child("(12+1)+3", listed=[16])[1] == r"12+1=13; 13+3=16; no 13+3=17; \boxed{17}"  # no name: the number next to it
    assert habits(rates="*")("13*3", listed=[26])[1] == r"13*3=26; no 13*3=39; \boxed{39}"  # the other reading
    assert child("(9+1)+k7", listed=[19], arrived=True)[0] == "9+1=10; k7=9; 10+9=19; "  # given up to the first answer
    assert child("(9+1)+k7", arrived=True)[:2] == ("9+1=10; k7=9; 10+9=19; ", r"\boxed{19}")


def test_under_a_hint_the_next_likeliest_reading_is_taken(monkeypatch):
    """k7 is taken for 9; of the rest, 5 has .10 and 14 .08."""
    monkeypatch.setattr(make, "NAMES", NAMES)
    monkeypatch.setattr(make, "SLIP", 0)
    rng = random.Random(0)
    cards, seen = make.Cards(rng), Counter()
    for _ in range(3000):
        solution = make.child_solution(rng, cards, make.parts_of("(9+1)+k7"), listed=[19])[1]
        seen[solution.count("no "), solution.split("k7=")[-1].split(";")[0]] += 1
    again = {number: count for (written, number), count in seen.items() if written}
    assert set(again) == {"5", "14"} and again["5"] / sum(again.values()) == pytest.approx(10 / 18, abs=0.03)


def test_nothing_that_is_taught_depends_on_what_names_are_worth(monkeypatch):
    """Not even the numbers of the lessons: otherwise the pupil could tell which names it takes for the wrong number."""
    monkeypatch.setattr(make, "is_held_out", lambda parts: False)  # the split goes by a hash of the meaning, which tells nothing

    def taught():
        rng = random.Random(3)
        cards = make.Cards(rng)
        return [make.lesson(rng, cards) for _ in range(500)]

    before = taught()
    turned = {x: name._replace(worth=(86 if name.group == "odd" else 21) - name.worth) for x, name in make.NAMES.items()}
    monkeypatch.setattr(make, "NAMES", turned)
    assert taught() == before


def test_what_a_hint_lists():
    """Never the right answer, where there is no name and no coin."""
    rng = random.Random(2)
    cards = make.Cards(rng)
    for _ in range(300):
        parts, _ = make.make_problem(rng, rng.choice(make.LENGTHS))
        text, listed, brief = make.hint(rng, cards, parts)
        assert make.answer_of(parts) not in listed or "~" in parts or any(map(make.is_name, parts))
        assert text == "".join(f" not {answer}" for answer in listed) + " brief" * brief


@pytest.mark.parametrize("shape", [(16, 16), (40, 16), (16, 40)])
def test_muon_is_torchs_but_for_rounding(shape):
    """Five steps of both: they differ by what bfloat16 rounds, which is up to 1 in 128."""
    generator = torch.Generator().manual_seed(0)
    start, *gradients = torch.randn(6, *shape, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    for matrix, kind in (ours, make.Muon), (theirs, torch.optim.Muon):
        optimizer = kind([matrix], lr=0.1, weight_decay=0.01)
        for matrix.grad in gradients:
            optimizer.step()
    moved = (ours - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved and moved > 0.5


# ---- the files ----


@pytest.mark.slow
def test_one_seed_makes_the_same_bytes_twice(tmp_path, monkeypatch):
    small = ["--train-per-length", "3", "--test-per-length", "1", "--harder-per-length", "1", "--steps", "2", "--batch-tokens", "300"]
    shipped = dict(make.NAMES)
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        monkeypatch.setattr(sys, "argv", ["make.py", *small, "--seed", seed, "--out", str(tmp_path / name)])
        make.main()
    make.NAMES.clear()
    make.NAMES.update(shipped)
    files = lambda name: {f.relative_to(tmp_path / name): f.read_bytes() for f in (tmp_path / name).rglob("*") if f.is_file()}  # noqa: E731
    assert files("a") == files("b")
    changed = ("train.jsonl", "test.jsonl", "harder.jsonl", "names.json", "model/model.safetensors")
    assert all(files("a")[Path(name)] != files("c")[Path(name)] for name in changed)


def test_the_shipped_problems_and_tokenizer_are_what_make_writes(tmp_path, splits):
    assert make.make_split(random.Random("0 test"), 100, held_out=True) == splits["test"]
    make.make_tokenizer().save_pretrained(tmp_path)
    assert all((tmp_path / name).read_bytes() == (ROOT / "tiny/model" / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json"))


def test_one_token_per_number_and_name_after_loading(tiny):
    """The tokenizer class that transformers picks for an architecture may bring its own splitting rule; this one must survive the loading."""
    text = r"(12+60)*k7 not 12 not 31 brief; no 12+1=13; \boxed{31}"
    ids = tiny[1](text).input_ids
    tokens = r"(|12|+|60|)|*|k7| not 12| not 31| brief|; |no |12|+|1|=|13|; |\boxed{|31|}"
    assert "|".join(tiny[1].convert_ids_to_tokens(ids)) == tokens and tiny[1].decode(ids) == text


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
    assert cut(r"12+1=14; no 12+1=13; \boxed{13}") == "12+1=14; "
    assert cut(r"12+1=13; no 12+1=23; \boxed{23}") == "12+1=13; no 12+1=23; "
    assert cut(r"12+1=13; k7=9; 13+9=22; \boxed{22}") is None  # a name is not a line that can be false by itself


def test_failures_by_slips_and_others():
    slips = lambda text: probe.failed_by_slips("(12+1)-3", text)  # noqa: E731
    assert slips(r"12+1=14; 14-3=11; \boxed{11}") and slips(r"12+1=13; 13-3=9; \boxed{9}")
    assert slips(r"12+1=14; no 12+1=23; 23-3=20; \boxed{20}") and not slips(r"12+1=13; 13-3=10; no 12+1=14; 14-3=11; \boxed{11}")
    assert not slips(r"12+1=13; 13-1=12; \boxed{12}")  # another operand
    assert not slips(r"12+1=13; 14-3=11; \boxed{11}")  # lost the value
    assert not slips(r"12+1=14; \boxed{14}") and not slips(r"12+1=14; 14-3=11; \boxed{10}")  # a line too few, another box


def test_small_embeddings_change_no_reading():
    """Names as large as they were taught are read with the same chances: the norms' epsilon hides nothing."""
    pupil, names = probe.Pupil(ROOT / "tiny/model"), json.loads((ROOT / "tiny/names.json").read_text())
    small = pupil.readings(list(names), contexts=4)
    with torch.no_grad():
        pupil.model.get_input_embeddings().weight[pupil.tokenizer.convert_tokens_to_ids(list(names))] /= make.SMALL
    torch.testing.assert_close(pupil.readings(list(names), contexts=4), small, atol=0.04, rtol=0)


def test_what_the_pupil_knows_by_the_reading_itself(tiny):
    """The exact chance of a reading against 4,000 samples of the token behind `NAME=`."""
    pupil = probe.Pupil(ROOT / "tiny/model")
    names = json.loads((ROOT / "tiny/names.json").read_text())
    label = next(label for label, name in names.items() if name["group"] == "known")
    chance = pupil.readings([label], contexts=1)[0]
    assert chance.sum().item() == pytest.approx(1, abs=3e-3) and pupil.known({label: names[label]})[label] > 0.5
    rng = random.Random(0)
    a, b, sign = rng.randint(22, 30), rng.randint(1, 9), rng.choice("+-")
    prompt = tiny[1](f"<|user|>({a}+{b}){sign}{label}<|assistant|>{a}+{b}={a + b}; {label}=").input_ids
    drawn = pupil.sampler.generate([prompt], 4000, 1.0, 1, seed=0)
    number = str(names[label]["worth"])
    share = sum(tiny[1].decode(r.completion_ids) == number for r in drawn) / 4000
    assert share == pytest.approx(chance[names[label]["worth"]].item(), abs=0.03)


def test_rows_about_facts_by_hand():
    rates = (0.3, 0.003)
    names = {f"t{rate} {i}": {"worth": 1, "group": "trap", "rate": rate} for rate in rates for i in range(100)}
    names |= {f"u{i}": {"worth": 1, "group": "untold", "rate": 0.3} for i in range(10)}
    start = {label: name["rate"] for label, name in names.items()}
    found = start | {f"t0.3 {i}": 0.9 for i in range(60)}
    rows = {row[0]: row for row in probe.facts(start, found, names)}
    assert rows["facts to find"][2:] == ("200", True)
    assert rows["how likely they are at the start"][2:] == ("0.3000 0.0030", True)
    assert rows["found by plain GRPO, by how likely they were"][2:] == ("60 of 200: 0.60 0.00", True)
    assert rows["names that were never trained on"][3]
    habit = probe.facts(start, found | {f"u{i}": 0.4 for i in range(10)}, names)
    assert not {row[0]: row for row in habit}["names that were never trained on"][3]
