"""Draws responses: with the training model itself (TransformersSampler), or with vLLM inside the training process (VLLMSampler).

Both take and return token ids, never text, and report the log-probability of every token under the distribution it was drawn from.

    sampler = make_sampler("auto", model, tokenizer)
    sampler.sync()                                                    # the weights just trained, before anything is drawn
    rollouts = sampler.generate(contexts, n=8, temperature=1.0, max_tokens=3000, seed=0)
    sampler.sleep()                                                   # give the GPU's memory to the update
"""

import atexit
import contextlib
import copy
import dataclasses
import importlib.util
import math
import os
import socket
import tempfile

import torch
import torch._dynamo.config
import torch.distributed as dist
from packaging.version import Version
from torch.distributed.tensor import DTensor
from transformers.cache_utils import Cache, DynamicLayer

import ranks
from common import InputError, derive_seed

GAP_LIMITS = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # nats, by the sampler's precision: how far from the trainer the mean token may be
TESTED_VLLM = ("0.32.0", "0.33")  # from, and below which: vLLM changes what is used here between minor versions


@dataclasses.dataclass
class Rollout:
    """One sampled response, with all that training on it needs."""

    prompt_ids: list  # what the model was given: the prompt and whatever opening was put after it
    completion_ids: list  # what it wrote, the end-of-sequence token included
    logps: list  # log-probability of each of those tokens under the distribution it was drawn from
    finished: bool  # ended by itself, not by the length limit
    temperature: float = 1.0
    reward: float = 0.0
    advantage: float = 0.0


def stop_ids(model, tokenizer):
    """Ids that end a response: the tokenizer's and those of the model's generation settings."""
    listed = model.generation_config.eos_token_id
    return {i for i in [tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])] if i is not None}


def compute_dtype(model):
    """The precision a model computes in; that of its weights, unless they are float32 shards."""
    return getattr(model, "compute_dtype", model.dtype)


