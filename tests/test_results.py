"""What is quoted from results/: tables are made of the numbers that lie beside them, and what is missing is run.

And the controls that are scripts of their own.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common import Rollout

RESULTS = Path(__file__).resolve().parent.parent / "results"
sys.path.insert(0, str(RESULTS))

import analysis  # noqa: E402
import claims_erpo  # noqa: E402
import claims_grpo  # noqa: E402
import claims_pool  # noqa: E402
import erpo_permuted  # noqa: E402
import failure_prefix_scored as scored  # noqa: E402
import packed  # noqa: E402
import run  # noqa: E402

TABLES = [path.stem.removeprefix("claims_") for path in sorted(RESULTS.glob("claims_*.py"))]
MADE_BY = {method: [method] for method in TABLES}
SWEEP = ["--sweep", "lr", "5e-5", "1e-4", "1.5e-4", "2e-4", "4e-4", "8e-4"]
for swept in ("erpo", "failure_prefix", "grpo", "lte", "pos_neg_pairing", "prefix_rl"):
    MADE_BY[f"{swept}-lr"] = [swept, "--seeds", "10", "11", "12", *SWEEP]


def refuse(*work):
    raise AssertionError(f"{work} is run")


@pytest.mark.parametrize("table", MADE_BY)
def test_a_table_is_made_of_the_numbers_beside_it(table, tmp_path, monkeypatch, capsys):
    """To the letter, and without a run; the figure as well."""
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "run_seed", refuse)
    shutil.copy(RESULTS / f"{MADE_BY[table][0]}.json.xz", tmp_path)
    run.main(MADE_BY[table])
    assert (tmp_path / f"{table}.md").read_text() == (RESULTS / f"{table}.md").read_text()
    drawn = tmp_path / f"{table}.png"
    assert "--sweep" in MADE_BY[table] or 10_000 < drawn.stat().st_size < 200_000


@pytest.mark.parametrize("method", TABLES)
def test_only_what_tables_and_figures_need_is_kept(method):
    plan, runs = run.plan_of(method, []), packed.load(RESULTS / f"{method}.json.xz")
    patterns = ["step", plan.AGAINST[0], *plan.PANELS, *plan.METRICS]
    arms = [arm for arm in runs if "=" not in arm]
    assert arms == sorted(plan.ARMS)
    assert not run.of_another_task([one for some in runs.values() for one in some.values()], plan)
    for arm in arms:
        assert len(runs[arm]) == len(plan.SEEDS[: plan.FEW.get(arm)])
        names = {name for kept in runs[arm].values() for name in kept["metrics"]}
        assert all(any(re.fullmatch(pattern, name) for pattern in patterns) for name in names)


def test_a_checkout_is_light():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=RESULTS.parent, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [RESULTS.parent / name for name in listed.stdout.split("\0") if name]
    assert sum(file.stat().st_size for file in files if file.exists()) < 6e6


def finished_run(folder, number):
    """A run's folder as the scripts leave it."""
    folder.mkdir(parents=True)
    environment = {"device": "abacus", "command": ["grpo.py", "--out", str(folder)]}
    (folder / "args.json").write_text(json.dumps({"settings": {}, "environment": environment}))
    rows = [{"step": 0, "eval/test/avg@4": 0.1, "kl": 0.3}, {"step": 1, "reward": number, "time/train": 2 / 3}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "analysis.json").write_text(json.dumps({"right": [3, 1]}))
    return folder


def test_packing_keeps_numbers_as_they_are(tmp_path):
    patterns = ["step", run.SCORE, "reward", "time/train"]
    one = packed.pack(finished_run(tmp_path / "a", 1 / 3), patterns, "its task")
    assert one["environment"] == {"device": "abacus"} and one["task"] == "its task" and "kl" not in one["metrics"]
    packed.save(tmp_path / "x", {"a": {"10": one, "9": one}, "b": {"0": one}})
    packed.save(tmp_path / "y", {"b": {"0": one}, "a": {"9": dict(reversed(one.items())), "10": one}})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    logs = packed.Logs(packed.load(tmp_path / "x"))
    assert logs.seeds == {"a": ["9", "10"], "b": ["0"]} and logs.device() == "abacus"
    assert logs.rows("b") == [[{"step": 0, "eval/test/avg@4": 0.1}, {"step": 1, "reward": 1 / 3, "time/train": 0.667}]]
    assert logs.measured("a") == [{"right": [3, 1]}] * 2 and logs.measured("a", "start") == []


