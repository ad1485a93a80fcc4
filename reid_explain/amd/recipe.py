"""How an interpreter is trained (AMD, section 3.4): settings that need no training extra."""

from dataclasses import dataclass

from reid_explain.checks import check_at_least
from reid_explain.training.schedule import learning_rate_factor


@dataclass(frozen=True)
class Recipe:
    """How an interpreter is trained; the defaults are the paper's where it gives them.

    Args:
        epochs: passes over the training images.
        images_per_epoch: images that count as one pass, all of them by default.
        identities: P, identities per batch of all processes.
        instances: S, images per identity.
        learning_rate: of Adam, after the warm-up; a cosine then takes it to 0.
        warmup_epochs: linear from 1/100 of the learning rate.
        weight_decay: of Adam.
        distillation: weight of L_d / mean d. The paper's L_d is not divided; at its distances
            of about 50 its weight 1 is 50 here.
        alpha: weight of L_p1.
        beta: weight of L_p2.
        nu: exponent of the prior share.
        validation_identities: training identities that are held out to choose the best epoch
            and, as composites, the scale of the distances.
        patience: stop after so many epochs without a lower validation loss.
        seed: of everything random.
    """

    epochs: int = 30
    images_per_epoch: int | None = None
    identities: int = 6
    instances: int = 4
    learning_rate: float = 1e-4
    warmup_epochs: float = 10.0
    weight_decay: float = 5e-4
    distillation: float = 50.0
    alpha: float = 10.0
    beta: float = 50.0
    nu: float = 0.5
    validation_identities: int = 0
    patience: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise where a number cannot be right."""
        for name in ("epochs", "identities", "instances"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("validation_identities", self.validation_identities, 0)

    def learning_rate_at(self, epoch: float) -> float:
        """Return the learning rate at a (fractional) epoch."""
        factor = learning_rate_factor(epoch, self.epochs, self.warmup_epochs, "cosine", start=0.01)
        return self.learning_rate * factor
