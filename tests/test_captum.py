"""Captum's own tools on every explainer, each value against a direct computation."""

import pytest
import torch
from captum.attr import LayerAttribution, NoiseTunnel
from captum.metrics import infidelity, sensitivity_max
from nets import PooledNet, images

from reid_explain import (
    CGRAM,
    RAM,
    ActivationMean,
    ExtremalFAM,
    GradCAM,
    GradFAM,
    GradRAM,
    ScoreCAM,
    ScoreFAM,
)

close = torch.testing.assert_close
CASES = [
    (GradFAM, None),
    (ScoreFAM, None),
    (ScoreFAM, "baselines"),
    (GradCAM, None),
    (GradCAM, "target"),
    (ScoreCAM, "target"),
    (ActivationMean, None),
    (RAM, "references"),
    (GradRAM, "references"),
    (CGRAM, "references"),
    (RAM, "embeddings"),
    (GradRAM, "embeddings"),
    (CGRAM, "embeddings"),
    (ExtremalFAM, None),
    (ExtremalFAM, "references"),
    (ExtremalFAM, "embeddings"),
]
parametrised = pytest.mark.parametrize(
    ("explainer", "given"), CASES, ids=[f"{e.__name__}-{g}" for e, g in CASES]
)


def net() -> PooledNet:
    model = PooledNet()
    model.conv.bias.data += 2
    return model.eval()


def data(given: str | None, batch: int, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    """What an explainer needs beside its inputs, for some rows of the batch."""
    if given == "target":
        return {"target": torch.arange(batch)[rows]}
    if given == "embeddings":
        return {"references": net()(images(batch, seed=5)).detach()[rows]}
    if given is not None:
        return {given: images(batch, seed=5)[rows]}
    return {}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("chunk", [None, 2])
@parametrised
def test_noise_tunnel(explainer, given, batch, chunk):
    x, samples = images(batch), 5
    method = explainer(net(), "relu")
    of_batch = data(given, batch)
    of_image = [data(given, batch, slice(i, i + 1)) for i in range(batch)]
    torch.manual_seed(0)
    smooth = NoiseTunnel(method).attribute(
        x, nt_samples=samples, nt_samples_batch_size=chunk, stdevs=0.3, **of_batch
    )
    torch.manual_seed(0)
    maps = torch.zeros(batch, 1, 12, 8, dtype=x.dtype)
    for n in [samples] if chunk is None else [2, 2, 1]:
        noise = torch.normal(0, torch.full((batch * n, 3, 12, 8), 0.3)).unflatten(0, (batch, n))
        for i in range(batch):
            for j in range(n):
                maps[i] += method.attribute(x[i : i + 1] + noise[i, j], **of_image[i])[0]
    close(smooth, maps / samples)


@pytest.mark.parametrize("batch", [1, 3])
@parametrised
def test_sensitivity_max(explainer, given, batch):
    x, samples = images(batch), 4
    method = explainer(net(), "relu")
    steps = 0.1 * images(batch * samples, seed=9)

    def perturb(inputs):
        (inputs,) = inputs if isinstance(inputs, tuple) else (inputs,)
        return inputs + steps[: len(inputs)]

    value = sensitivity_max(
        method.attribute, x, perturb_func=perturb, n_perturb_samples=samples, **data(given, batch)
    )
    for i in range(batch):
        rows = slice(i, i + 1)
        kwargs = data(given, batch, rows)
        plain = method.attribute(x[rows], **kwargs)
        changes = [
            (method.attribute(x[rows] + steps[i * samples + j], **kwargs) - plain).norm()
            for j in range(samples)
        ]
        close(value[i], torch.stack(changes).max() / plain.norm())


@pytest.mark.parametrize("batch", [1, 3])
@parametrised
def test_infidelity(explainer, given, batch):
    x, samples = images(batch), 4
    model = net()
    maps = explainer(model, "relu").attribute(x, **data(given, batch)).expand_as(x)
    steps = 0.1 * images(batch * samples, seed=9)

    def length(inputs):
        return model(inputs).norm(dim=1)

    value = infidelity(
        length,
        lambda inputs: (steps[: len(inputs)], inputs - steps[: len(inputs)]),
        x,
        maps,
        n_perturb_samples=samples,
    )
    for i in range(batch):
        step = steps[i * samples : (i + 1) * samples]
        change = length(x[i : i + 1]) - length(x[i : i + 1] - step)
        close(value[i], ((step * maps[i]).sum((1, 2, 3)) - change).square().mean())


@parametrised
def test_inputs_come_back_in_their_container(explainer, given):
    x = images(2)
    method = explainer(net(), "relu")
    assert isinstance(method, LayerAttribution)
    (in_tuple,) = method.attribute((x,), **data(given, 2))
    assert torch.equal(in_tuple, method.attribute(x, **data(given, 2)))