def test_what_is_missing_is_run(tmp_path, monkeypatch):
    """And the first arm once more for what starts from its folder; numbers that are there stay."""
    made = []

    def run_seed(method, plan, arm, seed):
        made.append((arm, seed))
        return finished_run(tmp_path / arm / str(seed), seed)

    monkeypatch.setattr(run, "run_seed", run_seed)
    plan = run.plan_of("grpo", [])
    plan.PANELS = {"reward": "training reward"}
    plan.ARMS = {"first": [], "alone": ["--lr", "1"], "behind": ["--bank", "FIRST/bank.jsonl"]}
    kept = {"task": packed.task()}
    runs = {"first": {"0": kept, "1": kept}, "alone": {"0": kept}, "behind": {"1": kept}}
    assert run.run_missing("grpo", plan, runs, {arm: [0, 1] for arm in plan.ARMS}, jobs=1) == 3
    assert made == [("first", 0), ("alone", 1), ("behind", 0)]
    assert {arm: sorted(some) for arm, some in runs.items()} == {arm: ["0", "1"] for arm in plan.ARMS}
    assert runs["first"] == {"0": kept, "1": kept}
    assert runs["behind"]["0"]["metrics"]["reward"] == [None, 0] and runs["behind"]["0"]["task"] == kept["task"]


def test_the_other_task_is_made_where_an_arm_needs_it(tmp_path, monkeypatch):
    assert str(packed.TASK_1 / "train.jsonl") in run.plan_of("grpo", []).ARMS["another task"]
    made, folder = [], tmp_path / "task-1"
    monkeypatch.setattr(packed, "TASK_1", folder)
    monkeypatch.setattr(run, "ask", lambda *command: made.append(command))
    run.make_other_task(["--lr", "1e-4"])
    assert not made
    run.make_other_task(["--data", str(folder / "train.jsonl")])
    assert made == [("tiny/make.py", "--seed", 1, "--out", folder)]
    (folder / "model").mkdir(parents=True)
    run.make_other_task(["--data", str(folder / "train.jsonl")])
    assert len(made) == 1


def test_a_sweep_makes_once_what_its_values_share():
    """Only the swept arm is trained, and what the first value has mined is read by the others; grpo.py has neither."""
    assert run.plan_of("failure_prefix", ["lr", "1e-4", "2e-4"]).ARMS == {
        "lr=1e-4": ["--compare", "--lr", "1e-4"], "lr=2e-4": ["--compare", "--bank", "FIRST/bank.jsonl", "--lr", "2e-4"]}  # fmt: skip
    assert run.plan_of("grpo", ["lr", "1e-4", "2e-4"]).ARMS == {"lr=1e-4": ["--lr", "1e-4"], "lr=2e-4": ["--lr", "2e-4"]}


def test_one_seed_is_no_table(tmp_path, monkeypatch):
    """Said before a run is made."""
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "run_seed", refuse)
    with pytest.raises(SystemExit, match="^error: a table's intervals are over seeds: give --seeds two or more$"):
        run.main(["pool", "--seeds", "0"])


@pytest.mark.parametrize("task", [{"task": "another"}, {}])
def test_runs_of_two_tasks_are_never_joined(task, tmp_path, monkeypatch):
    """Also none that are older than checksums. What is all there still makes a table, which says so first."""
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "run_seed", refuse)
    rows = {"step": [0, 1], "eval/test/avg@4": [0.1, 0.2], "frac_reward_zero_std": [None, 0.5]}
    one = {"environment": {"device": "abacus"}, "metrics": rows}
    sweep = ["grpo", "--seeds", "0", "1", "--sweep", "lr", "1e-4"]

    def table(second):
        packed.save(tmp_path / "grpo.json.xz", {"lr=1e-4": {"0": one | {"task": packed.task()}, **second}})
        run.main(sweep)
        return (tmp_path / "grpo-lr.md").read_text().splitlines()[0]

    assert table({"1": one | {"task": packed.task()}}).startswith("`python results/run.py")
    assert table({"1": one | task}) == "**Of the task before this one: to be measured again.**"
    packed.save(tmp_path / "grpo.json.xz", {"lr=1e-4": {"0": one | task}})
    with pytest.raises(SystemExit, match="^error: results/grpo.json.xz holds runs of another tiny task .*; move or delete it"):
        run.main(sweep)


