"""Pieces copied into an empty folder work there, with what the README's table says comes along."""

import ast
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

from conftest import ROOT

# A method's pure functions, what they need of common.py and plumbing/, and a line that uses them.
METHODS = {
    "failure_prefix": (["first_failure", "prefix_of", "choose_cut", "mine", "training_items"], "from pieces import InputError, drawn_tokens", """
        R = lambda right: type("R", (), {"right": right, "finished": True, "prompt_ids": [1], "completion_ids": [7, 8]})
        lines = mine([{"id": 0, "prompt_ids": [1], "answer": "2"}], lambda some, n: [[R(True)] * (n - 1) + [R(False)]] * len(some),
                     samples=4, low=3, high=3, cuts=[0.5], cut_samples=4, longest=9)
        items = training_items(lines, {0: {"prompt_ids": [1]}}, arm="failure", tau=0.5, fixed_cut=0)
        assert items == [{"prompt_ids": [1, 7], "prefix": 1, "rate": 0.75}]"""),
    "prefix_rl": (["find_trace", "training_set", "reinforce_loss", "flops"],
                  "import random, torch\nfrom pieces import batch_loss, derive_seed, drawn_tokens", """
        items = training_set({0: {"prompt_ids": [1]}}, {0: [5] * 10}, arm="mixture", cuts=3, low=0.4, high=0.8, seed=0)
        assert len(items) == 4 and items[-1] == {"prompt_ids": [1], "prefix": []}
        logps = torch.full((1, 2), -1.0)
        assert reinforce_loss(logps, torch.ones(1), torch.ones(1, 2), loss_type="sequence-sum")[0] == 2"""),
    "erpo": (["Tracker", "ra_advantage", "scoring"], "import torch", """
        tracker = Tracker(1.0, 0.25, 1.5)
        tracker.update("q", torch.ones(8))
        assert tracker.temperature("q") == 1.25 and ra_advantage(8) == 1 / 3"""),
    "pos_neg_pairing": (["choose_pair", "pair_advantages", "pair_metrics"],
                        "import random, torch\nfrom pieces import InputError, group_advantages", """
        assert choose_pair({"a": 1 / 8, "b": 7 / 8}, group_size=8, band=1, rng=random.Random(0)) == ("a", "b")
        assert pair_advantages(torch.tensor([[1.0, 0.0]]), torch.tensor([1])).sum() == 0"""),
    "lte": (["wrong_answers", "hinted_question", "refine", "lte_loss"],
            "import random, torch\nfrom verifier import last_boxed\nfrom pieces import batch_loss, grpo_loss", """
        assert hinted_question("1+1?", ["3"], False, hint=" Not {}.", separator=", ", instruction="", concise="") == "1+1? Not 3."
        loss, _ = lte_loss(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1), torch.ones(1, 1), hinted=True, gamma=1.0, clip_low=0.2,
                           clip_high=0.2, importance_weights=None)
        assert loss == -0.5"""),
}  # fmt: skip
BLOCK = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is not here")
sys.meta_path.insert(0, Missing())
"""


def cut(source, *names):
    """The source of functions, classes and constants of a file, in its order."""
    text = (ROOT / source).read_text()
    pieces = []
    for node in ast.parse(text).body:
        own = node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else node.targets[0].id if isinstance(node, ast.Assign) else ""
        if own in names:
            pieces.append(ast.get_source_segment(text, node))
    assert len(pieces) == len(names)
    return "\n\n\n".join(pieces) + "\n"


def use(folder, code, *blocked):
    """Run code in a folder that knows nothing of this repository; modules that are blocked cannot be imported."""
    code = BLOCK.format(blocked=blocked) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env={"PATH": "", "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr


@pytest.fixture
def pieces(tmp_path):
    """A folder with the loss, the advantages, token_logps and pass_at_k in pieces.py, and the verifier."""
    names = ("group_advantages", "grpo_loss", "LOSS_TYPES", "batch_loss", "pass_at_k", "_TokenLogps", "token_logps")
    text = cut("common.py", *names) + "\n\n" + cut("plumbing/__init__.py", "InputError", "derive_seed")
    text += "\n\n" + cut("plumbing/run.py", "drawn_tokens")
    text = "import hashlib\nimport math\n\nimport torch\n\n\n" + text
    (tmp_path / "pieces.py").write_text(text)
    shutil.copy(ROOT / "plumbing/verifier.py", tmp_path)
    return tmp_path


def test_advantages_loss_and_logps_need_torch_alone(pieces):
    use(pieces, """
        import torch
        from pieces import group_advantages, grpo_loss, pass_at_k, token_logps
        assert group_advantages(torch.tensor([[1.0, 0.0]]), scale_by_std=False).tolist() == [[0.5, -0.5]] and pass_at_k(4, 1, 2) == 0.5
        logps = token_logps(torch.zeros(3, 4), torch.zeros(5, 4), torch.tensor([0, 1, 2]))
        assert torch.allclose(logps, torch.tensor(0.2).log())
        assert grpo_loss(logps[None], logps[None], torch.ones(1), torch.ones(1, 3))[0] == -1
    """, "transformers", "math_verify", "tqdm", "datasets", "matplotlib", "vllm", "common", "plumbing")


def test_the_verifier_needs_math_verify_alone(pieces):
    use(pieces, r"""
        from verifier import verify
        assert verify([r"so \boxed{\frac{1}{2}}", r"\boxed{3}"], ["0.5", "2"]) == [1.0, 0.0]
    """, "torch", "transformers", "tqdm", "datasets", "matplotlib", "common", "plumbing")


@pytest.mark.slow
def test_the_sampler_comes_with_a_few_files(tmp_path):
    """Those that the README lists; torch, transformers and math-verify are there, what the rest of plumbing/ imports is not."""
    row = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| samplers"))
    (tmp_path / "plumbing").mkdir()
    shutil.copy(ROOT / "common.py", tmp_path)
    for name in re.findall(r"\w+", row.split("|")[3].partition(":")[2]):
        shutil.copy(ROOT / "plumbing" / f"{name}.py", tmp_path / "plumbing")
    shutil.copytree(ROOT / "tiny/model", tmp_path / "model")
    use(tmp_path, """
        from common import build_prompt, collate, completion_logps, load_model, make_sampler, score_rollouts
        model, tokenizer = load_model("model")
        sampler = make_sampler("transformers", model, tokenizer)
        sampler.sync()
        rollouts = sampler.generate([build_prompt(tokenizer, "2+2", "")], n=8, temperature=1.0, max_tokens=60, seed=0)
        score_rollouts(rollouts, ["4"] * 8, tokenizer)
        assert sum(r.reward for r in rollouts) >= 4
        batch = collate(rollouts)
        logps = completion_logps(model, batch, batch["temperatures"])[0]
        assert (logps - batch["sampling_per_token_logps"]).abs().max() < 1e-4
    """, "datasets", "matplotlib", "vllm", "grpo")


@pytest.mark.parametrize("method", METHODS)
def test_pure_functions_of_a_method(pieces, method):
    names, needed, code = METHODS[method]
    (pieces / "copied.py").write_text(needed + "\n\n\n" + cut(f"{method}.py", *names))
    blocked = ("transformers", "tqdm", "datasets", "matplotlib", "vllm", "common", "plumbing")
    use(pieces, "import random\nimport torch\nfrom copied import *\n" + textwrap.dedent(code), *blocked)
