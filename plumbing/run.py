"""One run of a script: set-up, metrics, checkpoints, resume, and what the user sees."""

import atexit
import contextlib
import functools
import gc
import itertools
import json
import math
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import torch
from tqdm import tqdm

from common import (
    GAP_LIMITS,
    ROOT,
    TINY_MODEL,
    evaluate,
    load_model,
    make_sampler,
    score_rollouts,
    which_sampler,
)
from plumbing import InputError, NotFinite, derive_seed, distributed
from plumbing.checkpoints import (
    FORMAT,
    load_state,
    lock,
    name_of,
    newest_whole,
    read_about,
    read_rows,
    write,
)
from plumbing.curves import plot_curves
from plumbing.data import fingerprint, load_problems, named, set_name, without_unreadable
from plumbing.dry_run import dry_run
from plumbing.memory import fit_memory
from plumbing.optimizer import MasterAdamW
from plumbing.records import append, checksum, read_lines, read_record, write_aside, write_lines
from plumbing.reward import load_reward
from plumbing.settings import CHANGEABLE, CODE, as_flags
from plumbing.tracker import make_tracker

PHASES = ("sync", "sample", "verify", "train")  # of a step
UNREADABLE = {}  # {(data, its checksum): ids of problems that were dropped}; arms drop those that the run did