def test_a_task_is_its_problems_and_its_weights(tmp_path, monkeypatch):
    shutil.copytree(packed.TINY, tmp_path / "tiny")
    monkeypatch.setattr(packed, "TINY", tmp_path / "tiny")
    seen = {packed.task()}
    for name in packed.TASK:
        with open(tmp_path / "tiny" / name, "ab") as file:
            file.write(b"\n")
        seen.add(packed.task())
    assert len(seen) == 5


@pytest.mark.slow
def test_a_run_that_is_missing_is_run_and_packed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    command = ["grpo", "--seeds", "0", "--jobs", "1", "--sweep", "steps", "1"]
    run.main(command)
    folder, table = tmp_path / f"logs/{packed.task()[:8]}/grpo/steps=1/seed-0", (tmp_path / "grpo-steps.md").read_text()
    assert (folder / "finished").exists() and not list(folder.glob("checkpoint-*"))
    shutil.rmtree(tmp_path / "logs")
    monkeypatch.setattr(run, "run_seed", refuse)
    run.main(command)  # from the packed numbers
    assert (tmp_path / "grpo-steps.md").read_text() == table and "\n| 1 | " in table


def test_leads_of_paired_seeds():
    """A number a seed that both have: 4 - 1 and 1 - 1. Its row holds if the interval is above 0."""
    assert analysis.leads([[3, 5], [1, 1], [9, 9]], [[1, 1], [0, 2]]) == [3, 0]
    assert analysis.above("x", [0.01, 0.02, 0.03]) == (
        "x", "interval above 0", "+2.0 [-0.5, +4.5]; 3.0 would be seen four times of five", "**failed**")  # fmt: skip
    assert analysis.above("x", [0.02, 0.03, 0.04])[2:] == ("+3.0 [+0.5, +5.5]; 3.0 would be seen four times of five", "held")


def test_intervals_of_few_seeds():
    """1, 2, 3 deviate by 1: 2 ± 4.303 / sqrt(3). Eight numbers have 2.365, twenty 2.093, and so have more."""
    assert analysis.student([1, 2, 3]) == pytest.approx((2, 2 - 2.4843, 2 + 2.4843), abs=1e-4)
    assert analysis.student([0, 1] * 4)[2] - 0.5 == pytest.approx(2.365 * (2 / 7) ** 0.5 / 8**0.5)
    assert analysis.student([0, 1] * 10)[2] - 0.5 == pytest.approx(2.093 * (5 / 19) ** 0.5 / 20**0.5)
    assert analysis.student([0, 1] * 20)[2] - 0.5 == pytest.approx(2.093 * (10 / 39) ** 0.5 / 40**0.5)
    assert analysis.smallest_seen([1, 2, 3]) == pytest.approx((4.303 + 0.896) / 3**0.5)
    assert analysis.student([1])[0] == 1 and analysis.student([1])[1] != analysis.student([1])[1]


def test_an_opening_is_scored_as_well(monkeypatch):
    monkeypatch.setattr(scored, "SIZES", {(5, 6, 7): 2})
    opened, plain = Rollout([5, 6, 7], [8, 2], [-0.1, -0.2], True), Rollout([5, 6], [9], [-0.3], True)
    batch = scored.collate([opened, plain])
    # 6, 7, 8, 2 are predicted; 9 has no opening
    assert batch["completion_mask"].int().tolist() == [[1, 1, 1, 1], [0, 1, 0, 0]]
    assert batch["generated_mask"].int().tolist() == [[0, 0, 1, 1], [0, 1, 0, 0]]


