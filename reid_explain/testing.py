"""The contract of an explainer, as checks that anyone runs over an own one.

    from reid_explain.testing import check_explainer
    check_explainer(MyExplainer)

or, a test for each check, ``pytest.mark.parametrize("check", explainer_checks(MyExplainer))``.
"""

import copy
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from captum.attr import LayerAttribution, NoiseTunnel
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor, nn

from reid_explain.errors import InputError

Given = Callable[[int], Mapping[str, Any]]
"""The number of images -> keywords of ``attribute`` beside ``inputs``, row by row the same."""
SIZE = (12, 8)
close = torch.testing.assert_close


class ContractNet(nn.Module):
    """A small network with batch norm, dropout, a map (``layer``) and tokens (``tokens``).

    ``forward`` gives an embedding (or logits) (B, 4), ``pooled`` the mean of the map (B, 5).
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.layer = nn.ReLU()
        self.tokens = nn.Identity()
        self.norm = nn.BatchNorm1d(5)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(5, 4)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4, generator=generator)
        with torch.no_grad():
            assert self.conv.bias is not None
            self.conv.bias += 1
        assert self.norm.running_mean is not None
        self.norm.running_mean.normal_(generator=generator)
        self.double()

    def forward(self, images: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return embeddings (B, 4) of images (B, 3, H, W), shifted by (B,)."""
        rows = self.layer(self.conv(images)).flatten(2).transpose(1, 2)
        tokens = torch.tanh(self.tokens(torch.cat([rows.mean(dim=1, keepdim=True), rows], dim=1)))
        tokens = self.mixed(tokens)
        out: Tensor = self.head(self.dropout(self.norm(tokens.square().mean(dim=1))))
        return out if shift is None else out + shift[:, None]

    def pooled(self, images: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return the mean of the map, (B, 5)."""
        out: Tensor = self.layer(self.conv(images)).mean(dim=(2, 3))
        return out

    def mixed(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, T, 5) of what they are and, in subclasses, of each other."""
        return tokens


class AttentionBlock(nn.Module):
    """One head of attention among tokens (B, T, C), added to them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, 3 * channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens that have seen each other."""
        query, key, value = self.project(tokens)[:, None].chunk(3, dim=-1)
        return tokens + F.scaled_dot_product_attention(query, key, value)[:, 0]


class AttentionNet(ContractNet):
    """The same with two blocks of attention among the tokens."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.blocks = nn.ModuleList(AttentionBlock(5) for _ in range(2))
        generator = torch.Generator().manual_seed(seed + 1)
        for parameter in self.blocks.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.double()

    def mixed(self, tokens: Tensor) -> Tensor:
        """Return tokens that have seen each other."""
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


def pictures(batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return made-up images (B, 3, 12, 8); the first of more are those of fewer."""
    made = [
        torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(1000 * seed + row))
        for row in range(batch)
    ]
    return torch.stack(made).to(dtype)


def given_by_facts(explainer: Any) -> Given:
    """Return what the class says that it needs: reference images, or classes."""
    needs = fact(explainer, "needs", ())

    def given(batch: int) -> dict[str, Any]:
        data = {"references": pictures(batch, seed=7), "target": torch.arange(batch) % 4}
        return {name: data[name] for name in needs}

    return given


def fact(explainer: Any, name: str, default: Any) -> Any:
    """Return a class-level fact of an explainer, or of what a partial makes."""
    return getattr(getattr(explainer, "func", explainer), name, default)