class TransformersSampler:
    """Samples with the training model itself, wherever there is no inference engine. Always up to date: sync() has nothing to do.

    rows: how many sequences are sampled side by side (memory only).
    """

    def __init__(self, model, tokenizer, rows):
        self.model, self.rows, self.dtype = model, rows, compute_dtype(model)
        self.stop = torch.tensor(sorted(stop_ids(model, tokenizer)), device=model.device)

    def sync(self):
        """Nothing to do in one process: the model that samples is the one that is trained."""
        ranks.gather_weights(self.model)

    def sleep(self):
        """Nothing to do in one process: there is no second copy that takes up memory."""
        ranks.let_go(self.model)

    def close(self):
        """Nothing to do."""

    @torch.inference_mode()
    def generate(self, contexts, n, temperature, max_tokens, seed):
        """n samples from each context -> list of Rollout, sample j of context i at place i * n + j.

        contexts: lists of token ids (a prompt, or a prompt and the opening of the answer). temperature: one number, or one for each
        context; 0 is greedy. Nothing but the temperature shapes the distribution: no top-k, no top-p.
        """
        temperatures = temperature if isinstance(temperature, list) else [temperature] * len(contexts)
        generator = torch.Generator(self.model.device).manual_seed(seed)
        rollouts = [None] * (len(contexts) * n)
        by_length = sorted(range(len(rollouts)), key=lambda row: len(contexts[row // n]))  # rows of like length together: little padding
        for start in range(0, len(by_length), self.rows):
            rows = by_length[start : start + self.rows]
            batch = self._batch([contexts[row // n] for row in rows], [temperatures[row // n] for row in rows], max_tokens, generator)
            for row, rollout in zip(rows, batch, strict=True):
                rollouts[row] = rollout
        return rollouts

    def _batch(self, contexts, temperatures, max_tokens, generator):
        device, width = self.model.device, max(map(len, contexts))
        distinct = [i for i in range(len(contexts)) if i == 0 or contexts[i] is not contexts[i - 1]]  # a group reads its prompt once
        copies = torch.tensor([b - a for a, b in zip(distinct, distinct[1:] + [len(contexts)], strict=True)], device=device)
        ids = torch.tensor([[0] * (width - len(contexts[i])) + contexts[i] for i in distinct], device=device)
        mask = torch.tensor([[0] * (width - len(contexts[i])) + [1] * len(contexts[i]) for i in distinct], device=device)
        cache = Cache(layer_class_to_replicate=_RoomyLayer)
        logits = self._next(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
        spread = torch.arange(len(distinct), device=device).repeat_interleave(copies)
        cache.batch_select_indices(spread)
        logits, mask = logits[spread], mask[spread]

        heat = torch.tensor(temperatures, device=device, dtype=torch.float32)[:, None]
        tokens = torch.zeros(len(contexts), max_tokens, dtype=torch.long, device=device)
        logps = torch.zeros(len(contexts), max_tokens, device=device)
        lengths = torch.full((len(contexts),), max_tokens, device=device)
        finished = torch.zeros(len(contexts), dtype=torch.bool, device=device)
        alive = torch.arange(len(contexts), device=device)  # which row each line of the shrinking batch is
        for t in range(max_tokens):
            scaled = (logits / torch.where(heat > 0, heat, 1.0)).log_softmax(-1)
            token = torch.multinomial(scaled.exp(), 1, generator=generator)
            token = torch.where(heat > 0, token, scaled.argmax(-1, keepdim=True))
            tokens[alive, t], logps[alive, t] = token[:, 0], scaled.gather(1, token)[:, 0]
            ended = torch.isin(token[:, 0], self.stop) & ~finished[alive]
            lengths[alive[ended]], finished[alive[ended]] = t + 1, True
            going = ~finished[alive]
            if t + 1 == max_tokens or not going.any():
                break
            if going.sum() < 0.8 * len(alive):  # finished rows are let go, but not one by one: each time the cache is copied
                keep = going.nonzero()[:, 0]
                cache.batch_select_indices(keep)
                alive, heat, mask, token = alive[keep], heat[keep], mask[keep], token[keep]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            logits = self._next(token, mask, mask.sum(1, keepdim=True) - 1, cache)
        rows = zip(contexts, lengths.tolist(), tokens.tolist(), logps.tolist(), finished.tolist(), temperatures, strict=True)
        return [Rollout(context, ids[:size], values[:size], ended, heat) for context, size, ids, values, ended, heat in rows]

    def _next(self, ids, mask, positions, cache):
        """Logits (rows, V) of the next token, in float32."""
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        return self.model(**inputs, use_cache=True, logits_to_keep=1).logits[:, -1].float()


class _RoomyLayer(DynamicLayer):
    """Keys and values with room for the tokens to come: transformers' own layer copies all of them for every new token, two thirds of the time."""

    ROOM = 32
    buffers = None

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length()
        end = length + key_states.shape[-2]
        if self.buffers is None or end > self.buffers[0].shape[-2]:
            self.buffers = [new.new_empty(*new.shape[:-2], end + self.ROOM, new.shape[-1]) for new in (key_states, value_states)]
            for buffer, old in zip(self.buffers, (self.keys, self.values)):
                if length:
                    buffer[..., :length, :] = old
        for buffer, new in zip(self.buffers, (key_states, value_states)):
            buffer[..., length:end, :] = new
        self.keys, self.values = (buffer[..., :end, :] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices):
        super().batch_select_indices(indices)
        self.buffers = None  # the rows that stay are copies of their own


@contextlib.contextmanager
def _engine_environment():
    """What vLLM reads from the environment while it is imported and started. The rank variables are torchrun's, or else are there for this only."""
    with socket.socket() as probe:  # a free port
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = {name: value for name, value in ranks.items() if name not in os.environ}
    wanted = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "CRITICAL", "VLLM_NO_USAGE_STATS": "1"}  # in this process, and quiet
    if not torch.cuda.is_available():
        wanted |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # GiB; leave the threads where they are
        torch._dynamo.config.disable = True  # vLLM would compile one small function for 20 s
    for name, value in (wanted | ranks).items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name in ranks:  # a program started from here must not take itself for a rank
            del os.environ[name]


def _import_vllm():
    """The vllm package, in a version that was tested. Raises InputError."""
    try:
        import vllm  # only here: it is slow to import, and not everybody has it
    except ImportError as problem:
        raise InputError(f"--sampler vllm: cannot import vLLM ({problem}); pip install -r requirements.txt or take --sampler transformers") from None
    oldest, first_untested = map(Version, TESTED_VLLM)
    if not oldest <= Version(vllm.__version__) < first_untested and not os.environ.get("ALLOW_UNTESTED_VLLM"):
        raise InputError(f"vLLM {vllm.__version__} is installed, but this code was tested with {TESTED_VLLM[0]} and later, below {TESTED_VLLM[1]}: "
                         "install one of these, or set ALLOW_UNTESTED_VLLM=1 and watch sampling/sampling_logp_difference")
    return vllm


class VLLMSampler:
    """Samples with a vLLM engine in this process, which holds a copy of the weights: sync() after every update, before generate().

    The same lines serve one process and torchrun with one engine a rank (or one over tensor_parallel ranks, which must then all ask for
    the same samples). memory: share of the GPU's memory the engine may hold while it samples. Building one reseeds the global generators of
    python and numpy. An exception inside generate() leaves the engine unusable: do not catch it and go on.
    """

    def __init__(self, model, tokenizer, rows, memory=0.4, tensor_parallel=1):
        self.model, self.stop, self.asleep = model, sorted(stop_ids(model, tokenizer)), False
        self.cuda = torch.cuda.is_available()
        self.dtype = compute_dtype(model)
        config = copy.deepcopy(model.config)
        config.architectures = [type(model).__name__.removeprefix("FSDP")]  # sharding renames the class
        self.tied, config.tie_word_embeddings = config.tie_word_embeddings, False  # a tied head goes stale unnoticed: always send it
        self.room = config.max_position_embeddings
        options = {
            "distributed_executor_backend": "external_launcher", "tensor_parallel_size": tensor_parallel, "dtype": str(self.dtype)[6:],
            "load_format": "dummy", "skip_tokenizer_init": True, "generation_config": "vllm", "logprobs_mode": "processed_logprobs",
            "max_model_len": self.room, "max_num_seqs": rows, "max_num_batched_tokens": max(8192, self.room),
            "enable_sleep_mode": self.cuda, "gpu_memory_utilization": memory, "seed": int(os.environ.get("RANK", "0")) // tensor_parallel,
        }
        if not self.cuda:  # the CPU build fails when it has to cut a seeded request in two, so there must be room for all
            options |= {"enforce_eager": True, "max_num_batched_tokens": rows * self.room}
        with tempfile.TemporaryDirectory() as folder, _engine_environment(), torch.random.fork_rng():
            config.save_pretrained(folder)  # the engine reads its shape from disk; the weights come with the first sync
            self.vllm = _import_vllm()
            self.llm = self.vllm.LLM(model=folder, **options)
        atexit.register(self.close)

    def _weights(self):
        """(name, tensor) of every weight. All ranks must run through it together: full_tensor() is a collective."""
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
        """Give the GPU's memory back until the next sync(). Level 2: weights and cache are dropped, not moved to the host."""
        if self.cuda and not self.asleep:
            self.llm.sleep(level=2)
            torch.cuda.empty_cache()
            self.asleep = True

    def generate(self, contexts, n, temperature, max_tokens, seed):
        """n samples from each context -> list of Rollout, sample j of context i at place i * n + j. As TransformersSampler.generate.

        Raises InputError for a context that leaves no room for max_tokens, RuntimeError if the engine sleeps or returns NaN.
        """
        if self.asleep:  # it would wait for ever
            raise RuntimeError("the engine sleeps: call sync() before generate()")
        longest = max(map(len, contexts))
        if longest + max_tokens > self.room:  # vLLM would cut the response short without a word
            raise InputError(f"a context of {longest} tokens leaves no room for {max_tokens} more in the model's {self.room}; lower --max-tokens")
        temperatures = temperature if isinstance(temperature, list) else [temperature] * len(contexts)
        rows = [i for i in range(len(contexts)) for _ in range(n)]  # a request each, with its own seed; the prefix cache shares their prompt
        shared = {"max_tokens": max_tokens, "logprobs": 0, "top_p": 1.0, "top_k": 0, "stop_token_ids": self.stop, "detokenize": False}
        params = [self.vllm.SamplingParams(temperature=temperatures[i], seed=derive_seed(seed, row), **shared) for row, i in enumerate(rows)]
        requests = [self.vllm.TokensPrompt(prompt_token_ids=contexts[i]) for i in rows]
        with torch.random.fork_rng():  # its requests have seeds of their own, but it draws from torch's generator all the same
            answers = self.llm.generate(requests, params, use_tqdm=False)
        rollouts = []
        for i, answer in zip(rows, answers):
            output = answer.outputs[0]
            ids = list(output.token_ids)
            logps = [at[token].logprob for at, token in zip(output.logprobs, ids)]
            rollouts.append(Rollout(contexts[i], ids, logps, output.finish_reason == "stop", temperatures[i]))
        if not all(math.isfinite(sum(r.logps)) for r in rollouts):
            raise RuntimeError("vLLM returned log-probabilities that are not finite numbers")
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
    return name if name != "auto" else "vllm" if torch.cuda.is_available() and importlib.util.find_spec("vllm") else "transformers"


def make_sampler(name, model, tokenizer, rows=256, **engine):
    """The sampler called `name`: "vllm", "transformers", or "auto", which is vLLM where there is a GPU and the package, else transformers.

    rows: sequences sampled side by side (memory only). engine: memory and tensor_parallel, for vLLM. Raises InputError.
    """
    vllm = which_sampler(name) == "vllm"
    sampler = VLLMSampler(model, tokenizer, rows, **engine) if vllm else TransformersSampler(model, tokenizer, rows)
    return sampler if ranks.WORLD == 1 else ranks.SplitOverRanks(sampler, engine.get("tensor_parallel", 1) if vllm else 1)