class Folder:
    """A run's folder: args.json, metrics.jsonl, checkpoints and curves.png."""

    def __init__(self, args, script, panels=None):
        """panels: what curves.png is to show besides the metrics that all scripts have; see curves.py."""
        distributed.start()
        self.args, self.started, self.script = args, time.time(), Path(script).stem
        self.made = False  # whether the folder was not there before
        self.asked = None  # the signal that asked for an end
        try:
            new = "" if args.resume or not distributed.is_main() else str(self.new_folder())
            self.out = Path(args.resume or distributed.all_gather(new)[0])
            self.lock = lock(self.out)
        except OSError as problem:
            raise InputError(f"--out {args.resume or args.out}: cannot write there ({problem})") from None
        begun = distributed.is_main() and not args.resume and (self.out / "args.json").exists()
        if begun:  # by another process, since new_folder() looked
            raise InputError(taken(self.out))
        atexit.register(self.tidy)
        self.listen()
        self.unraisable, sys.unraisablehook = sys.unraisablehook, self.unheard
        args.out = str(self.out)
        self.about = {"format": FORMAT, "script": self.script, "data": {}, "records": {}}
        if args.resume:
            self.about |= read_about(self.out)
        if self.about["script"] != self.script:
            raise InputError(f"--resume {self.out}: that is a run of {self.about['script']}.py, not of "
                             f"{self.script}.py")
        self.about |= {"settings": vars(args), "panels": panels or {}, "environment": environment()}
        for path in self.out.glob("checkpoint-*"):  # what a kill left of one: fit_memory wants its room
            if distributed.is_main() and nothing(path):
                shutil.rmtree(path, ignore_errors=True)
        found = [newest_whole(self.out)] if distributed.is_main() else [None]
        self.checkpoint = distributed.all_gather(found)[0][0]  # to start from; None: the beginning
        reached = int(self.checkpoint.name[-6:]) if self.checkpoint else -1
        self.done = max(reached, 0)  # steps whose work is kept
        self.metrics_file = self.out / "metrics.jsonl"
        self.rows = read_rows(self.out, reached)  # later ones are made again
        tracker = functools.partial(make_tracker, args.report_to, self.out, vars(args), reached)
        self.tracker = tracker() if args.resume else None  # one that fails now must not fail every resume
        self.write_about()
        if self.metrics_file.exists():
            write_lines(self.metrics_file, self.rows)
        distributed.barrier()  # the folder is there
        print(f"run folder: {self.out}" + (f"   (resumed after step {self.done})" if args.resume else ""))
        self.tracker = self.tracker or tracker()

    def new_folder(self):
        """Make the folder --out, or the first runs/SCRIPT-MODEL[-NUMBER] that is free. Raises InputError."""
        model = "tiny" if self.args.model == TINY_MODEL else Path(self.args.model).name
        out, number = Path(self.args.out or Path("runs") / f"{self.script}-{model}"), 1
        while not self.args.out:
            with contextlib.suppress(FileExistsError):
                out.mkdir(parents=True)
                self.made = True
                return out
            number += 1
            out = Path("runs") / f"{self.script}-{model}-{number}"
        if out.exists() and (not out.is_dir() or any(not nothing(path) for path in out.iterdir())):
            raise InputError(taken(out))
        with contextlib.suppress(FileExistsError):
            out.mkdir(parents=True)
            self.made = True
        return out

    def write_about(self):
        """Write args.json."""
        write_aside(self.out / "args.json", json.dumps(self.about, indent=2))

    def keeps(self):
        """Whether the folder holds something that a start of the same command would not make again."""
        return bool(self.args.resume) or any(
            not nothing(path) and path.name != "args.json" for path in self.out.glob("*"))

    def listen(self):
        """Be told of the signals that ask for an end."""
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, self.stop)

    def unheard(self, lost):
        """What stop() raises while Python deletes an object goes nowhere: be asked for the end once more."""
        if not (self.asked and isinstance(lost.exc_value, SystemExit)):
            return self.unraisable(lost)
        self.listen()
        again = threading.Timer(0.05, os.kill, (os.getpid(), self.asked))  # when that is over
        again.daemon = True
        again.start()

    def stop(self, signal_number, frame):
        """Ctrl-C, or a scheduler's request to end: leave by the way that ends engine and verifier."""
        self.asked = signal_number
        for other in (signal.SIGINT, signal.SIGTERM):  # a second one ends it at once
            signal.signal(other, signal.SIG_DFL)
        if not distributed.is_main():
            raise SystemExit(1)
        name, whole = signal.Signals(signal_number).name, self.out
        if (self.out.parent / "args.json").exists():  # an arm: the run that it belongs to goes on with it
            whole = self.out.parent
        if whole == self.out and not self.keeps():
            raise SystemExit(f"stopped by {name} before there was anything to keep; start it again")
        raise SystemExit(f"stopped by {name}; continue with --resume {whole}")

    def tidy(self):
        """A start that failed before there was anything to keep leaves nothing of its own behind."""
        if distributed.is_main() and self.out.exists() and not self.keeps():
            for name in ("args.json", "args.json.partial", "metrics.jsonl.partial", ".lock"):
                (self.out / name).unlink(missing_ok=True)
            if self.made:
                with contextlib.suppress(OSError):  # another file has come in meanwhile
                    self.out.rmdir()

    def last(self, name):
        """The latest value of a metric; 0 if there is none."""
        return next((row[name] for row in reversed(self.rows) if name in row), 0)

    def say(self, text):
        """Print beside the progress bar."""
        tqdm.write(text)

    def log(self, step, metrics):
        """Append one row to metrics.jsonl and show the gist on the progress bar. Raises InputError."""
        self.rows.append({"step": step, **metrics})
        append(self.metrics_file, self.rows[-1:])
        self.tracker.log(step, metrics)
        for name in (m for m in metrics if re.fullmatch(r"eval/[^/]+/avg@\d+", m)):
            self.say(f"step {step:4}  {name} {metrics[name]:.3f} ± {metrics[name + '_stderr']:.3f}")
        if "reward" in metrics:
            names = {"reward": "reward", "zero-variance": "frac_reward_zero_std",
                     "length": "completions/mean_length"}
            shown = [f"{short} {metrics[name]:.2f}".removesuffix(".00") for short, name in names.items()]
            shown += [f"{phase} {metrics['time/' + phase]:.1f}s" for phase in PHASES]
            for verb in ("sampled", "trained"):
                shown.append(f"{verb} {metrics[f'time/{verb}_tokens_per_s'] / 1000:.1f}k tok/s")
            self.bar.set_postfix_str(" ".join(shown))

    def finish(self):
        """Draw the curves and print what the run did to each evaluation set."""
        draw_curves(self.out)
        self.tracker.close()
        if self.lock:
            self.lock.close()
        print(before_and_after(self.rows))
        print(f"{time.time() - self.started:.0f} s; metrics, curves.png and checkpoints are in {self.out}")