def baseline_run(test, harder, **found):
    """A packed run of the baseline with these scores at its evaluations, and names it reads rightly."""
    steps = 20 * (len(test) - 1)
    at = range(0, steps + 1, 20)
    metrics = {name: [None] * (steps + 1) for name in ("eval/test/avg@4", "eval/harder/avg@4")}
    for step, one, other in zip(at, test, harder, strict=True):
        metrics["eval/test/avg@4"][step], metrics["eval/harder/avg@4"][step] = one / 100, other / 100
    metrics |= {"step": [*range(steps + 1)], "frac_reward_zero_std": [0.7] * (steps + 1), "frac_all_right": [0.4] * (steps + 1)}
    names = json.loads((RESULTS.parent / "tiny/names.json").read_text())
    start = {label: name["rate"] for label, name in names.items()}
    traps = [label for label, name in names.items() if name["group"] == "trap"]
    return {"metrics": metrics, "start": {"names": start}, "analysis": {"names": start | dict.fromkeys(traps[:40], 0.9)}}


def test_statements_about_the_baseline_by_hand():
    """Seeds at 49, 50, 51 deviate by 1 and hold; 47, 50, 53 by 3 and fail; a rise of 5 in the second half is a take-off."""
    long = baseline_run([30, 40, 45, 47, 49, 50, 50, 51, 51], [50, 60, 70, 72, 73, 74, 74, 75, 75])

    def verdicts(ends, last_but_one=48):
        runs = [baseline_run([30, 40, 45, last_but_one, end], [50, 60, 70, 72, 73]) for end in ends]
        arms = {"grpo": runs, "other rounding": runs, "another task": runs, "160 steps": [long] * 3}
        logs = packed.Logs({arm: {str(i): run for i, run in enumerate(some)} for arm, some in arms.items()})
        return {row[0]: row for row in claims_grpo.statements(logs)}

    good, apart, jumps = verdicts([49, 50, 51]), verdicts([47, 50, 53]), verdicts([52, 53, 54])
    name = "seeds agree: grpo, test"
    assert good[name][2:] == ["1.0; 49.0 50.0 51.0", "held"] and apart[name][2:] == ["3.0; 47.0 50.0 53.0", "**failed**"]
    assert good["no take-off: grpo"][2:] == ["test +3.0 at most; harder +2.0 at most", "held"]
    assert jumps["no take-off: grpo"][2:] == ["test +6.0 at most; harder +2.0 at most", "**failed**"]
    assert good["it flattens: test"][2:] == ["+2.0 of +20.0; 30.0 40.0 45.0 48.0 50.0", "held"]
    assert good["160 steps: test"][2:] == ["+2.0; +2.0 +2.0 +2.0", "held"]
    assert good["facts found in each seed"][2].startswith("40 40 40 of 204")
    power = "smallest difference that 8 seeds of two arms show: test"
    assert good[power][2:] == ["1.6, found in four of five trials", "held"]  # (2.365 + 0.896) * sqrt(2) / sqrt(8)
    assert apart[power][3] == "**failed**"


def pool_run(tokens, test, harder, **found):
    """A packed run of three rows that had drawn so many tokens, with these scores at each; None: not logged."""
    scores = {f"eval/{name}/{what}": values for name, values in (("test", test), ("harder", harder)) for what in ("avg@8", "pass@8")}
    rows = {"step": [0, 1, 2], "num_tokens": tokens, **scores, "frac_all_right": [None, 0.2, 0.4], "frac_reward_zero_std": [None, 0.5, 0.7],
            "temperature/mean": [None, 1.0, 1.1], "time/search": [5, None, None], "time/sample": [None, 2, 3]}  # fmt: skip
    run_of = {"environment": {"device": "abacus"}, "task": packed.task(), "metrics": rows, "analysis": {"entropy": 0.4}}
    return run_of | {"start": {"entropy": 0.5}} | found


