"""What the interpreter learns from: metric distillation and the attribute priors (AMD, 3.3).

Equations 8 to 10 are misprinted in the paper; the pair of bounds here is what its text derives.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from reid_explain.amd.decomposition import contributions
from reid_explain.checks import at_least_float32
from reid_explain.errors import InputError


class PairLabels(NamedTuple):
    """Which attributes differ and which agree, both (P, M) bool; unknown ones do neither."""

    exclusive: Tensor
    common: Tensor


def pair_labels(first: Tensor, second: Tensor) -> PairLabels:
    """Return a_i XOR a_j (AMD, equation 5) of labels (P, M): 1 or 2, and 0 where unknown.

    Example:
        >>> labels = pair_labels(torch.tensor([[1, 2, 0]]), torch.tensor([[2, 2, 1]]))
        >>> labels.exclusive, labels.common
        (tensor([[ True, False, False]]), tensor([[False,  True, False]]))
    """
    known = (first > 0) & (second > 0)
    return PairLabels(known & (first != second), known & (first == second))


def prior_share(labels: PairLabels, nu: float = 0.5) -> Tensor:
    """Return s = (M_E / M)^ν, (P,), the least share of the exclusive attributes (equation 6).

    M counts the attributes that are known for both images.
    """
    exclusive, common = (part.sum(1).float() for part in labels)
    return (exclusive / (exclusive + common).clamp(min=1)).pow(nu)


def prior_bound(labels: PairLabels, nu: float = 0.5) -> Tensor:
    r"""Return b, (P,): each exclusive r^e is to be above it, each common r^c below (equation 8).

    .. math:: b = e^{-\lambda}\frac{s}{M_E} = e^{\lambda}\frac{1 - s}{M - M_E}
        = \sqrt{\frac{s (1 - s)}{M_E (M - M_E)}}

    With M_E = 0 it is 2/M, with M_E = M it is 1/(√2 M).

    Example:
        >>> labels = pair_labels(torch.tensor([[1, 1, 1, 1]]), torch.tensor([[2, 1, 1, 1]]))
        >>> prior_share(labels), prior_bound(labels)
        (tensor([0.5000]), tensor([0.2887]))
    """
    exclusive, common = (part.sum(1).float() for part in labels)
    known = (exclusive + common).clamp(min=1)
    share = prior_share(labels, nu)
    bound = (share * (1 - share) / (exclusive * common).clamp(min=1)).sqrt()
    bound = torch.where(exclusive == 0, 2 / known, bound)
    return torch.where(common == 0, 1 / (2**0.5 * known), bound)


class AMDLoss:
    r"""The loss of attribute-guided metric distillation (AMD, equation 11).

    .. math:: L = L_d + \alpha L_{p1} + \beta L_{p2}

    L_d is divided by the mean distance of the batch, so that the weights mean the same for
    models whose distances are about 1 (unit-norm embeddings) and about 50.

    Args:
        distillation: weight of L_d.
        alpha: weight of L_p1, 10 in the paper.
        beta: weight of L_p2, 50 in the paper (100 in the released code).
        nu: ν of the prior share, in (0, 1).

    Raises:
        InputError: a negative weight, or ν outside (0, 1).

    Example:
        >>> labels = pair_labels(torch.tensor([[1, 1]]), torch.tensor([[2, 1]]))
        >>> terms = AMDLoss()(torch.tensor([[1.0, 3.0]]), target=torch.tensor([5.0]), labels=labels)
        >>> {name: round(float(term), 3) for name, term in terms.items()}
        {'distillation': 0.2, 'prior_total': 9.142, 'prior_each': 25.0}
    """

    def __init__(
        self, distillation: float = 1.0, alpha: float = 10.0, beta: float = 50.0, nu: float = 0.5
    ) -> None:
        self.distillation, self.alpha, self.beta, self.nu = distillation, alpha, beta, nu
        for name in ("distillation", "alpha", "beta"):
            if not getattr(self, name) >= 0:
                raise InputError(name, getattr(self, name), "a weight of at least 0")
        if not 0 < nu < 1:
            raise InputError("nu", nu, "a number between 0 and 1")

    def __call__(self, distances: Tensor, target: Tensor, labels: PairLabels) -> dict[str, Tensor]:
        """Return the weighted terms by name, means over P pairs; the loss is their sum.

        ``distances`` are d^k, (P, M), and ``target`` d, (P,).
        """
        distances, target = at_least_float32(distances), at_least_float32(target)
        shares = contributions(distances)
        return {
            "distillation": self.distillation * distillation_loss(distances, target),
            "prior_total": self.alpha * prior_total_loss(shares, labels, self.nu),
            "prior_each": self.beta * prior_each_loss(shares, labels, self.nu),
        }


def distillation_loss(distances: Tensor, target: Tensor) -> Tensor:
    """Return L_d = ``mean |d − Σ d^k| / mean d`` (AMD, equation 4, in mean distances)."""
    error = (target - distances.sum(1)).abs().mean()
    return error / target.mean().clamp(min=torch.finfo(target.dtype).tiny)


def prior_total_loss(shares: Tensor, labels: PairLabels, nu: float = 0.5) -> Tensor:
    """Return L_p1 = mean relu(s − Σ_e r^e) + relu(Σ_c r^c − (1 − s)) (AMD, equation 7)."""
    least = prior_share(labels, nu)
    exclusive, common = ((shares * part).sum(1) for part in labels)
    return ((least - exclusive).relu() + (common - (1 - least)).relu()).mean()


def prior_each_loss(shares: Tensor, labels: PairLabels, nu: float = 0.5) -> Tensor:
    """Return L_p2 = mean of Σ_e relu(b − r^e) + Σ_c relu(r^c − b) (AMD, equation 10)."""
    bound = prior_bound(labels, nu)[:, None]
    too_small = (bound - shares).relu() * labels.exclusive
    too_large = (shares - bound).relu() * labels.common
    return (too_small + too_large).sum(1).mean()
