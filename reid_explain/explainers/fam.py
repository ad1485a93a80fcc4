"""Feature activation mapping: what an embedding looks at, without a class or a second image.

Source: Wu et al., FAM: Visual Explanations for the Feature Representations from Deep
Convolutional Networks, CVPR 2022.
"""

from typing import Any

from reid_explain.explainers.base import Images, logged
from reid_explain.explainers.gradient import GradientExplainer
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.explainers.score import Call, ScoreExplainer
from reid_explain.objectives import Cosine, Norm


@EXPLAINERS.register
class GradFAM(GradientExplainer):
    r"""Grad-FAM: gradient weighting of the embedding's length, ``Norm()``.

    .. math:: L = \mathrm{ReLU}\left(\sum_k \frac{1}{Z}\sum_{ij}
        \frac{\partial \|f(X)\|_2}{\partial A^k_{ij}} \cdot A^k\right)

    Source: FAM, equation 9.

    Example:
        >>> import torch
        >>> from reid_explain import GradFAM
        >>> layer = torch.nn.Identity()
        >>> mean_color = lambda images: layer(images).mean(dim=(2, 3))
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[0, 0, :2] = image[0, 1, 3:] = 1  # red above, a green line below
        >>> GradFAM(mean_color, layer).attribute(image)[0, 0, :, 0]
        tensor([0.0559, 0.0559, 0.0000, 0.0280])
    """

    @logged
    def attribute(
        self,
        inputs: Images,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
    ) -> Images:
        """Explain each image by itself; as :meth:`.GradientWeighting.attribute`.

        Raises:
            InputError: As there, or if embeddings are normalized: their length is fixed.
        """
        return self._explain(inputs, Norm(), additional_forward_args, interpolate_mode)


@EXPLAINERS.register
class ScoreFAM(ScoreExplainer):
    r"""Score-FAM: score weighting of the similarity to the image itself, ``Cosine()``.

    .. math:: L = \mathrm{ReLU}\left(\sum_k a_k A^k\right), \quad a = \mathrm{softmax}_k(S_k), \quad
        S_k = \cos(f(X \circ M_k + B \circ (1 - M_k)), f(X)) - \cos(f(B), f(X))

    with :math:`M_k` the channel :math:`A^k`, upsampled and then stretched to [0, 1]. One forward
    pass for each channel that is not constant; ``max_scored_channels=64`` is a good start where
    seconds count. Source: FAM, equations 10 to 13.

    Example:
        >>> import torch
        >>> from reid_explain import ScoreFAM
        >>> layer = torch.nn.Identity()
        >>> mean_color = lambda images: layer(images).mean(dim=(2, 3))
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[0, 0, :2] = image[0, 1, 3:] = 1  # red above, a green line below
        >>> explainer = ScoreFAM(mean_color, layer)
        >>> maps, scores = explainer.attribute(image, baselines=0.0, return_scores=True)
        >>> scores  # the red part alone keeps more of the embedding; there is no blue
        tensor([[0.8944, 0.4472, 0.0000]])
        >>> maps[0, 0, :, 0]
        tensor([0.4882, 0.4882, 0.0000, 0.3122])
    """

    @logged
    def attribute(
        self,
        inputs: Images,
        baselines: Any = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        interpolate_mode: str | None = "bilinear",
        return_scores: bool = False,
    ) -> Any:
        """Explain each image by itself; as :meth:`.ScoreWeighting.attribute`.

        Scores are in [-2, 2] where they are measured.
        """
        call = Call(
            additional_forward_args, perturbations_per_eval, show_progress, interpolate_mode
        )
        return self._explain_by_scores(inputs, Cosine(), baselines, call, return_scores)