def drawn_tokens(rollouts):
    """What sampling these adds to num_tokens: prompts, with prefixes and hints, and responses."""
    return sum(len(r.prompt_ids) + len(r.completion_ids) for r in rollouts)


class Run(Folder):
    """A run with all that its script works with, loaded in one call.

    model, tokenizer, sampler, optimizer; reference: the starting model if there is a KL term, else None;
    problems: what to train on; eval_sets: {name: problems}; reward: the function that scores responses;
    longest_prompt: tokens that leave room for an answer; done: steps to go on after.
    """

    def __init__(self, args, script, panels=None):
        if args.dry_run:
            dry_run(args, Path(script).name)
            raise SystemExit(0)
        torch.set_num_threads(args.threads or torch.get_num_threads())
        super().__init__(args, script, panels)
        self.reward = load_reward(args.reward)
        threads = torch.get_num_threads()  # an engine takes all but one
        masters, engine_memory = fit_memory(args, self.out)
        trusted = {"trust_remote_code": args.trust_remote_code}
        self.model, self.tokenizer = load_model(
            self.checkpoint or args.model, args.dtype, args.gradient_checkpointing, **trusted)
        self.reference = load_model(args.model, args.dtype, **trusted)[0] if args.beta else None
        context = self.model.config.max_position_embeddings
        self.eval_max_tokens = args.eval_max_tokens or args.max_tokens
        if self.eval_max_tokens >= context:
            raise InputError(f"--eval-max-tokens {self.eval_max_tokens}: the model's context has {context} "
                             "tokens; lower it (0: as --max-tokens)")
        self.longest_prompt = context - args.max_tokens
        columns = {"question_column": args.question_column, "answer_column": args.answer_column}
        self.problems = self.load(args.data, self.longest_prompt, **columns)
        if getattr(args, "questions", 0) > len(self.problems):
            self.say(f"--questions {args.questions}: there are {len(self.problems)} in {args.data}")
        room = context - self.eval_max_tokens
        self.eval_sets = {set_name(source): self.load(source, room) for source in args.eval_sets}
        if len(self.eval_sets) < len(args.eval_sets):
            raise InputError(f"--eval-sets {' '.join(args.eval_sets)}: two of them have the same short name, "
                             "under which metrics are logged; rename one")
        self.own_sets = {}  # as eval_sets; training questions, which get few samples at every evaluation
        self.step = self.done  # at which the run is
        rows = args.sample_rows or (768 if which_sampler(args.sampler) == "vllm" else 256)
        self.sampler = make_sampler(
            args.sampler, self.model, self.tokenizer, rows, memory=engine_memory,
            tensor_parallel=args.tensor_parallel)
        self.sampler.generate = self.naming(self.sampler.generate)
        self.longest_prompt = self.sampler.room - args.max_tokens  # an engine may lack memory for the context
        needed = [len(p["prompt_ids"]) + args.max_tokens for p in self.problems]
        held_out = [p for problems in self.eval_sets.values() for p in problems]
        needed += [len(p["prompt_ids"]) + self.eval_max_tokens for p in held_out]
        if max(needed) > self.sampler.room:
            raise InputError(
                f"a prompt and its longest response take {max(needed)} tokens, the engine has memory for "
                f"{self.sampler.room}; raise --engine-memory, or lower --max-tokens and --eval-max-tokens")
        torch.manual_seed(args.seed)  # after the engine, which seeds everything with a number of its own
        self.optimizer = MasterAdamW(
            self.model, args.lr, args.weight_decay, masters=masters, beta2=args.adam_beta2, threads=threads)
        self.max_logp_gap = args.max_logp_gap or GAP_LIMITS[self.sampler.dtype]
        self.clock, self.counted_as, self.since = Counter(), None, time.time()

    def load(self, source, longest_prompt, **columns):
        """Problems of a source, as load_problems. longest_prompt: tokens that leave room for an answer.

        Raises InputError also if a resumed run had others.
        """
        problems = load_problems(
            source, self.tokenizer, instruction=self.args.instruction, check_answers=False,
            longest_prompt=longest_prompt, **columns)
        use = [*filter(None, columns.values()), f"(prompts of at most {longest_prompt} tokens)"]
        name, now = " ".join([source, *use]), fingerprint(problems)
        known = self.about["data"].get(name, {"sha256": now, "dropped": UNREADABLE.get((name, now))})
        if known.get("sha256") != now:
            raise InputError(f"--resume {self.out}: {source} has changed since the run began; put it back, "
                             "or start a new run from the weights, --model with a checkpoint of this folder")
        kept, dropped = problems, []
        if self.args.reward == "":  # only the verifier has to read the answers
            kept = without_unreadable(source, problems, known["dropped"])
            ids = {problem["id"] for problem in kept}
            dropped = [problem["id"] for problem in problems if problem["id"] not in ids]
            UNREADABLE[name, now] = dropped
        self.about["data"][name] = {"sha256": now, "dropped": dropped}  # a resume drops the same, busy or not
        self.write_about()
        return kept

    def record(self, file, make, since=0, **tag):
        """The lines of a record with this tag. make() -> them, sampled with the weights of step `since`.

        A run that is past that step has others: it goes on from what is in `file`. Raises InputError if that
        is not what it began with.
        """
        name = " ".join(["record", *map(str, tag.values())])  # a script has one, whatever its file is called
        lines = [line for line in read_lines(file) if line.items() >= tag.items()]
        if self.about["records"].get(name) != checksum(lines):
            if self.done > since:
                raise InputError(f"--resume {self.out}: {file} does not hold what the run went on from, and "
                                 "the model has been trained since; put it back, or start a new run")
            self.sampler.sync()
            lines = make()
            self.sampler.sleep()
            self.about["records"][name] = checksum(lines)
            self.write_about()
        return lines

    def given_record(self, file, *names, problems=None, **tag):
        """The lines with this tag of a record that an earlier run left. Raises InputError.

        names: what each has to have. problems: those they may be of, the run's if not given.
        """
        def read():
            known = self.model.get_input_embeddings().num_embeddings
            lines = read_record(file, *names, *tag, problems=problems or self.problems, vocabulary=known)
            return [line for line in lines if line.items() >= tag.items()]

        return self.record(file, read, **tag)

    def steps(self, **metrics):
        """Evaluate the starting model, unless that is done; then yield the steps that are not done.

        metrics: what else to log before step 1.
        """
        if self.done == 0:
            self.log(0, self.evaluate(final=True) | metrics)
        self.bar = tqdm(range(self.done + 1, self.args.steps + 1), initial=self.done, total=self.args.steps,
                        unit="step", dynamic_ncols=True, smoothing=0.1, disable=not distributed.is_main())
        for step in self.bar:
            self.clock.clear()
            self.step = step
            yield step

    def naming(self, generate):
        """A sampler's generate() that says where numbers were not finite: the step, and the questions."""
        @functools.wraps(generate)
        def wrapped(contexts, *given, **settings):
            try:
                return generate(contexts, *given, **settings)
            except NotFinite:
                raise InputError(self.not_finite(["a log-probability of the sampler"], contexts)) from None

        return wrapped

    def not_finite(self, what, prompts):
        """The message of an InputError at this step."""
        asked = named(self.origin(prompt) for prompt in prompts)
        return (f"step {self.step}: {' and '.join(what)} is not a finite number. Stopped before the update, "
                "the checkpoints are as they were; a lower --lr or --max-grad-norm may help. Questions of "
                f"the batch: {asked}")

    def phase(self, name):
        """From here on time counts as `name`, until the next phase; None: as nothing."""
        now = time.time()
        if self.counted_as:
            self.clock[self.counted_as] += now - self.since
        self.counted_as, self.since = name, now

    def draw(self, problems, n, *purpose):
        """n scored samples for each problem -> list of lists of rollouts. For jobs beside the training steps.

        purpose: what the seed is made of.
        """
        args, contexts = self.args, [problem["prompt_ids"] for problem in problems]
        seed, before = derive_seed(args.seed, *purpose), self.counted_as
        self.phase("sample")
        rollouts = self.sampler.generate(contexts, n, args.temperature, args.max_tokens, seed)
        self.phase("verify")
        golds = [problem["answer"] for problem in problems for _ in range(n)]
        score_rollouts(rollouts, golds, self.tokenizer, self.reward)
        self.phase(before)
        return [rollouts[i * n : (i + 1) * n] for i in range(len(problems))]

    def evaluate(self, final=False):
        """Score the model on the evaluation sets -> dict of metrics.

        final: before the first step or after the last, with --final-eval-samples responses a question.
        """
        args, metrics = self.args, {}
        self.sampler.sync()
        held_out = final and args.final_eval_samples or args.eval_samples
        for sets, n in ((self.eval_sets, held_out), (self.own_sets, args.eval_samples)):
            metrics |= evaluate(
                self.sampler, self.tokenizer, sets, n=n, temperature=args.eval_temperature,
                max_tokens=self.eval_max_tokens, seed=derive_seed(args.seed, "eval"), reward=self.reward)
        return metrics

    def check_finite(self, step, batches, sums):
        """Before an update: raises InputError if a log-probability, the loss or a gradient is not finite.

        batches: those that the gradient is of, collated, with old_per_token_logps; sums: with their "loss".
        """
        finite = all(batch["old_per_token_logps"].isfinite().all() for batch in batches)
        wrong = ["a log-probability of the trainer"] * (not finite)
        wrong += ["the loss"] * (not math.isfinite(sums["loss"]))
        gradients = distributed.own_shards(self.optimizer.gradients()).values()
        wrong += ["the gradient"] * (not all(gradient.isfinite().all() for gradient in gradients))
        found = distributed.all_gather((wrong, prompts_of(batches) if wrong else []))
        if wrong := sorted({name for names, _ in found for name in names}):
            raise InputError(self.not_finite(wrong, [prompt for _, prompts in found for prompt in prompts]))

    def origin(self, prompt):
        """Where a prompt comes from: the file and line of its question, prefix or not; else its own text."""
        problems = itertools.chain(self.problems, *self.eval_sets.values())
        known = [p for p in problems if prompt[: len(p["prompt_ids"])] == p["prompt_ids"]]
        if known:
            return max(known, key=lambda p: len(p["prompt_ids"]))["origin"]
        return repr(self.tokenizer.decode(prompt))

    def shared_metrics(self, rewards, rollouts, batches, sums, further=()):
        """What every script logs of a step -> dict of metrics.

        rewards (groups, G): of the groups that were drawn, before anything was done to them; rollouts: their
        members. batches: the collated ones that were computed; sums: of loss, entropy and clipped tokens over
        them, over all ranks. further: rollouts that were drawn besides.
        """
        self.phase(None)
        rewards = rewards.double()
        zero_variance = (rewards == rewards[:, :1]).all(1)
        sizes = distributed.sum_over_ranks({
            "trained": sum(b["completion_mask"].sum().item() for b in batches),
            "real": sum(b["attention_mask"].sum().item() for b in batches),
            "padded": sum(b["attention_mask"].numel() for b in batches)})
        drawn, size = [*rollouts, *further], len(rollouts)
        written = sum(len(r.completion_ids) for r in drawn)
        trained, updates = max(1, sizes["trained"]), getattr(self.args, "updates_per_batch", 1)
        return {
            "reward": rewards.mean().item(),
            "frac_reward_zero_std": zero_variance.double().mean().item(),
            "frac_all_right": (zero_variance & (rewards[:, 0] == 1)).double().mean().item(),
            "completions/mean_length": sum(len(r.completion_ids) for r in rollouts) / size,
            "completions/clipped_ratio": sum(not r.finished for r in rollouts) / size,
            "loss": sums["loss"] / updates,  # near 0 on policy whatever happens: look at reward and grad_norm
            "entropy": sums["entropy"] / trained,
            "clip_ratio/low_mean": sums["clip_ratio/low_mean"] / (trained * updates),
            "clip_ratio/high_mean": sums["clip_ratio/high_mean"] / (trained * updates),
            "kl": sums["kl"] / (trained * updates),
            "num_tokens": self.last("num_tokens") + drawn_tokens(drawn),
            **{f"time/{phase}": self.clock[phase] for phase in PHASES},
            "time/sampled_tokens_per_s": written / max(1e-9, self.clock["sample"]),
            "time/trained_tokens_per_s": trained / max(1e-9, self.clock["train"]),
            "time/padding": 1 - sizes["real"] / sizes["padded"] if sizes["padded"] else 0.0,
        }

    def finish_step(self, step, metrics, last=False, **stateful):
        """Log a step; evaluate and save if it is time, or if it is the last. stateful: as in save()."""
        last = last or step == self.args.steps
        if step % self.args.eval_every == 0 or last:
            began = time.time()
            metrics |= self.evaluate(final=last)
            metrics["time/evaluate"] = time.time() - began
        self.log(step, metrics)
        if step % self.args.save_every == 0 or last:
            self.save(step, **stateful)

    def restore(self, **stateful):
        """Load what save() wrote, if the run goes on. stateful: objects with a state_dict()."""
        if self.checkpoint is None:
            return
        state = load_state(self.checkpoint, self.optimizer, stateful)
        torch.set_rng_state(state["torch_rng"])
        random.setstate(state["python_rng"])

    def save(self, step, **stateful):
        """Write a checkpoint, unless it is there.

        Each rank writes its own part of the optimizer. stateful: what else to keep, as in restore(). Raises
        InputError.
        """
        state = {name: owner.state_dict() for name, owner in stateful.items()}
        state |= {"step": step, "torch_rng": torch.get_rng_state(), "python_rng": random.getstate()}
        write(self.out / name_of(step), self.model, self.tokenizer, self.optimizer, state)

    def show_example(self, rollouts, golds, group_size, prefix_lengths=None):
        """Print a group, and one response token role by token role: the first group whose rewards differ.

        golds: of each rollout. prefix_lengths: how many tokens at the end of each rollout's prompt are a
        prefix.
        """
        groups = range(0, len(rollouts), group_size)
        differs = [len({r.reward for r in rollouts[i : i + group_size]}) > 1 for i in groups]
        first = differs.index(True) * group_size if any(differs) else 0
        rollout, prefix = rollouts[first], prefix_lengths[first] if prefix_lengths else 0
        parts = {"prompt": len(rollout.prompt_ids) - prefix, "prefix": prefix}
        parts["response"] = len(rollout.completion_ids)
        lines, at = ["one sample, and which of its tokens are trained on:"], 0
        for name, size in parts.items():
            text = self.tokenizer.decode((rollout.prompt_ids + rollout.completion_ids)[at : at + size])
            role = "trained on" if name == "response" else "not trained"
            lines += [f"  {name:9} {size:4} tokens  {role}  {text!r}"] * (size > 0 or name == "response")
            at += size
        lines.append(f"one group (right answer {golds[first]}):   reward  advantage  response")
        for r in rollouts[first : first + group_size]:
            text = self.tokenizer.decode(r.completion_ids)
            lines.append(f"{'':34} {r.reward:6.1f}  {r.advantage:+9.3f}  {text!r}")
        self.say("\n".join(lines))

    def finish(self):
        """Draw the curves, print what the run did, end the sampler and make room for another run."""
        super().finish()
        self.sampler.close()
        self.sampler = self.optimizer = self.reference = None
        if distributed.WORLD_SIZE == 1:  # shards are small
            for weight in self.model.parameters():  # the script still holds the model
                weight.data = weight.data.new_empty(0)
        gc.collect()
        torch.cuda.empty_cache()


