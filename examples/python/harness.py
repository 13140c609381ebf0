"""probeprune as a model of EleutherAI's lm-evaluation-harness.

    import lm_eval, harness
    model = harness.ProbePrune("bundled:tiny-llama", method="pp", prune_ratio=0.4)
    lm_eval.simple_evaluate(model=model, tasks=[...])

Without lm_eval the class works as well: its methods accept any objects with `args` like those of lm_eval's requests.
"""

import numpy as np

import probeprune as pp

try:
    from lm_eval.api.model import LM
except ImportError:
    LM = object


class ProbePrune(LM):
    """Log-likelihoods and text of a model, dense or pruned.

    `settings` are fields of probeprune_settings. Kept sets are chosen per batch, so results depend on `batch_size`. Requests
    run in the given order, because history depends on it.
    """

    def __init__(
        self,
        model,
        method="none",
        prune_ratio=0.0,
        history=None,
        max_length=None,
        batch_size=1,
        max_new_tokens=64,
        device="cpu",
        threads=0,
        **settings,
    ):
        super().__init__()
        kind, _, number = device.partition(":")
        place = {"cpu": pp.CPU, "cuda": pp.CUDA}[kind]
        self._history = history and pp.History(model, history)
        # Channel groups need sorted channels.
        order = self._history if settings.get("channel_group", 1) > 1 else None
        self.model = pp.Model(model, order, device_type=place, device_id=int(number or 0), threads=threads)
        self.tokenizer = pp.Tokenizer(model)
        self.max_length = max_length or min(self.model.info.max_position_embeddings, 1024)
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self._eos = self.model.eos_tokens()
        self._settings = pp.Settings(method=pp.METHODS.index(method), prune_ratio=prune_ratio, **settings)
        if method == "fold" and prune_ratio > 0:
            # Once for all sessions.
            self.model = self.model.fold(self._settings, self._history)
        self._scoring = self._session(batch_size, capacity=0)
        self._generating = None

    def _session(self, samples, capacity):
        limits = pp.Limits(samples=samples, tokens=self.max_length, capacity=capacity)
        return pp.Session(self.model, self._settings, limits, self._history)

    @property
    def prefix_token(self):
        """The context of a text without one."""
        special = self.tokenizer.encode("")
        return int(special[0] if special.size else self._eos[0] if self._eos.size else 0)

    def _encode_pair(self, context, continuation):
        """Tokens of both, cut where the whole text's tokens cut them; spaces at the seam belong to the continuation."""
        spaces = len(context) - len(context.rstrip())
        if spaces:
            continuation = context[-spaces:] + continuation
            context = context[:-spaces]
        if not context:
            return np.array([self.prefix_token]), self.tokenizer.encode(continuation, special=False)
        seam = self.tokenizer.encode(context).size
        whole = self.tokenizer.encode(context + continuation)
        return whole[:seam], whole[seam:]

    def score_tokens(self, pairs, greedy=True):
        """(log-likelihood, whether greedy decoding gives it) of each continuation after its context, both as tokens."""
        results = []
        for start in range(0, len(pairs), self.batch_size):
            batch = []
            for context, continuation in pairs[start : start + self.batch_size]:
                if len(context) == 0 or len(continuation) == 0:
                    raise ValueError("a context and a continuation have at least one token each")
                if len(continuation) >= self.max_length:
                    raise ValueError(f"a continuation of {len(continuation)} tokens; max_length is {self.max_length}")
                tokens = np.concatenate([context, continuation])[-self.max_length :]
                batch.append((tokens, len(continuation)))
            length = max(len(tokens) for tokens, _ in batch)
            padded, mask = np.zeros((2, len(batch), length), np.uint32)
            for row, (tokens, _) in enumerate(batch):
                padded[row, length - len(tokens) :] = tokens
                mask[row, length - len(tokens) :] = 1
            losses = self._scoring.losses(padded, None if mask.all() else mask).astype(np.float64)
            first = length - 1 - max(count for _, count in batch)
            slots = np.arange(first, length - 1)
            best = self._scoring.logits_at(len(batch), slots).argmax(-1) if greedy else None
            for row, (tokens, count) in enumerate(batch):
                scored = slice(length - 1 - count, length - 1)
                same = greedy and bool((best[row, -count:] == tokens[-count:]).all())
                results.append((float(-losses[row, scored].sum()), same))
        return results

    def loglikelihood(self, requests, disable_tqdm=False):
        return self.score_tokens([self._encode_pair(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        results = []
        for request in requests:
            tokens = self.tokenizer.encode(request.args[0], special=False)
            before = np.concatenate([[self.prefix_token], tokens])
            step = self.max_length - 1
            windows = [(before[at : at + 1], tokens[at : at + step]) for at in range(0, len(tokens), step)]
            results.append(sum(score for score, _ in self.score_tokens(windows, greedy=False)))
        return results

    def generate_until(self, requests, disable_tqdm=False):
        if self._generating is None:
            self._generating = self._session(1, capacity=self.max_length)
        results = []
        for request in requests:
            context, options = request.args
            until = options.get("until", [])
            until = [until] if isinstance(until, str) else until
            tokens = self.tokenizer.encode(context)
            count = min(options.get("max_gen_toks", self.max_new_tokens), self.max_length - 1)
            tokens = tokens[-(self.max_length - count) :]
            sampled = options.get("do_sample", options.get("temperature", 0) > 0)
            temperature = options.get("temperature", 1.0) if sampled else 0.0
            text = self._generating.generate([tokens], count, self._eos, temperature)[0]
            text = self.tokenizer.decode(text)
            for stop in filter(None, until):
                text = text.split(stop)[0]
            results.append(text)
        return results
