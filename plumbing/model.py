"""Whether a model that loads is the one that was meant."""

from plumbing import InputError


def check_model(path, model, tokenizer, report, stop):
    """Raises InputError for a model that loads, but is not the one that was meant.

    report: which tensors were missing in its files (they are random now), left over, or of another size;
    stop: the tokens that end a response.
    """
    names = [name for kind in report.values() for name in kind]
    infinite = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    known = model.get_input_embeddings().num_embeddings
    problem = (
        names and f"{len(names)} tensors are not those that its config.json asks for, as {names[0]}"
        or infinite and f"{len(infinite)} tensors hold numbers that are not finite, as {infinite[0]}"
        or len(tokenizer) > known and f"its tokenizer has {len(tokenizer)} tokens, the model knows {known}"
        or not stop and "no token ends a response: name an eos_token in its tokenizer")
    if problem:
        raise InputError(f"--model {path}: {problem}")
