"""Ways to score all channels from K forward passes, beside the one that ScoreFAM has.

Each is a function of the network, an image, its activation (1, K, h, w), the exact scores (1, K)
and the number of passes, to the scores of all channels. Those that measure channels of the image
look their scores up in the exact ones.
"""

from collections.abc import Callable
from functools import partial

import torch
from speed_subjects import Network, Showing
from torch import Tensor

from reid_explain import ScoreFAM
from reid_explain.explainers.landmarks import channel_range, landmarks, predicted
from reid_explain.fills import unit_range

Grouping = Callable[[Network, Tensor, Tensor, Tensor, int], Tensor]


def kriging(
    network: Network, images: Tensor, activation: Tensor, exact: Tensor, count: int
) -> Tensor:
    """Do as ScoreFAM: landmarks by span and variance, the others predicted by kriging."""
    masks, span = unit_range(activation).flatten(2), channel_range(activation)
    chosen = landmarks(masks, span, count)
    return predicted(masks, chosen, exact.gather(1, chosen)).where(span > 0, 0)


def nearest(
    network: Network, images: Tensor, activation: Tensor, exact: Tensor, count: int
) -> Tensor:
    """Measure the same landmarks; each channel has the score of the nearest."""
    masks, span = unit_range(activation).flatten(2), channel_range(activation)
    chosen = landmarks(masks, span, count)
    near = chosen[0, torch.cdist(masks[0], masks[0, chosen[0]]).argmin(dim=1)]
    return exact[:, near].where(span > 0, 0)


def random_kriging(
    network: Network, images: Tensor, activation: Tensor, exact: Tensor, count: int
) -> Tensor:
    """Measure channels at random; the others are predicted by kriging."""
    masks, span = unit_range(activation).flatten(2), channel_range(activation)
    live = span[0].nonzero()[:, 0]
    generator = torch.Generator().manual_seed(0)
    chosen = live[torch.randperm(len(live), generator=generator)[:count].to(live.device)][None]
    return predicted(masks, chosen, exact.gather(1, chosen)).where(span > 0, 0)


def kmeans(
    network: Network,
    images: Tensor,
    activation: Tensor,
    exact: Tensor,
    count: int,
    weighted: bool = False,
) -> Tensor:
    """Cluster the masks by k-means: one pass for each centre, its score for all members."""
    masks, span = unit_range(activation).flatten(2)[0], channel_range(activation)[0]
    live = span > 0
    weights = span[live] if weighted else torch.ones_like(span[live])
    centres, member = clustered(masks[live], weights, count)
    shown = centres.view(1, len(centres), *activation.shape[2:])
    model = Showing(network.model, shown).eval()
    _, scores = ScoreFAM(model, "shown").attribute(images, return_scores=True)
    result = torch.zeros_like(exact)
    result[0, live] = scores[0, member]
    return result


def clustered(
    points: Tensor, weights: Tensor, count: int, rounds: int = 20
) -> tuple[Tensor, Tensor]:
    """Return centres (count, Z) and the centre of each of the points (n, Z), by k-means.

    It starts from k-means++ with a fixed seed.
    """
    generator = torch.Generator().manual_seed(0)
    chosen = [int(points.square().sum(dim=1).argmax())]
    for _ in range(count - 1):
        distance = torch.cdist(points, points[chosen]).amin(dim=1).square() * weights
        chosen.append(int(torch.multinomial(distance.cpu() + 1e-12, 1, generator=generator)))
    centres = points[chosen]
    for _ in range(rounds):
        member = torch.cdist(points, centres).argmin(dim=1)
        share = torch.nn.functional.one_hot(member, count).to(points) * weights[:, None]
        total = share.sum(dim=0)[:, None]
        centres = torch.where(total > 0, share.T @ points / total.clamp_min(1e-12), centres)
    return centres, torch.cdist(points, centres).argmin(dim=1)


GROUPINGS: dict[str, Grouping] = {
    "k-means centres": kmeans,
    "k-means centres, weighted by span": partial(kmeans, weighted=True),
    "random channels, kriging": random_kriging,
    "landmarks, nearest": nearest,
    "landmarks, kriging": kriging,
}
"""Name in the table -> function; the last is ScoreFAM's."""
