"""A plain rewrite of the published beam search, for comparisons."""

import heapq
import itertools


def search(log_probabilities, *, beams, steps, length_penalty, end):
    """Beam search of one text as transformers 4.36 does it. log_probabilities(texts of one length) -> [texts, V].

    Returns `steps` tokens; those after `end` are `end`.
    """
    live, heap, order = [(0.0, ())], [], itertools.count()

    def add(total, tokens):
        heapq.heappush(heap, (total / len(tokens) ** length_penalty, next(order), tokens))
        if len(heap) > beams:
            heapq.heappop(heap)

    for length in range(1, steps + 1):
        rows = zip(live, log_probabilities([tokens for _, tokens in live]), strict=True)
        pairs = [(total + each, (*tokens, k)) for (total, tokens), row in rows for k, each in enumerate(row)]
        pairs = sorted(pairs, key=lambda pair: -pair[0])[: 2 * beams]
        live = []
        for rank, (total, tokens) in enumerate(pairs):
            if tokens[-1] != end:
                live.append((total, tokens))
            elif rank < beams:
                add(total, tokens)
            if len(live) == beams:
                break
        if len(heap) == beams and heap[0][0] >= pairs[0][0] / length**length_penalty:
            break
    else:
        for total, tokens in live:
            add(total, tokens)
    best = max(heap)[2]
    return [*best, *[end] * (steps - len(best))]