def train_arms(main, argv, run, arms, *flags):
    """Run a script again for each of the other arms, in folders inside this run's, and draw all their curves.

    An arm that has begun goes on. The others get the run's own settings, whatever the command was: a resumed
    run's says next to nothing. flags: more of them, for all arms.
    """
    own = dict(vars(run.args))
    for name in ("out", "resume", "arm", "compare"):
        del own[name]
    changed = {name: own[name] for name in CHANGEABLE if name in own}
    changed |= {name: own[name] for name in CODE if own[name]}
    for arm in arms:
        print(f"\narm {arm}:")
        folder = run.out / arm
        if (folder / "args.json").exists():
            main(["--resume", str(folder), *as_flags(changed), *flags])
        else:
            main([*as_flags(own), "--arm", arm, "--compare", "--out", str(folder), *flags])
        draw_curves(run.out, *(run.out / other for other in arms if (run.out / other).exists()))


def prompts_of(batches):
    """The prompts of collated rollouts, each once -> list of lists of token ids."""
    prompts = set()
    for batch in batches:
        first = batch["completion_mask"].int().argmax(1) + 1  # where the response begins
        for ids, real, start in zip(batch["input_ids"], batch["attention_mask"].bool(), first.tolist()):
            prompts.add(tuple(ids[:start][real[:start]].tolist()))
    return [list(prompt) for prompt in sorted(prompts)]


