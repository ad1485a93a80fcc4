"""Learning rate over a run: linear warm-up, then steps or a cosine."""

import math

from reid_explain.checks import check_choice

STEP_AT = (40 / 120, 70 / 120)  # Luo et al. 2019


def learning_rate_factor(
    epoch: float, epochs: int, warmup: float, schedule: str, start: float = 0.1
) -> float:
    """Return the factor on the base learning rate at a (fractional) ``epoch`` of ``epochs``.

    From ``start`` to 1 over ``warmup`` epochs; then ``"step"``: times 0.1 at 1/3 and 7/12 of the
    run, or ``"cosine"``: ½(1 + cos πt), t from 0 at the end of the warm-up to 1 at the end.
    Another raises ``InputError``.
    """
    check_choice("schedule", schedule, ("step", "cosine"))
    if epoch < warmup:
        return start + (1 - start) * epoch / warmup
    if schedule == "step":
        return 0.1 ** sum(epoch >= at * epochs for at in STEP_AT)
    return (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) / 2
