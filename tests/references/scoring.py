"""Scores as their papers define them, one image and one filter at a time."""

import torch
from torch import nn
from torch.nn import functional as F


def ocap_union_order(maps, slope):
    """Order filters by the largest share q at which OCAP's union still keeps them.

    maps: (N, C, H, W). For every image the channels are ranked by the norm of the leaky response;
    a channel is in the image's top k if fewer than k channels are louder. The union over images
    at width k keeps a channel if any image does. A channel's score is minus the smallest such k.
    """
    images, channels = maps.shape[:2]
    smallest = []
    for channel in range(channels):
        ranks = []
        for image in range(images):
            norms = [
                float(
                    (torch.where(maps[image, c] > 0, maps[image, c], slope * maps[image, c]) ** 2)
                    .sum()
                    .sqrt()
                )
                for c in range(channels)
            ]
            louder = sum(norm > norms[channel] for norm in norms)
            ranks.append(louder + 1)
        smallest.append(-min(ranks))
    return smallest


def taylor_by_zeroing(network, layer, images, labels, step=1e-3):
    """Approximate the first-order loss change of each filter by scaling its response a little.

    d loss / d scale at scale 1 is sum(response * gradient); its size per image, averaged.
    """
    width = network.get_submodule(layer).out_channels
    scores = []
    for channel in range(width):
        changes = []
        for image, label in zip(images, labels, strict=True):
            losses = [
                _scaled_loss(network, layer, channel, scale, image, label)
                for scale in (1 + step, 1 - step)
            ]
            changes.append(abs(losses[0] - losses[1]) / (2 * step))
        scores.append(sum(changes) / len(changes))
    return scores


def _scaled_loss(network, layer, channel, scale, image, label):
    def hook(module: nn.Module, inputs, output):
        scaled = output.clone()
        scaled[:, channel] *= scale
        return scaled

    handle = network.get_submodule(layer).register_forward_hook(hook)
    try:
        with torch.no_grad():
            return float(F.cross_entropy(network(image[None]), label[None]))
    finally:
        handle.remove()


def filter_norms(weight, p):
    """The p-norm of each filter, value by value."""
    return [sum(abs(float(v)) ** p for v in row.flatten()) ** (1 / p) for row in weight.detach()]