def taken(out):
    """What to say of a folder that a new run cannot have."""
    return (f"--out {out}: exists and is not empty; continue the run in it with --resume {out}, or name "
            "another")


def nothing(path):
    """Whether a file in a run folder is only what a stop left of one of the run's own, or the lock."""
    left = r"\.lock|args\.json\.partial|metrics\.jsonl\.partial|checkpoint-\d{6}\.partial"
    return bool(re.fullmatch(left, path.name))


def draw_curves(*folders):
    """curves.png, or a line that says why not: a run has not failed for want of a figure."""
    if distributed.is_main():
        try:
            plot_curves(folders)
        except OSError as problem:
            print(f"curves.png could not be drawn ({problem}); python -m plumbing.curves {folders[0]} does "
                  "it later")


def before_and_after(rows):
    """The first and the last evaluation side by side, as text; the only one, if there is one."""
    rows = [row for row in rows if any(name.startswith("eval/") for name in row)]
    if not rows:
        return "no evaluation was made"
    first, last = rows[0], rows[-1]
    averages = [name for name in last if re.search(r"/avg@\d+$", name)]
    width = max(len(name) for name in averages) - 5
    headings = [("before", f"after step {last['step']}"), ("pass@k before", "after")]
    if first is last:
        headings = [(f"step {last['step']}",), ("pass@k",)]
    lines = [" " * width + "".join(f"{heading:>18}" for heading in headings[0] + headings[1])]
    for name in averages:
        part, n = name.removeprefix("eval/").rsplit("/avg@", 1)
        passes = [metric for metric in last if metric.startswith(f"eval/{part}/pass@")]
        best = max(passes, key=lambda metric: int(metric.rsplit("@")[1]), default=name)
        shown = [first, last][: len(headings[0])]
        cells = [f"{100 * row[name]:.1f} ± {100 * row[name + '_stderr']:.1f}" for row in shown]
        cells += [f"{100 * row[best]:.1f}" for row in shown]
        line = f"{part + ' avg@' + n:{width}}" + "".join(f"{cell:>18}" for cell in cells)
        lines.append(f"{line}  ({best.rsplit('/')[-1]})")
    return "\n".join(lines)


def environment():
    """Versions, machine and commit, for args.json."""
    try:
        commit = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        commit = subprocess.run(commit, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git on this machine
        commit = None
    device = f"{platform.machine()}, {os.cpu_count()} cores"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    versions = {name: version(name) for name in ("torch", "transformers", "math-verify", "datasets")}
    return {"commit": commit or None, "python": platform.python_version(), "device": device,
            "ranks": distributed.WORLD_SIZE, "command": sys.argv, **versions}
