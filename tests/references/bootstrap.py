"""The hierarchical bootstrap, spelled out: draw blocks, then rounds within each, one at a time."""

import random
import statistics


def hierarchical(blocks, *, seed, draws, level=0.95):
    generator = random.Random(seed)
    found = []
    for _ in range(draws):
        medians = [
            statistics.median(generator.choices(block, k=len(block)))
            for block in generator.choices(blocks, k=len(blocks))
        ]
        found.append(statistics.median(medians))
    found.sort()
    center = statistics.median(statistics.median(block) for block in blocks)
    low = found[round((1 - level) / 2 * (draws - 1))]
    high = found[round((1 + level) / 2 * (draws - 1))]
    return center, low, high
