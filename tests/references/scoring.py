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


def ocap_union(maps, slope, ratio):
    """The paper, image by image: drop int(C * ratio) filters, unite what is kept."""
    kept = set()
    for image in maps:
        norms = [float(F.leaky_relu(channel, slope).norm()) for channel in image]
        order = sorted(range(len(norms)), key=norms.__getitem__)
        kept |= set(order[round(len(norms) * ratio) :])
    return kept


def absolute_gradients(network, layer, images):
    """Mean over images of the summed absolute gradient of the loss by each channel's response."""
    sums = None
    for image, label in images.batches(1):
        found = responses(network, layer, image[0], label[0])[1].flatten(1).abs().sum(dim=1)
        sums = found if sums is None else sums + found
    return (sums / len(images)).tolist()


def loss_without(network, layer, gone, images):
    """Mean loss with some outputs of a linear layer at zero, and with all there."""

    def hook(module, inputs, output):
        output = output.clone()
        output[:, list(gone)] = 0.0
        return output

    batch, labels = next(images.batches(len(images)))
    with torch.no_grad():
        whole = float(F.cross_entropy(network(batch), labels))
        handle = network.get_submodule(layer).register_forward_hook(hook)
        try:
            return float(F.cross_entropy(network(batch), labels)), whole
        finally:
            handle.remove()


def shapley_by_enumeration(value, players):
    """Shapley's value: the mean marginal contribution over all orders of joining."""
    import itertools

    totals, orders = [0.0] * players, list(itertools.permutations(range(players)))
    for order in orders:
        for position, player in enumerate(order):
            totals[player] += value(order[: position + 1]) - value(order[:position])
    return [total / len(orders) for total in totals]


def eliminate_by_least_squares(inputs, weight, matter):
    """Remove the input whose loss the best refit makes up for best, one by one, from scratch."""
    centred = inputs - inputs.mean(0)
    wanted = centred @ weight
    left, order, spent = list(range(inputs.shape[1])), [], []
    while left:
        errors = []
        for candidate in left:
            rest = [channel for channel in left if channel != candidate]
            fitted = torch.zeros_like(wanted)
            if rest:
                solution = torch.linalg.lstsq(centred[:, rest], wanted).solution
                fitted = centred[:, rest] @ solution
            gap = wanted - fitted
            errors.append(float(((gap @ matter) * gap).sum()) / len(inputs))
        best = min(range(len(left)), key=errors.__getitem__)
        order.append(left.pop(best))
        spent.append(errors[best])
    return order, spent


def error_of_the_best_refit(inputs, left, weight, matter):
    """Mean squared error, in the metric `matter`, of the outputs refitted from some inputs."""
    centred = inputs - inputs.mean(0)
    wanted = centred @ weight
    solution = torch.linalg.lstsq(centred[:, left], wanted).solution
    gap = wanted - centred[:, left] @ solution
    return float(((gap @ matter) * gap).sum()) / len(inputs)


def responses(network, layer, image, label):
    """One image's responses of a layer, (C, H, W), and the gradient of its loss by them."""
    caught = []

    def hook(module, inputs, output):
        output = output.clone()
        output.retain_grad()
        caught.append(output)
        return output.clone()

    handle = network.get_submodule(layer).register_forward_hook(hook)
    try:
        F.cross_entropy(network(image[None]), label[None]).backward()
    finally:
        handle.remove()
        network.zero_grad()
    return caught[0].detach()[0], caught[0].grad[0]


def share_of_positive(network, layer, images):
    """One minus the average percentage of zeros behind the ReLU, value by value."""
    batch, labels = next(images.batches(len(images)))
    positive, there = None, 0
    for image, label in zip(batch, labels, strict=True):
        maps, _ = responses(network, layer, image, label)
        found = [sum(value > 0 for value in channel.flatten().tolist()) for channel in maps]
        positive = found if positive is None else list(map(sum, zip(positive, found, strict=True)))
        there += maps[0].numel()
    return [count / there for count in positive]


def classes_that_a_position_matters_to(network, layer, images):
    """Sum over classes of how often it matters, at each filter's best position."""
    batch, labels = next(images.batches(len(images)))
    often, shown = {}, {}
    for image, label in zip(batch, labels, strict=True):
        maps, gradient = responses(network, layer, image, label)
        name = int(label)
        often[name] = often.get(name, 0) + ((maps * gradient) != 0).double()
        shown[name] = shown.get(name, 0) + 1
    summed = sum(count / shown[name] for name, count in often.items())
    return [max(channel.flatten().tolist()) for channel in summed]


def relevance_of_two_convolutions(network, image, target):
    """Relevance at the outputs of two convolutions in front of a linear head, from dense matrices.

    Without biases, a ReLU behind each. alpha1beta0 between the convolutions, the plain share of
    what each input adds in the head (the rule epsilon, without its epsilon).
    """
    first, second, head = network.first, network.second, network.head
    with torch.no_grad():
        low = F.relu(first(image[None]))[0].double()
        high = F.relu(second(low.float()[None]))[0].double()
        units = torch.eye(low.numel()).reshape(-1, *low.shape)
        adds = second(units).flatten(1).double() * low.flatten()[:, None]
    given = high.flatten() * head.weight[target].detach().double()
    at_high = given / given.sum()
    at_low = torch.zeros(low.numel(), dtype=torch.float64)
    for output, relevance in enumerate(at_high.tolist()):
        helping = adds[:, output].clamp(min=0)
        if relevance:
            at_low += helping / helping.sum() * relevance
    return at_low.reshape(low.shape), at_high.reshape(high.shape)
