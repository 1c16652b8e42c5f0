"""A reward for models with random weights: a coin that depends on the text, so that groups are mixed."""

import zlib


def coin(responses, golds, counts=None):
    return [float(zlib.crc32(text.encode()) % 2) for text in responses]
