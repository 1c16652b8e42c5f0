"""--dry-run: what a run would take, computed from its settings, its data and a few stated assumptions."""

from transformers import AutoTokenizer

from common import here_or_in_repository
from plumbing import InputError, first_line
from plumbing.data import load_problems, set_name
from plumbing.memory import fit_memory, shape

# Assumptions, all of them estimates: nothing of this was measured on a GPU.
LENGTH = 0.3  # of --max-tokens, the mean response: 900 of 3,000
SAMPLED = 15_000  # tokens a second and GPU that an engine samples of a model of 7.62 B parameters
SAMPLED_MOST = 40_000  # of a small one, where the host is what takes time
OPERATIONS = 370e12  # a second and GPU, of the update
HOST_STEP, GPU_STEP = 1.5e-9, 0.1e-9  # seconds a parameter of the optimizer, by where the masters are
LABEL = 1.07  # GB of 1e9 bytes in one that is printed on a GPU


def dry_run(args, script):
    """Print budgets of GPU, host and disk, samples, tokens and hours. Raises InputError, as the run would."""
    gpu, gpus = LABEL * args.gpu_memory or None, args.gpus or None
    config, parameters = shape(args.model, args.trust_remote_code)
    print(f"dry run of {script}: {parameters / 1e9:.2f} B parameters, a context of "
          f"{config.max_position_embeddings:,}")
    masters, _ = fit_memory(args, args.out or ".", gpu, gpus)
    problems, eval_sets, hard = read_data(args, config)
    count = gpus or 1
    length = int(LENGTH * args.max_tokens)
    eval_length = int(LENGTH * (args.eval_max_tokens or args.max_tokens))
    prompt = sum(len(p["prompt_ids"]) for p in problems) / len(problems)
    sampled = min(SAMPLED_MOST, SAMPLED * 7.62e9 / parameters) * count

    def hours(responses, length=length):
        return responses * length / sampled / 3600

    step, updates = args.prompts_per_step * args.group_size, getattr(args, "updates_per_batch", 1)
    draws = min(2, getattr(args, "max_draws", 1))
    passes = updates * (8 if args.gradient_checkpointing else 6) + 2 * bool(args.beta)
    update = passes * parameters * step * (prompt + length) / OPERATIONS / count / 3600
    update += updates * parameters * (HOST_STEP if masters == "cpu" else GPU_STEP / count) / 3600
    held_out = sum(map(len, eval_sets.values()))
    questions = min(getattr(args, "questions", 0) or len(problems), len(problems))
    own = questions if hasattr(args, "max_attempts") else 0  # the unsolved ones of prefix_rl.py: run.own_sets
    final = args.final_eval_samples or args.eval_samples
    between, ends = (n * held_out + args.eval_samples * own for n in (args.eval_samples, final))
    times = max(0, args.steps - 1) // args.eval_every  # the last step's is one of the ends
    # name, times, responses, tokens of each, hours
    rows = [("sampling of a step", args.steps, draws * step, length, hours(draws * step)),
            ("update of a step", args.steps, step, length, update),
            ("an evaluation in between", times, between, eval_length, hours(between, eval_length)),
            ("the first and the last", 1 + (args.steps > 0), ends, eval_length, hours(ends, eval_length))]
    for name, responses in once(args, questions, len(hard)).items():
        rows.append((name, 1, responses, length, hours(responses)))
    print(f"\nhours on {count} GPU{'s' * (count > 1)}: estimates, for responses of {length:,} tokens "
          f"({LENGTH} of --max-tokens; {eval_length:,} in\nevaluation), all trained on, "
          f"{sampled:,.0f} sampled tokens and {OPERATIONS * count:.2g} operations a second"
          + ", two draws a step" * (draws > 1) + "\n")
    print("| | times | responses | tokens | hours | in all |\n|---|---|---|---|---|---|")
    for name, times, responses, size, each in rows:
        print(f"| {name} | {times:,} | {responses:,} | {responses * size:,} | {each:.3f} | "
              f"{times * each:.1f} |")
    print(f"| all | | | | | {sum(times * each for _, times, _, _, each in rows):.1f} |")


def once(args, questions, hard):
    """Responses that a method draws once, before its first step -> {what: number}, known by its settings.

    questions: to draw them for; hard: further ones, which q+ comes from.
    """
    settings, found = vars(args), {}
    if "probe_samples" in settings:
        found["probe, and again of the two"] = (questions + hard + 2) * settings["probe_samples"]
    if "screen_samples" in settings:
        found["screening, if every question is of use"] = questions * settings["screen_samples"]
    if "cut_samples" in settings:
        found["trying cuts"] = questions * settings["cuts"] * settings["cut_samples"]
    if "max_attempts" in settings:
        found["collecting traces, at most"] = questions * settings["max_attempts"]
    return found


def read_data(args, config):
    """Problems, evaluation sets and hard problems, [] without, read as the run reads them."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            here_or_in_repository(args.model), trust_remote_code=args.trust_remote_code)
    except Exception as problem:  # the hub client and tokenizers each raise their own kinds
        raise InputError(f"--model {args.model}: its tokenizer cannot be read "
                         f"({first_line(problem)})") from None
    shared = {"instruction": args.instruction, "check_answers": args.reward == "",
              "longest_prompt": config.max_position_embeddings - args.max_tokens}
    problems = load_problems(args.data, tokenizer, question_column=args.question_column,
                             answer_column=args.answer_column, **shared)
    hard = load_problems(args.hard_data, tokenizer, **shared) if getattr(args, "hard_data", "") else []
    shared["longest_prompt"] -= (args.eval_max_tokens or args.max_tokens) - args.max_tokens
    eval_sets = {set_name(source): load_problems(source, tokenizer, **shared) for source in args.eval_sets}
    sets = {args.data: problems, **({args.hard_data: hard} if hard else {}), **eval_sets}
    counted = ", ".join(f"{name} {len(some):,}" for name, some in sets.items())
    longest = max(len(p["prompt_ids"]) for some in [problems, *eval_sets.values()] for p in some)
    print(f"problems: {counted}; longest prompt {longest:,} tokens")
    return problems, eval_sets, hard