class Contract:
    """An explainer under test: every method whose name starts with ``check_`` is one check.

    Args:
        explainer: An explainer class, or a function of ``(forward_func, layer)`` that makes one.
        given: What ``attribute`` needs beside the images; by the facts of the class if None.
        model: Makes the network, in float64; its method of the name of the explainer's fact
            ``explains`` is explained where it has one, or else the network.
        layers: Names of layers of it that the explainer takes.
    """

    def __init__(
        self,
        explainer: Callable[..., Any],
        given: Given | None = None,
        model: Callable[[], nn.Module] = ContractNet,
        layers: tuple[str, ...] = ("layer", "tokens"),
    ) -> None:
        self.explainer = explainer
        self.given = given or given_by_facts(explainer)
        self.model = model
        self.explains = fact(explainer, "explains", "embedding")
        self.layers = layers[:1] if self.explains == "pooled" else layers

    def net(self) -> nn.Module:
        """Return the network in eval mode."""
        return self.model().eval()

    def function(self, net: nn.Module) -> Callable[..., Any]:
        """Return what of the network is explained."""
        found: Callable[..., Any] = getattr(net, self.explains, net)
        return found

    def method(self, net: nn.Module) -> Any:
        """Return the explainer of the first layer."""
        return self.explainer(self.function(net), net.get_submodule(self.layers[0]))

    def maps(self, images: Tensor, net: nn.Module | None = None, **options: Any) -> Tensor:
        """Return the maps of images with what they need, each in the precision of the images."""
        net = self.net() if net is None else net
        data = self.data(len(images), images.dtype)
        found: Tensor = self.method(net).attribute(images, **data, **options)
        return found

    def data(self, batch: int, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
        """Return the further keywords for a batch."""
        return {
            name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point()
            else value for name, value in self.given(batch).items()
        }  # fmt: skip

    def row(self, number: int, batch: int) -> dict[str, Any]:
        """Return the further keywords of one image of a batch."""
        own = slice(number, number + 1)
        return {
            name: value[own] if isinstance(value, Tensor) and len(value) == batch else value
            for name, value in self.given(batch).items()
        }

    def check_form(self) -> None:
        """Maps are (B, 1, H, W), detached and finite; ``interpolate_mode`` resizes them."""
        images = pictures(2)
        raw = self.maps(images, interpolate_mode=None)
        assert raw.dim() == 4 and raw.shape[:2] == (2, 1), raw.shape
        for mode in ("bilinear", "bicubic", "nearest"):
            corners = None if mode == "nearest" else False
            resized = F.interpolate(raw, SIZE, mode=mode, align_corners=corners)
            close(self.maps(images, interpolate_mode=mode), resized)
        assert raw.isfinite().all()
        assert not raw.requires_grad

    def check_batch_parity(self) -> None:
        """An image's map does not depend on the rest of its batch."""
        images, net = pictures(3), self.net()
        together = self.maps(images, net)
        method = self.method(net)
        for number in range(3):
            alone = method.attribute(images[number : number + 1], **self.row(number, 3))
            close(alone, together[number : number + 1])

    def check_repeated(self) -> None:
        """The same call gives the same map, whatever the global random state, and leaves that."""
        images, net = pictures(2), self.net()
        first = self.maps(images, net)
        torch.manual_seed(5)
        before = torch.get_rng_state()
        assert torch.equal(self.maps(images, net), first)
        assert torch.equal(torch.get_rng_state(), before)

    def check_dtypes(self) -> None:
        """Any floating point dtype; float32 agrees with float64, lower ones give float32."""
        exact = self.maps(pictures(2))
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            found = self.maps(pictures(2, dtype=dtype), self.net().to(dtype))
            assert found.dtype == torch.float32
            assert found.isfinite().all()
            if dtype == torch.float32 and fact(self.explainer, "cost", "pass") != "descent":
                assert (found.double() - exact).abs().max() <= 1e-3 * exact.abs().max()

    def check_containers(self) -> None:
        """A tuple of one tensor comes back as one, as Captum wants it."""
        net, images = self.net(), pictures(2)
        method = self.method(net)
        assert isinstance(method, LayerAttribution)
        (inside,) = method.attribute((images,), **self.data(2))
        assert torch.equal(inside, method.attribute(images, **self.data(2)))

    def check_layers(self) -> None:
        """A layer is a module or its dotted name; maps and tokens both have a grid."""
        net, images = self.net(), pictures(2)
        for name in self.layers:
            by_name = self.explainer(self.function(net), name)
            by_module = self.explainer(self.function(net), net.get_submodule(name))
            found = by_name.attribute(images, **self.data(2))
            assert torch.equal(found, by_module.attribute(images, **self.data(2)))
            assert found.shape == (2, 1, *SIZE)

    def check_noise_tunnel(self) -> None:
        """Captum's NoiseTunnel averages over the noisy images that it makes, at B = 1 and 3."""
        for batch, chunk in ((1, None), (3, 2)):
            net, samples, images = self.net(), 3, pictures(batch)
            method, data = self.method(net), self.data(batch)
            rows = [self.row(number, batch) for number in range(batch)]
            options = {"nt_samples": samples, "nt_samples_batch_size": chunk, "stdevs": 0.1}
            torch.manual_seed(0)
            smooth = NoiseTunnel(method).attribute(images, **options, **data)
            torch.manual_seed(0)
            total = torch.zeros_like(smooth)
            for n in [samples] if chunk is None else [2, 1]:
                shape = (batch * n, *images.shape[1:])
                noise = torch.normal(0, torch.full(shape, 0.1)).view(batch, n, *shape[1:])
                for i in range(batch):
                    for j in range(n):
                        noisy = images[i : i + 1] + noise[i, j]
                        total[i] += method.attribute(noisy, **rows[i])[0]
            close(smooth, total / samples)

    def check_sensitivity_max(self) -> None:
        """Captum's sensitivity_max perturbs under no_grad with tuples, at B = 1 and 3."""
        samples = 2
        for batch in (1, 3):
            net, images = self.net(), pictures(batch)
            method = self.method(net)
            steps = 0.1 * pictures(batch * samples, seed=9)
            value = sensitivity_max(
                method.attribute,
                images,
                perturb_func=shifted_by(steps),
                n_perturb_samples=samples,
                **self.data(batch),
            )
            for i in range(batch):
                own = images[i : i + 1]
                plain = method.attribute(own, **self.row(i, batch))
                changes = [
                    method.attribute(own + steps[i * samples + j], **self.row(i, batch)) - plain
                    for j in range(samples)
                ]
                largest = torch.stack([change.norm() for change in changes]).max()
                close(value[i], largest / plain.norm())

    def check_infidelity(self) -> None:
        """Captum's infidelity takes ``maps.expand_as(inputs)``."""
        net, images = self.net(), pictures(2)
        maps = self.maps(images, net).expand_as(images)
        steps = 0.1 * pictures(4, seed=9)

        def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
            return steps[: len(inputs)], inputs - steps[: len(inputs)]

        lengths = infidelity(
            lambda inputs: net(inputs).norm(dim=1), perturb, images, maps, n_perturb_samples=2
        )
        assert lengths.isfinite().all()

    def check_gradient_modes(self) -> None:
        """Frozen models, and callers under ``no_grad`` or ``inference_mode``, get the same."""
        images, net = pictures(2), self.net()
        expected = self.maps(images, net)
        close(self.maps(images, self.net().requires_grad_(False)), expected)
        with torch.no_grad():
            close(self.maps(images, net), expected)
            assert not torch.is_grad_enabled()
        with torch.inference_mode():
            close(self.maps(images.clone(), net).clone(), expected)
            inferred = {
                name: value.clone() if isinstance(value, Tensor) else value
                for name, value in self.data(2).items()
            }
        close(self.method(net).attribute(images, **inferred), expected)

    def check_nothing_left_behind(self) -> None:
        """Modes, hooks, flags, gradients, values and inputs are what they were."""
        net = self.untidy()
        before, images = state_of(net), pictures(2).requires_grad_()
        evaluated = copy.deepcopy(net).eval()
        found = self.maps(images, net)
        assert_same(before, state_of(net))
        assert images.grad is None
        assert torch.equal(images.detach(), pictures(2))
        assert torch.is_grad_enabled()
        assert torch.equal(found, self.maps(pictures(2), evaluated)), "not in eval mode"

    def check_exceptions(self) -> None:
        """Nothing is left behind when the model fails on its first, second or third pass."""
        for calls in range(3):
            net, seen = self.untidy(), 0

            def fail(module: nn.Module, inputs: Any, calls: int = calls) -> None:
                nonlocal seen
                seen += 1
                if seen > calls:
                    raise ZeroDivisionError

            handle = next(net.children()).register_forward_pre_hook(fail)
            before = state_of(net)
            try:
                self.maps(pictures(2), net)
            except ZeroDivisionError:
                pass
            else:
                assert seen <= calls
            assert_same(before, state_of(net))
            assert torch.is_grad_enabled()
            handle.remove()

    def check_bad_input(self) -> None:
        """Bad input is an ``InputError`` that names the argument."""
        images, nan = pictures(2), pictures(2)
        nan[1, 0, 0, 0] = torch.nan
        integers = (10 * images).to(torch.uint8)
        net = self.net()
        method = self.method(net)
        for bad in (images[0], images[:0], images[:, None], integers, nan, (images, images), "x"):
            refuses("inputs", partial(method.attribute, bad, **self.data(2)))
        refuses("interpolate_mode", partial(self.maps, images, interpolate_mode="area"))
        refuses("layer", partial(self.explainer, self.function(net), "no such layer"))
        refuses("layer", partial(self.explainer, self.function(net), nn.ReLU()))
        if inspect.signature(self.explainer).parameters["layer"].default is inspect.Parameter.empty:
            refuses("layer", partial(self.explainer, self.function(net), None))

    def check_chunks(self) -> None:
        """``perturbations_per_eval``, where there is one, bounds every pass and nothing else."""
        net, images = self.net(), pictures(3)
        method = self.method(net)
        if "perturbations_per_eval" not in inspect.signature(method.attribute).parameters:
            return
        expected, seen = self.maps(images), []
        next(net.children()).register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        close(method.attribute(images, perturbations_per_eval=2, **self.data(3)), expected)
        assert max(seen) <= 2

    def check_compiled(self) -> None:
        """A compiled model is explained like the model."""
        if self.explains == "pooled":
            return
        net, images = self.net(), pictures(2)
        compiled = torch.compile(net, backend="eager")
        method = self.explainer(compiled, self.layers[0])
        close(method.attribute(images, **self.data(2)), self.maps(images))

    def check_threads(self) -> None:
        """Threads share a model; a function may run it in a thread of its own."""
        net, images = self.net(), [pictures(2, seed) for seed in range(3)]
        expected = [self.maps(each) for each in images]
        barrier = threading.Barrier(3)

        def work(number: int) -> list[Tensor]:
            barrier.wait()
            return [self.maps(images[number], net) for _ in range(3)]

        with ThreadPoolExecutor(3) as pool:
            for own, found in zip(expected, pool.map(work, range(3)), strict=True):
                for maps in found:
                    close(maps, own)
        function = self.function(net)

        def elsewhere(*args: Any) -> Any:
            with ThreadPoolExecutor(1) as other:
                return other.submit(function, *args).result()

        seen = not fact(self.explainer, "looks_inside", False)
        if seen and fact(self.explainer, "cost", "pass") != "descent":
            method = self.explainer(elsewhere, net.get_submodule(self.layers[0]))
            close(method.attribute(images[0], **self.data(2)), expected[0])

    def untidy(self) -> nn.Module:
        """Return a model with modes, gradients and flags of all kinds."""
        net = self.model().train()
        first = next(net.children())
        *_, last = net.children()
        last.eval()
        for parameter in first.parameters():
            parameter.requires_grad_(parameter.dim() > 1)
            parameter.grad = torch.ones_like(parameter) if parameter.dim() > 1 else None
        return net


def shifted_by(steps: Tensor) -> Callable[[Any], Tensor]:
    """Return a perturbation as Captum calls it: with a tuple first, then with a tensor."""

    def perturb(inputs: Any) -> Tensor:
        inside: Tensor = inputs[0] if isinstance(inputs, tuple) else inputs
        return inside + steps[: len(inside)]

    return perturb


def refuses(argument: str, call: Callable[[], Any]) -> None:
    """Raise unless a call raises an InputError about an argument."""
    try:
        call()
    except InputError as error:
        assert argument in error.argument, f"the error is about {error.argument}: {error}"
    else:
        raise AssertionError(f"bad {argument} raised no InputError")


def state_of(net: nn.Module) -> dict[str, Any]:
    """Return everything of a model that an explainer has to leave as it was."""
    return {
        "modes": [module.training for module in net.modules()],
        "hooks": [
            len(getattr(module, hooks))
            for module in net.modules()
            for hooks in vars(module)
            if hooks.endswith("_hooks")
        ],
        "flags": [parameter.requires_grad for parameter in net.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "values": [value.clone() for value in net.state_dict().values()],
    }


def assert_same(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raise unless two states of a model are the same."""
    for key in ("modes", "hooks", "flags"):
        assert before[key] == after[key], f"{key} changed"
    for key in ("grads", "values"):
        for one, other in zip(before[key], after[key], strict=True):
            same = one is other if one is None or other is None else torch.equal(one, other)
            assert same, f"{key} changed"


def explainer_checks(explainer: Callable[..., Any], **options: Any) -> Iterator[Callable[[], None]]:
    """Yield every check, to be called without arguments; as :func:`check_explainer`."""
    contract = Contract(explainer, **options)
    for name, check in inspect.getmembers(contract, inspect.ismethod):
        if name.startswith("check_"):
            yield check


def check_explainer(explainer: Callable[..., Any], **options: Any) -> None:
    """Run every check of the contract.

    Args:
        explainer: An explainer class, or a function of ``(forward_func, layer)`` that makes one.
        options: Of :class:`Contract`: ``given``, ``model``, ``layers``.

    Raises:
        AssertionError: The first broken promise, named.
    """
    for check in explainer_checks(explainer, **options):
        try:
            check()
        except AssertionError as error:
            raise AssertionError(f"{check.__name__}: {check.__doc__}\n{error}") from error