def pool_runs(**changed):
    """Three seeds of every arm. GRPO ends at 1,000 tokens with .5 and .9; the others have .5 at 900 and .6 at 1,100, give or take .01."""
    runs = {"grpo": [pool_run([None, 500, 1000], [0.4, None, 0.5], [0.6, None, 0.9])] * 3}
    for arm in claims_pool.ARMS:
        others = [pool_run([400, 900, 1100], [0.4, 0.5, 0.6 + x], [0.6, 0.9, 0.9]) for x in (-0.02, 0, 0.02)]
        runs.setdefault(arm, others)
    return {arm: {str(i): one for i, one in enumerate(some)} for arm, some in (runs | changed).items()}


def test_scores_at_as_many_tokens_by_hand():
    """Between .5 at 900 tokens and .6 at 1,100, at 1,000 it is .55; between rows that lack it, nothing else counts."""
    rows = [{"x": 0.4}, {"num_tokens": 700}, {"num_tokens": 900, "x": 0.5}, {"num_tokens": 1100, "x": 0.6}]
    assert [claims_pool.at(rows, "x", tokens) for tokens in (0, 450, 900, 1000, 1100)] == pytest.approx([0.4, 0.45, 0.5, 0.55, 0.6])
    with pytest.raises(ValueError, match="x was last measured at 1100 tokens, before 1101: raise --steps"):
        claims_pool.at(rows, "x", 1101)


def test_statements_about_the_pool_by_hand():
    """At 1,000 tokens the seeds have .54, .55, .56 on test: 5 ± 4.303 / sqrt(3) above GRPO; the same on harder. One that is 3 below fails."""
    worse = [pool_run([0, 900, 1100], [0.4, 0.47, 0.47], [0.6, 0.9, 0.9])] * 3
    logs = packed.Logs(pool_runs(lte=worse))
    rows = {name: cells for name, *cells in claims_pool.statements(logs)}

    def found(name):
        measured, verdict = rows[name.replace(",", " above GRPO at equal tokens:")][1:]
        return measured.removesuffix(" would be seen four times of five"), verdict

    assert found("erpo, test") == ("55.0 against 50.0: +5.0 [+2.5, +7.5]; 3.0", "held")
    assert found("erpo, harder") == ("90.0 against 90.0: +0.0 [+0.0, +0.0]; 0.0", "**failed**")
    assert found("lte, test") == ("47.0 against 50.0: -3.0 [-3.0, -3.0]; 0.0", "**failed**")
    right, wrong = (rows[f"groups that are all {kind}, of what each samples, last 10 steps"][1] for kind in ("right", "wrong"))
    assert "lte 0.30 [0.30, 0.30]" in right and "lte 0.30 [0.30, 0.30]" in wrong  # .2 and .4; .3 and .3
    assert rows["seconds without evaluation"][1].startswith("grpo 10; ")
    cost = rows["share of the 0.00 million tokens that went before step 1, and steps"][1]
    assert cost.startswith("grpo 0.00, 2; failure_prefix 0.40, 2;") and "; lte 0.00, 2;" in cost
    assert rows["tokens a step, in GRPO's"][1].startswith("grpo 1.0; failure_prefix 0.7;")  # 350 and 500
    assert rows["entropy on held-out problems, nats a token"][1].startswith("before 0.500; grpo 0.400;")
    # at 750 tokens GRPO has .475, the others .47; both methods are 5 above it at the end, LTE 3 below, failure prefixes 5 above
    assert rows["above GRPO after three quarters of the tokens: test"][1].startswith("failure_prefix -0.5 [-0.5, -0.5];")
    assert rows["what the last quarter adds: test"][1].startswith("grpo +2.5; failure_prefix +8.0;")
    assert rows["lte+failures above the sum of its two parts' leads: test"][1] == "+3.0 [+3.0, +3.0]"


def test_the_table_and_figure_of_the_pool(tmp_path, monkeypatch, capsys):
    """Of invented runs, by run.py as it is called: there is no script pool.py."""
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "run_seed", refuse)
    packed.save(tmp_path / "pool.json.xz", pool_runs())
    run.main(["pool", "--seeds", "0", "1", "2"])
    assert "| prefix_rl above GRPO at equal tokens: test | " in (tmp_path / "pool.md").read_text()
    assert 10_000 < (tmp_path / "pool.png").stat().st_size < 200_000
    with pytest.raises(SystemExit, match="^error: there is no swimming.py to run"):
        run.main(["swimming"])


