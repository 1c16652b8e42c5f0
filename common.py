"""What all scripts share and a reader should know: model, sampling, reward, log-probs, loss, evaluation.

Read it once; no method needs it reopened. What nobody has to read (flags, files, checkpoints, torchrun) is in
plumbing/.

Letters in tensor shapes:  B sequences  G samples of one question  L tokens of a padded row
                           N scored tokens  D hidden size  V vocabulary
"""

import atexit
import copy
import dataclasses
import functools
import importlib.util
import math
import os
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import Cache
from transformers.utils import logging as transformers_logging

from plumbing import InputError, NotFinite, derive_seed, distributed, first_line
from plumbing.cache import RoomyLayer
from plumbing.engine import engine_environment, engine_options, fork_generators, import_vllm
from plumbing.model import check_model
from plumbing.verifier import verify

ROOT = Path(__file__).resolve().parent
TINY_MODEL = "tiny/model"  # what a script trains when it is given no --model
GAP_LIMITS = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # nats, by the sampler's precision: see sampling_gap
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


# ---- model -----------------------------------------------------------------------------------


def here_or_in_repository(path):
    """tiny/... is found from any working directory."""
    return path if os.path.exists(path) or not os.path.exists(ROOT / path) else ROOT / path


def load_model(path, dtype="float32", gradient_checkpointing=False, trust_remote_code=False):
    """A causal language model and its tokenizer, from a hub id or a folder -> (model, tokenizer).

    dtype: of the weights. gradient_checkpointing: in train() mode, keep only what enters each layer and
    compute the rest again. trust_remote_code: run code that comes with it. Raises InputError.
    """
    place, trust = here_or_in_repository(path), {"trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **trust)
        model, report = AutoModelForCausalLM.from_pretrained(
            place, dtype=getattr(torch, dtype), output_loading_info=True, **trust)
    except Exception as problem:  # the hub client, safetensors and tokenizers each raise their own kinds
        raise InputError(f"--model {path}: neither a folder with a model nor a model the hub can give "
                         f"({first_line(problem)})") from None
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.eval()  # dropout would make the sampler and the trainer two different models
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    check_model(path, model, tokenizer, report, stop_ids(model, tokenizer))
    model.compute_dtype = model.dtype
    if distributed.WORLD_SIZE > 1:
        distributed.shard(model, model.dtype, _score)
    return model, tokenizer


# ---- sampling: token ids in and out, never text ------------------------------------------------------------


@dataclasses.dataclass
class Rollout:
    """One sampled response, with all that training on it needs."""

    prompt_ids: list  # what the model was given: the prompt and whatever prefix of an answer was put after it
    completion_ids: list  # what it wrote, the end-of-sequence token included
    logps: list  # log-probability of each of those tokens under the distribution it was drawn from
    finished: bool  # ended by itself, not by the length limit
    temperature: float = 1.0
    reward: float = 0.0
    advantage: float = 0.0

    @property
    def right(self):
        """Whether it got the whole reward. Everything below 1 is wrong."""
        return self.reward == 1


def build_prompt(tokenizer, question, instruction):
    """Token ids of one question, as the model sees it in training and in evaluation alike.

    question: a text, or a list of chat messages (which is taken to hold its own instructions). The chat
    template is used where the tokenizer has one; without, the text and a line break.
    """
    messages = question
    if isinstance(question, str):
        messages = [{"role": "user", "content": question + instruction}]
    if tokenizer.chat_template:  # it writes the special tokens
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return tokenizer(text, add_special_tokens=False).input_ids
    return tokenizer("\n".join(message["content"] for message in messages) + "\n").input_ids


def stop_ids(model, tokenizer):
    """Ids that end a response: the tokenizer's and those of the model's generation settings."""
    listed = model.generation_config.eos_token_id
    listed = listed if isinstance(listed, list) else [listed]
    return {i for i in [tokenizer.eos_token_id, *listed] if i is not None}


def compute_dtype(model):
    """The precision a model computes in; that of its weights, unless they are float32 shards."""
    return getattr(model, "compute_dtype", model.dtype)


def draw(logps, generator):
    """One word a row, with the probabilities exp(logps), (rows, V) -> (rows, 1).

    Takes one random number a row, where torch.multinomial takes V of them: an eighth of a tiny run's time.
    """
    probabilities = logps.exp().nan_to_num(1.0)  # NaN: the sampler says so in the end
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    random = torch.rand(len(logps), 1, dtype=torch.float64, device=logps.device, generator=generator)
    token = torch.searchsorted(cumulative, random * cumulative[:, -1:], right=True)
    return token.clamp(max=logps.shape[1] - 1)


class TransformersSampler:
    """Samples with the training model itself, wherever there is no inference engine. It is always up to date.

    rows: how many sequences are sampled side by side (memory only).
    """

    samples_with_model = True

    def __init__(self, model, tokenizer, rows=256):
        self.model, self.rows, self.dtype = model, rows, compute_dtype(model)
        self.stop = torch.tensor(sorted(stop_ids(model, tokenizer)), device=model.device)
        self.room = model.config.max_position_embeddings  # tokens of a prompt and its response

    def sync(self):
        """Nothing to do: the model that samples is the one that is trained."""

    def sleep(self):
        """Nothing to do: there is no second copy that takes up memory."""

    def close(self):
        """Nothing to do."""

    @torch.inference_mode()
    def generate(self, contexts, n, temperature, max_tokens, seed, keep=None):
        """n samples from each context -> list of Rollout, sample j of context i at place i * n + j.

        contexts: lists of token ids (a prompt, or a prompt and a prefix of the answer). temperature: one
        number, or one for each context; 0 is greedy. Nothing but the temperature shapes the distribution: no
        top-k, no top-p. keep(rollouts, places): what to return for each instead, where there are too many to
        hold them all.
        """
        temperatures = temperature if isinstance(temperature, list) else [temperature] * len(contexts)
        generator = torch.Generator(self.model.device).manual_seed(seed)
        rollouts = [None] * (len(contexts) * n)
        by_length = sorted(range(len(rollouts)), key=lambda row: len(contexts[row // n]))  # little padding
        for start in range(0, len(by_length), self.rows):
            rows = by_length[start : start + self.rows]
            own_contexts = [contexts[row // n] for row in rows]
            own_temperatures = [temperatures[row // n] for row in rows]
            batch = self._batch(own_contexts, own_temperatures, max_tokens, generator)
            for row, rollout in zip(rows, batch, strict=True):
                rollouts[row] = rollout
        return keep(rollouts, range(len(rollouts))) if keep else rollouts

    def _batch(self, contexts, temperatures, max_tokens, generator):
        device = self.model.device
        logits, mask, cache = self._read_prompts(contexts)
        heat = torch.tensor(temperatures, device=device, dtype=torch.float32)[:, None]
        tokens = torch.zeros(len(contexts), max_tokens, dtype=torch.long, device=device)
        logps = torch.zeros(len(contexts), max_tokens, device=device)
        lengths = torch.full((len(contexts),), max_tokens, device=device)
        finished = torch.zeros(len(contexts), dtype=torch.bool, device=device)
        alive = torch.arange(len(contexts), device=device)  # which row each line of the shrinking batch is
        for t in range(max_tokens):
            scaled = (logits / torch.where(heat > 0, heat, 1.0)).log_softmax(-1)
            token = torch.where(heat > 0, draw(scaled, generator), scaled.argmax(-1, keepdim=True))
            tokens[alive, t], logps[alive, t] = token[:, 0], scaled.gather(1, token)[:, 0]
            ended = torch.isin(token[:, 0], self.stop) & ~finished[alive]
            lengths[alive[ended]], finished[alive[ended]] = t + 1, True
            going = ~finished[alive]
            if t + 1 == max_tokens or not going.any():
                break
            if going.sum() < 0.8 * len(alive):  # let finished rows go, not one by one: the cache is copied
                keep = going.nonzero()[:, 0]
                cache.batch_select_indices(keep)
                alive, heat, mask, token = alive[keep], heat[keep], mask[keep], token[keep]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            logits = self._next(token, mask, mask.sum(1, keepdim=True) - 1, cache)
        if not logps.isfinite().all():
            raise NotFinite("the sampler's log-probabilities are not finite numbers")
        columns = [column.tolist() for column in (tokens, logps, lengths, finished)]
        return [Rollout(context, ids[:size], values[:size], ended, temperature)
                for context, temperature, ids, values, size, ended in zip(contexts, temperatures, *columns)]

    def _read_prompts(self, contexts):
        """Logits of the first token, mask and cache, a row a context. A group reads its prompt once."""
        device, width = self.model.device, max(map(len, contexts))
        distinct = [i for i in range(len(contexts)) if i == 0 or contexts[i] is not contexts[i - 1]]
        copies = [b - a for a, b in zip(distinct, distinct[1:] + [len(contexts)], strict=True)]
        padding = [width - len(contexts[i]) for i in distinct]
        ids = [[0] * pad + contexts[i] for pad, i in zip(padding, distinct)]
        mask = [[0] * pad + [1] * (width - pad) for pad in padding]
        ids, mask = torch.tensor(ids, device=device), torch.tensor(mask, device=device)
        cache = Cache(layer_class_to_replicate=RoomyLayer)
        logits = self._next(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
        copies = torch.tensor(copies, device=device)
        spread = torch.arange(len(distinct), device=device).repeat_interleave(copies)
        cache.batch_select_indices(spread)
        return logits[spread], mask[spread], cache

    def _next(self, ids, mask, positions, cache):
        """Logits (rows, V) of the next token, in float32."""
        output = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                            use_cache=True, logits_to_keep=1)
        return output.logits[:, -1].float()


class VLLMSampler:
    """Samples with a vLLM engine in this process, which holds a copy of the weights.

    sync() after every update, before generate(). The same lines serve one process and torchrun with one
    engine a rank (or one over tensor_parallel ranks, which must then all ask for the same samples). memory:
    share of the GPU's memory the engine may hold while it samples. Building one reseeds the global generators
    of python and numpy. An exception inside generate() leaves the engine unusable: do not catch it and go on.
    """

    samples_with_model = False

    def __init__(self, model, tokenizer, rows=256, memory=0.4, tensor_parallel=1):
        self.model, self.stop = model, sorted(stop_ids(model, tokenizer))
        self.asleep = False
        self.cuda, self.dtype = torch.cuda.is_available(), compute_dtype(model)
        self.piece = 8 * rows  # requests in one call: the engine holds all until the last is answered
        config = copy.deepcopy(model.config)
        config.architectures = [type(model).__name__.removeprefix("FSDP")]  # sharding renames the class
        self.tied = config.tie_word_embeddings
        config.tie_word_embeddings = False  # a tied head goes stale unnoticed: always send it
        options = engine_options(config, str(self.dtype)[6:], rows, memory, tensor_parallel)
        with engine_environment(), fork_generators():
            self.vllm = import_vllm()
            self.llm = self.vllm.LLM(**options)
        self.room = self.llm.model_config.max_model_len  # the context, or what of it there is memory for
        atexit.register(self.close)

    def _weights(self):
        """(name, tensor) of every weight. All ranks must run through it together: a collective."""
        for name, weight in self.model.named_parameters():
            weight = weight.detach().to(self.dtype)
            weight = weight.full_tensor() if isinstance(weight, DTensor) else weight
            yield name, weight
            if self.tied and name.endswith("embed_tokens.weight"):
                yield "lm_head.weight", weight

    def sync(self):
        """Wake the engine if it sleeps and give it the model's present weights."""
        if self.asleep:
            self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._weights()})
        if self.asleep:  # the cache comes back after the weights: lower peak
            self.llm.wake_up(tags=["kv_cache"])
            self.asleep = False
        self._reset_cache()

    def _reset_cache(self):
        if not self.llm.reset_prefix_cache():  # what it holds was computed with the old weights
            raise RuntimeError("vLLM did not empty its prefix cache: a request is still running")

    def sleep(self):
        """Give the GPU's memory back until the next sync(). Weights and cache are dropped, not moved."""
        if self.cuda and not self.asleep:
            self.llm.sleep(level=2)
            torch.cuda.empty_cache()
            self.asleep = True

    def generate(self, contexts, n, temperature, max_tokens, seed, keep=None):
        """n samples from each context -> list of Rollout, as TransformersSampler.generate.

        keep is called piece by piece, so that what is not kept never fills the memory. Raises InputError for
        a context that leaves no room for max_tokens, and NotFinite; RuntimeError if the engine sleeps.
        """
        if self.asleep:  # it would wait for ever
            raise RuntimeError("the engine sleeps: call sync() before generate()")
        longest = max(map(len, contexts), default=0)
        if contexts and longest + max_tokens > self.room:  # vLLM would cut the response short without a word
            raise InputError(f"a context of {longest} tokens leaves no room for {max_tokens} more in the "
                             f"engine's {self.room}; lower --max-tokens")
        temperatures = temperature if isinstance(temperature, list) else [temperature] * len(contexts)
        places, kept = range(len(contexts) * n), []
        for start in range(0, len(places), self.piece):
            part = places[start : start + self.piece]
            own_contexts = [contexts[place // n] for place in part]
            own_temperatures = [temperatures[place // n] for place in part]
            seeds = [derive_seed(seed, place) for place in part]  # a request each, with its own
            rollouts = self._piece(own_contexts, own_temperatures, max_tokens, seeds)
            kept += keep(rollouts, part) if keep else rollouts
        return kept

    def _piece(self, contexts, temperatures, max_tokens, seeds):
        shared = {"max_tokens": max_tokens, "logprobs": 0, "flat_logprobs": True, "top_p": 1.0, "top_k": 0}
        shared |= {"stop_token_ids": self.stop, "detokenize": False}
        requests = [self.vllm.TokensPrompt(prompt_token_ids=context) for context in contexts]
        params = [self.vllm.SamplingParams(temperature=temperature, seed=seed, **shared)
                  for temperature, seed in zip(temperatures, seeds, strict=True)]
        with fork_generators():  # requests have own seeds; it draws from torch's generator all the same
            answers = self.llm.generate(requests, params, use_tqdm=False)
        rollouts = []
        for context, answer, temperature in zip(contexts, answers, temperatures, strict=True):
            output = answer.outputs[0]
            ids, logps = list(output.token_ids), list(output.logprobs.logprobs)
            rollouts.append(Rollout(context, ids, logps, output.finish_reason == "stop", temperature))
        if not all(len(r.logps) == len(r.completion_ids) for r in rollouts):
            raise RuntimeError("vLLM did not return one log-probability a token")
        if not all(math.isfinite(sum(r.logps)) for r in rollouts):
            raise NotFinite("the sampler's log-probabilities are not finite numbers")
        return rollouts

    def close(self):
        """End the engine, and the process group that it set up."""
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None
            if dist.is_initialized():
                dist.destroy_process_group()


def which_sampler(name):
    """What "auto" means on this machine: "vllm" or "transformers"; any other name is itself."""
    if name != "auto":
        return name
    return "vllm" if torch.cuda.is_available() and importlib.util.find_spec("vllm") else "transformers"


def make_sampler(name, model, tokenizer, rows=256, **engine):
    """The sampler called `name`: "vllm", "transformers", or "auto": vLLM if there is a GPU and the package.

        sampler = make_sampler("auto", model, tokenizer)
        sampler.sync()                              # the weights just trained, before anything is drawn
        rollouts = sampler.generate(contexts, n=8, temperature=1.0, max_tokens=3000, seed=0)
        sampler.sleep()                             # give the GPU's memory to the update

    rows: sequences sampled side by side (memory only). engine: memory and tensor_parallel, for vLLM. Raises
    InputError.
    """
    if which_sampler(name) == "vllm":
        sampler = VLLMSampler(model, tokenizer, rows, **engine)
    else:
        sampler, engine = TransformersSampler(model, tokenizer, rows), {}
    if distributed.WORLD_SIZE == 1:
        return sampler
    return distributed.ShardedSampler(sampler, engine.get("tensor_parallel", 1))


# ---- reward ------------------------------------------------------------------------------------------------


def score_rollouts(rollouts, golds, tokenizer, reward=verify, counts=None):
    """Set each rollout's reward: 0 if it was cut off, else reward(its text, gold answer), by default 1 or 0.

    reward(texts, golds, counts) -> numbers from 0 to 1; a response that was cut off is the empty text.
    counts: a Counter to which the numbers of unreadable answers and the like are added.
    """
    found = Counter()

    def check(part):
        return own_rewards(*zip(*part), tokenizer, reward, found) if part else []

    values = distributed.split_work(list(zip(rollouts, golds, strict=True)), check)
    for rollout, value in zip(rollouts, values, strict=True):
        rollout.reward = value
    if counts is not None:
        counts.update(distributed.sum_over_ranks(found))


def own_rewards(rollouts, golds, tokenizer, reward, counts):
    """As score_rollouts, without other ranks' help -> list of rewards."""
    texts = [tokenizer.decode(r.completion_ids, skip_special_tokens=True) for r in rollouts]
    texts = [text if r.finished else "" for text, r in zip(texts, rollouts)]
    values = reward(texts, list(golds), counts)
    return [value if r.finished else 0.0 for value, r in zip(values, rollouts, strict=True)]


# ---- log-probabilities -------------------------------------------------------------------------------------


class _TokenLogps(torch.autograd.Function):
    """Log-probability and entropy of tokens. The (N, V) logits are made tile by tile and never held."""

    # Tokens and logits at a time: in float32 8 MB, which stay in a CPU's cache; 32 times that on a GPU.
    ROWS, TILE = 1024, 2**21

    @staticmethod
    def tiles(hidden, weight, targets, inverse):
        """Slices of tokens and vocabulary, inputs, logits, each target's column, whether it is there."""
        exact = hidden.dtype == inverse.dtype
        # bfloat16: all tokens at a time. A weight's gradient is one product then, which sums up in float32:
        # no part is rounded before the whole is, which would bias training.
        rows = min(len(hidden), _TokenLogps.ROWS) if exact else len(hidden)
        size = _TokenLogps.TILE * (1 if hidden.device.type == "cpu" else 32)
        columns = max(1 if exact else 1024, size // rows)
        inputs = hidden * inverse[:, None] if exact else hidden  # bfloat16: scales the product
        buffer = hidden.new_empty(rows * columns)  # the same memory for all tiles
        for part in (slice(i, i + rows) for i in range(0, len(hidden), rows)):
            for vocabulary in (slice(j, j + columns) for j in range(0, len(weight), columns)):
                shape = len(inputs[part]), len(weight[vocabulary])
                out = buffer[: shape[0] * shape[1]].view(shape)
                logits = torch.mm(inputs[part], weight[vocabulary].T, out=out)
                if not exact:
                    logits = logits.to(inverse.dtype).mul_(inverse[part, None])
                column = targets[part] - vocabulary.start
                there = (column >= 0) & (column < columns)
                yield part, vocabulary, inputs[part], logits, column.clamp(0, shape[1] - 1)[:, None], there

    @staticmethod
    def forward(ctx, hidden, weight, targets, inverse, with_entropy):
        ctx.set_materialize_grads(False)
        # Over the tiles so far: the largest logit, the sum of exp(z - top) and that of exp(z - top) (z -
        # top); and the target's logit.
        top = torch.full_like(inverse, torch.finfo(inverse.dtype).min)
        sums, moments, chosen = (torch.zeros_like(inverse) for _ in range(3))
        for part, _, _, logits, column, there in _TokenLogps.tiles(hidden, weight, targets, inverse):
            chosen[part] += torch.where(there, logits.gather(1, column)[:, 0], 0)
            highest = torch.maximum(top[part], logits.amax(1))
            shift = top[part] - highest
            logits.sub_(highest[:, None])
            exps = logits.exp() if with_entropy else logits.exp_()
            if with_entropy:
                moments[part] = (moments[part] + sums[part] * shift) * shift.exp()
                moments[part] += torch.linalg.vecdot(exps, logits)
            sums[part] = sums[part] * shift.exp() + exps.sum(1)
            top[part] = highest
        log_sums, entropies = top + sums.log(), sums.log() - moments / sums
        ctx.save_for_backward(hidden, weight, targets, inverse, log_sums, entropies)
        return chosen - log_sums, entropies

    @staticmethod
    def backward(ctx, logp_grad, entropy_grad):
        hidden, weight, targets, inverse, log_sums, entropies = ctx.saved_tensors
        logp_grad = torch.zeros_like(inverse) if logp_grad is None else logp_grad
        hidden_grad = torch.zeros_like(hidden, dtype=inverse.dtype)
        weight_grad = torch.zeros_like(weight)
        tiles = _TokenLogps.tiles(hidden, weight, targets, inverse)
        for part, vocabulary, inputs, logits, column, there in tiles:
            # z = logits / temperature:  d logp(y) / d z_v = [v = y] - p_v;  d H / d z_v = -p_v (log p_v + H)
            log_probs, pull = logits.sub_(log_sums[part, None]), logp_grad[part, None]
            if entropy_grad is not None:
                pull = (log_probs + entropies[part, None]).mul_(entropy_grad[part, None]).add_(pull)
            own = torch.where(there, logp_grad[part], 0)[:, None]
            grad = log_probs.exp_().mul_(-pull).scatter_add_(1, column, own)
            if grad.dtype == inputs.dtype:
                hidden_grad[part].addmm_(grad, weight[vocabulary])
                weight_grad[vocabulary].addmm_(grad.T, inputs)
            else:
                grad = grad.mul_(inverse[part, None]).to(inputs.dtype)
                hidden_grad[part] += grad @ weight[vocabulary]
                torch.mm(grad.T, inputs, out=weight_grad[vocabulary])
        if hidden.dtype == inverse.dtype:
            hidden_grad = hidden_grad * inverse[:, None]
        return hidden_grad.to(hidden.dtype), weight_grad, None, None, None


def token_logps(hidden, weight, targets, temperature=1.0, with_entropy=False):
    """Log-probability of each target under softmax(hidden @ weight.T / temperature) -> (N,).

    hidden (N, D): last hidden states, each at the position before its target. weight (V, D): the output head.
    targets (N,): token ids. temperature: a number or a tensor (N,), above 0. with_entropy: also return the
    entropy in nats (N,), differentiable as well.
    """
    kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    inverse = 1.0 / torch.as_tensor(temperature, device=hidden.device, dtype=kind).expand(len(hidden))
    if len(hidden) == 0:
        empty = (hidden @ weight[:1].T)[:, 0].to(kind)  # gradients of 0 for both
        return (empty, empty) if with_entropy else empty
    logps, entropy = _TokenLogps.apply(hidden, weight, targets, inverse, with_entropy)
    return (logps, entropy) if with_entropy else logps


def micro_batches(rollouts, max_tokens):
    """Cut rollouts into batches of at most max_tokens, padding included: memory only, gradients stay.

    Longest first: memory runs out at once or not at all. With torchrun, this rank's part.
    """
    batches, width = [], 0
    for rollout in sorted(rollouts, key=lambda r: len(r.prompt_ids) + len(r.completion_ids), reverse=True):
        if batches and width * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(rollout)
        else:
            batches.append([rollout])
            width = len(rollout.prompt_ids) + len(rollout.completion_ids)
    nothing = [dataclasses.replace(r, prompt_ids=[0, 0], completion_ids=[], logps=[]) for r in rollouts[:1]]
    return distributed.my_batches(batches, nothing)


def collate(rollouts, device="cpu", padding_side="right"):
    """Pad rollouts into tensors -> dict.

    input_ids, attention_mask, position_ids (B, L); completion_mask, sampling_per_token_logps (B, L-1): column
    t is about predicting token t+1; advantages, temperatures (B,). Masks come from lengths: a padding or end
    token inside a response is an ordinary token.

    >>> one = Rollout([5, 6, 7], [8, 2], [-0.1, -0.2], True)
    >>> other = Rollout([5], [9, 9, 9], [0.0] * 3, False)
    >>> batch = collate([one, other])
    >>> batch["input_ids"].tolist()              # prompt 5 6 7, response 8 2; 5, 9 9 9, padding
    [[5, 6, 7, 8, 2], [5, 9, 9, 9, 0]]
    >>> batch["completion_mask"].int().tolist()  # 7 -> 8 and 8 -> 2;          5 -> 9, 9 -> 9 and 9 -> 9
    [[0, 0, 1, 1], [1, 1, 1, 0]]
    """
    sizes = [len(r.prompt_ids) + len(r.completion_ids) for r in rollouts]
    width = max(sizes)
    start = torch.tensor([0 if padding_side == "right" else width - size for size in sizes])[:, None]
    prompt = start + torch.tensor([len(r.prompt_ids) for r in rollouts])[:, None]
    end = start + torch.tensor(sizes)[:, None]
    at = torch.arange(width)[None]  # (1, L)
    input_ids = torch.zeros(len(rollouts), width, dtype=torch.long)
    real = (at >= start) & (at < end)
    input_ids[real] = torch.tensor([token for r in rollouts for token in r.prompt_ids + r.completion_ids])
    completion_mask = ((at >= prompt) & (at < end))[:, 1:]  # the first token counts
    sampling_logps = torch.zeros(completion_mask.shape)
    sampling_logps[completion_mask] = torch.tensor([logp for r in rollouts for logp in r.logps])
    batch = {
        "input_ids": input_ids,
        "attention_mask": real.long(),
        "position_ids": (at - start).clamp(min=0),
        "completion_mask": completion_mask,
        "sampling_per_token_logps": sampling_logps,
        "advantages": torch.tensor([r.advantage for r in rollouts]),
        "temperatures": torch.tensor([r.temperature for r in rollouts]),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def completion_logps(model, batch, temperatures):
    """Log-probabilities and entropies of a collated batch's responses -> two (B, L-1), 0 outside the mask.

    temperatures (B,): each row's; the logits are divided by it.
    """
    if distributed.WORLD_SIZE > 1:
        return model.score(batch, temperatures)
    return _score(model, batch, temperatures)


def _score(model, batch, temperatures):
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    if batch["attention_mask"][:, 0].all():  # padding on the right: no token looks at it, and without a mask
        inputs["attention_mask"] = None  # attention has the kernel that never makes an (L, L) matrix
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state  # (B, L, D)
    mask, head = batch["completion_mask"], model.get_output_embeddings().weight
    heat = temperatures[:, None].expand(mask.shape)[mask]
    targets = batch["input_ids"][:, 1:][mask]
    scored = token_logps(hidden[:, :-1][mask], head, targets, heat, with_entropy=True)  # two (N,)
    zeros = [torch.zeros(mask.shape, dtype=x.dtype, device=x.device) for x in scored]
    return tuple(zero.masked_scatter(mask, x) for zero, x in zip(zeros, scored))


def reference_logps(reference, batch, temperatures=None):
    """Log-probabilities under the model that the KL term holds on to, without gradient; None without one.

    temperatures: as in completion_logps (None: those of the sampling).
    """
    if reference is None:
        return None
    temperatures = batch["temperatures"] if temperatures is None else temperatures
    with torch.no_grad():
        return completion_logps(reference, batch, temperatures)[0]


def importance_weights(batch, cap):
    """min(p trainer / p sampler, cap) of every token (B, L-1), without gradient; None if cap is 0.

    Corrects for a sampler whose probabilities are not quite the trainer's. batch: with old_per_token_logps.
    """
    if not cap:
        return None
    return (batch["old_per_token_logps"] - batch["sampling_per_token_logps"]).exp().clamp(max=cap)


def sampling_gap(batches, step, limit):
    """How far the trainer's log-probabilities are from the sampler's, over scored tokens -> dict of metrics.

    batches: collated, with old_per_token_logps; without any, {}. The importance sampling ratio is exp(trainer
    - sampler). Raises InputError if the mean absolute difference exceeds limit (nats) or is not a number.
    """
    differences = [b["old_per_token_logps"] - b["sampling_per_token_logps"] for b in batches]
    parts = [difference[b["completion_mask"]] for difference, b in zip(differences, batches)]
    difference = torch.cat(parts).double() if parts else torch.zeros(0, dtype=torch.float64)
    size, ratio = difference.abs(), difference.exp()
    sums = {"tokens": len(difference), "gap": size.sum().item(), "ratio": ratio.sum().item()}
    sums = distributed.sum_over_ranks(sums)
    most = (size.max().item(), ratio.max().item()) if len(difference) else (0.0, 0.0)
    largest = [max(values) for values in zip(*distributed.all_gather(most), strict=True)]
    if not sums["tokens"]:
        return {}
    gap = sums["gap"] / sums["tokens"]
    if not gap <= limit:  # written so that NaN fails as well
        raise InputError(
            f"step {step}: sampler and trainer differ by {gap:.2g} nats on the log-probability of the mean "
            f"token; --max-logp-gap is {limit:g}. Likely causes: the sampler did not get the last weights "
            "(sync); its cache still holds the old ones' (prefix cache); a tied output head that was not "
            "sent; another temperature in scoring than in sampling. Stopped before the update")
    return {
        "sampling/sampling_logp_difference/mean": gap,
        "sampling/sampling_logp_difference/max": largest[0],
        "sampling/importance_sampling_ratio/mean": sums["ratio"] / sums["tokens"],
        "sampling/importance_sampling_ratio/max": largest[1],
    }


# ---- advantages and loss -----------------------------------------------------------------------------------


def group_advantages(rewards, scale_by_std=True, eps=1e-4):
    """Rewards (questions, G) -> advantages (questions, G): minus the group's mean, over its deviation.

    DeepSeekMath (arXiv 2402.03300) section 4.1.2; scale_by_std=False is Dr. GRPO's (arXiv 2503.20783). The
    standard deviation has the divisor G-1. A zero-variance group, whose rewards are equal, gets exactly 0.
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    if scale_by_std and rewards.shape[1] > 1:
        centred = centred / (rewards.std(1, keepdim=True) + eps)
    zero_variance = (rewards == rewards[:, :1]).all(1, keepdim=True)
    return centred.masked_fill(zero_variance, 0.0)  # rounding in the mean must not look like a signal


def grpo_loss(per_token_logps, old_per_token_logps, advantages, completion_mask, *,
              clip_low=0.2, clip_high=0.2, importance_weights=None, **terms):
    """The clipped policy-gradient loss of GRPO -> (loss, statistics).

        ratio = exp(per_token_logps - old_per_token_logps)
        loss  = - mean over tokens of  min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)

    Log-probs and mask (B, L-1); advantages (B,) or (B, L-1). importance_weights (B, L-1), without gradient,
    multiply each token's term. terms: what the mean runs over, KL and entropy: see batch_loss. statistics:
    sums over tokens.
    """
    advantages = advantages if advantages.dim() == 2 else advantages[:, None]
    ratio = (per_token_logps - old_per_token_logps).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    per_token_loss = -torch.min(ratio * advantages, clipped * advantages)
    if importance_weights is not None:
        per_token_loss = per_token_loss * importance_weights
    loss, statistics = batch_loss(per_token_loss, per_token_logps, completion_mask, **terms)
    held_low = (ratio < 1 - clip_low) & (advantages < 0) & completion_mask.bool()
    held_high = (ratio > 1 + clip_high) & (advantages > 0) & completion_mask.bool()
    return loss, statistics | {
        "clip_ratio/low_mean": float(held_low.sum()), "clip_ratio/high_mean": float(held_high.sum())}


LOSS_TYPES = ("token-mean", "sequence-mean", "sequence-sum")


def batch_loss(per_token_loss, per_token_logps, completion_mask, *, loss_type="token-mean", num_tokens=None,
               num_sequences=None, beta=0.0, ref_per_token_logps=None, entropy_coef=0.0, entropy=None):
    """Mean over the batch of  per_token_loss + beta * KL - entropy_coef * entropy  -> (loss, statistics).

    loss_type "token-mean": every token weighs the same (DAPO, arXiv 2503.14476, equation 8); "sequence-mean":
    every sequence does (DeepSeekMath, equation 3); "sequence-sum": sum over a sequence's tokens, mean over
    sequences (REINFORCE). num_tokens and num_sequences are those of the whole batch, of which this may be one
    part; the losses of the parts then add up to the whole. KL is the estimator exp(d) - d - 1 with d = ref -
    policy (DeepSeekMath, equation 4). All tensors (B, L-1). Raises ValueError for another loss_type.
    """
    mask = completion_mask.to(per_token_logps.dtype)
    statistics = {}
    if beta:
        difference = ref_per_token_logps - per_token_logps
        kl = (difference.exp() - difference - 1) * mask
        per_token_loss = per_token_loss + beta * kl
        statistics["kl"] = kl.sum().item()
    if entropy_coef:
        per_token_loss = per_token_loss - entropy_coef * entropy
    if loss_type == "token-mean":
        loss = (per_token_loss * mask).sum() / (num_tokens or mask.sum())
    elif loss_type == "sequence-mean":
        per_sequence = (per_token_loss * mask).sum(1) / mask.sum(1).clamp(min=1)
        loss = per_sequence.sum() / (num_sequences or len(mask))
    elif loss_type == "sequence-sum":
        loss = (per_token_loss * mask).sum() / (num_sequences or len(mask))
    else:
        raise ValueError(f"loss_type {loss_type!r}: must be token-mean, sequence-mean or sequence-sum")
    return loss, statistics


# ---- evaluation --------------------------------------------------------------------------------------------


def pass_at_k(n, c, k):
    """Unbiased estimate of the chance that at least one of k samples is right, from c right ones among n.

    arXiv 2107.03374, equation 1. 0 <= c <= n and 1 <= k <= n; raises ValueError otherwise.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass_at_k needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def evaluate(sampler, tokenizer, eval_sets, *, n, temperature, max_tokens, seed, reward=verify):
    """Scores of each set and of each `level` in it -> dict of metrics.

    avg@n is the mean reward of n samples a question, with its standard error over questions; pass@k, k = 2,
    4, ... n. eval_sets: {name: problems}. Prompts and rewards as in training: truncated responses score 0.
    """
    metrics = {}
    for name, problems in eval_sets.items():
        contexts = [p["prompt_ids"] for p in problems]
        golds = [p["answer"] for p in problems for _ in range(n)]
        keep = functools.partial(outcomes, golds=golds, tokenizer=tokenizer, reward=reward)
        drawn = sampler.generate(contexts, n, temperature, max_tokens, derive_seed(seed, name), keep)
        groups = [drawn[i : i + n] for i in range(0, len(drawn), n)]
        scores = [sum(value for value, _, _ in group) / n for group in groups]
        right = [sum(value == 1 for value, _, _ in group) for group in groups]
        parts = {name: range(len(problems))}
        for level in sorted({p["level"] for p in problems if "level" in p}):
            parts[f"{name}/level {level}"] = [i for i, p in enumerate(problems) if p.get("level") == level]
        for part, members in parts.items():
            rates = torch.tensor([scores[i] for i in members], dtype=torch.float64)
            metrics[f"eval/{part}/avg@{n}"] = rates.mean().item()
            error = rates.std(correction=0) / max(1, len(rates) - 1) ** 0.5
            metrics[f"eval/{part}/avg@{n}_stderr"] = error.item()
            for k in (2**e for e in range(1, n.bit_length())):
                chances = [pass_at_k(n, right[i], k) for i in members]
                metrics[f"eval/{part}/pass@{k}"] = sum(chances) / len(members)
        metrics[f"eval/{name}/mean_length"] = sum(length for _, length, _ in drawn) / len(drawn)
        metrics[f"eval/{name}/clipped_ratio"] = sum(not finished for _, _, finished in drawn) / len(drawn)
    return metrics


def outcomes(rollouts, places, *, golds, tokenizer, reward):
    """All that evaluation keeps of responses -> (reward, length, finished) of each. places: in golds."""
    values = own_rewards(rollouts, [golds[place] for place in places], tokenizer, reward, Counter())
    return [(value, len(r.completion_ids), r.finished) for value, r in zip(values, rollouts, strict=True)]