def test_longer_problems_by_hand():
    """Two seeds, .9 and .8 against .7 and .8: 10 points and none; the last row counts, and no other set."""
    def seed(end):
        rows = {"step": [0, 1], "eval/harder/avg@4": [0.1, end], "eval/harder/level 7/avg@4": [0.5, 0.5], "eval/test/avg@4": [0.3, 0.3]}
        return {"environment": {"device": "abacus"}, "metrics": rows}

    logs = packed.Logs({arm: {str(i): seed(end) for i, end in enumerate(ends)} for arm, ends in (("a", (0.9, 0.8)), ("b", (0.7, 0.8)))})
    assert analysis.longer(logs, ("a", "b"), "a", "b")[2] == "a 85.0, b 75.0; a minus b +10.0 [-117.1, +137.1]"


def test_a_panel_shows_one_metric(tmp_path):
    """Which of two held-out sets is meant is said, not guessed."""
    plan = run.plan_of("grpo", [])
    plan.PANELS = {run.SCORE: "score"}
    logs = packed.Logs({"grpo": {"0": {"metrics": {"step": [0], "eval/test/avg@4": [0.1], "eval/harder/avg@4": [0.2]}}}})
    with pytest.raises(ValueError, match="^panel score: .* is eval/harder/avg@4 and eval/test/avg@4$"):
        run.figure(plan, logs, tmp_path / "x.png")


def test_a_band_is_mean_and_interval_by_hand():
    """At 1 token the seeds have 0, 1, 2; over ten steps a metric of every step is averaged first."""
    drawn = {}

    class Axis:
        def plot(self, xs, ys, **style):
            drawn.update(xs=xs, ys=ys, label=style["label"])

        def fill_between(self, xs, low, high, **style):
            drawn.update(low=low, high=high)

    claims_pool.DRAW(Axis(), "C0", "lte", [[(0, 0), (1 + i, i + i * i)] for i in range(3)])  # 0, 1 and 2 at 1 token
    assert drawn["label"] == "lte" and (drawn["xs"][0], drawn["xs"][-1]) == (0, 1)
    assert drawn["ys"][-1] == pytest.approx(1) and drawn["low"][-1] == pytest.approx(1 - 2.4843, abs=1e-4)
    claims_pool.DRAW(Axis(), "C0", "lte", [[(i, i) for i in range(30)]] * 2)
    assert (drawn["xs"][0], drawn["ys"][0], drawn["xs"][-1]) == pytest.approx((4.5, 4.5, 24.5)) and drawn["low"] == drawn["high"]


def test_what_erpo_draws_and_loses_by_hand():
    """Two draws of 16 groups, half of them without variance, a quarter all right: 16 mixed, 8 all wrong. Four draws all wrong: 0, 64."""
    rows = [{"temperature/draws": 2, "frac_reward_zero_std": 0.5, "frac_all_right": 0.25},
            {"temperature/draws": 4, "frac_reward_zero_std": 1.0, "frac_all_right": 0.0}]  # fmt: skip
    assert claims_erpo.drawn_a_step(rows[:1]) == (16, 8) and claims_erpo.drawn_a_step(rows) == (8, 36)
    leads = claims_erpo.minus_dapo({"dapo": [0.5, 0.6, 0.7], "erpo": [0.4, 0.5, 0.6], "ra": [0.53, 0.65, 0.77]})
    assert leads == "erpo -10.0 [-10.0, -10.0], ra +5.0 [+0.0, +10.0]"  # 5 ± 4.303 * 2 / sqrt(3)


def test_permuted_temperatures_are_the_same_ones():
    tracker = erpo_permuted.Permuted(start=1.0, step=0.05, highest=1.5)
    for name in range(1, 9):
        for _ in range(name):
            tracker.update(name, torch.ones(4))
    own = [super(erpo_permuted.Permuted, tracker).temperature(name) for name in range(1, 9)]
    dealt = [tracker.temperature(name) for name in range(1, 9)]
    assert sorted(dealt) == sorted(own) and dealt != own and tracker.temperature("new") == 1.0
