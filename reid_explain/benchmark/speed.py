"""What explainers cost beside the forward passes that they cannot avoid.

    python benchmarks/speed.py
    python benchmarks/speed.py --parts exact sampled --model resnet50
    python benchmarks/speed.py --quality --images 16 --methods ScoreFAM GradFAM captum:Saliency
    python benchmarks/speed.py --against ANOTHER_CHECKOUT

All methods explain one image after the other, in turns; the first image warms up and does not
count. The rows: one for each image and method. Columns:

seconds       of the explanation
forwards      images that it passes through the model
bare_seconds  of as many bare forward passes, in batches as Score-FAM has them, measured beside it
in_passes     time of the explanation in units of one of these: of the processor, whatever else runs
extra_mib     peak memory beyond that of the bare passes
max_abs       for settings of Score-FAM: largest difference from its exact map, both in [0, 1]
spearman      likewise: rank correlation with it
as_drop       with --quality: mean AS Drop in percent as the top 5 to 70 % are kept over four fills

Peers are the Score-CAM of pytorch-grad-cam, for the cosine with the image's own embedding, and of
torch-cam, for the embedding's largest component, where they are installed.
"""

import ctypes
import inspect
import io
import math
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from reid_explain import ScoreFAM
from reid_explain.benchmark.faithfulness import Query, View
from reid_explain.benchmark.methods import Explain, Method, all_methods
from reid_explain.benchmark.metrics import METRICS
from reid_explain.benchmark.run import by_method
from reid_explain.benchmark.tables import cell, interval, layout, tradeoff
from reid_explain.benchmark.target import Target
from reid_explain.benchmark.task import Bench, Case, Report, Task, shuffled
from reid_explain.benchmark.versions import compare_versions
from reid_explain.capture import token_grid_of
from reid_explain.checks import check_at_least, check_choice
from reid_explain.explainers.layout import as_map
from reid_explain.fills import unit_range
from reid_explain.memory_format import images_per_forward

Part = Literal["exact", "sampled", "gradient", "descent", "peers"]
PARTS: tuple[Part, ...] = ("exact", "sampled", "gradient", "descent", "peers")
BY_COST: dict[str, Part] = {"pass": "gradient", "channels": "exact", "descent": "descent"}
EXACT = "ScoreFAM"
SAMPLED: dict[str, dict[str, Any]] = {
    f"ScoreFAM {n} channels": {"max_scored_channels": n} for n in (16, 32, 64, 128)
}
SAMPLED |= {"ScoreFAM tolerance 0.02": {"tolerance": 0.02}}
"""Settings of Score-FAM that score some of the channels; all in bfloat16."""
SHOWN = {
    "seconds": ("seconds", "median"),
    "forwards": ("forwards", "median"),
    "÷ bare passes": ("to_bare", "median"),
    "× ScoreFAM": ("speed_up", "median"),
    "extra MiB": ("extra_mib", "median"),
    "max-abs": ("max_abs", "most"),
    "Spearman": ("spearman", "least"),
}
"""Columns of the table: a column or ratio, and which of its values over the turns."""
KEEPING = METRICS.resolve("keeping")
QUALITY = "as_drop"
TIMED = 64
"""Bare passes and random masks that are timed at most; more are extrapolated."""


class Peer:
    """Another library's Score-CAM; ``attribute`` gives maps (1, 1, H, W)."""

    cost = "channels"
    part = "peers"

    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        self.model = model
        self.layer = layer

    @classmethod
    def for_target(cls, target: Target) -> "Peer":
        """Return the explainer of a target's model."""
        return cls(target.model, target.layer)


class GradCAMPeer(Peer):
    """Score-CAM of pytorch-grad-cam."""

    def attribute(self, inputs: Tensor) -> Tensor:
        """Return the map of the cosine with the image's own embedding."""
        from pytorch_grad_cam import ScoreCAM

        with torch.no_grad():
            own = self.model(inputs)[0]
        size, grid = (inputs.shape[2], inputs.shape[3]), token_grid_of(self.model)
        explainer = ScoreCAM(self.model, [self.layer], lambda tokens: as_map(tokens, size, grid))
        with redirect_stderr(io.StringIO()), explainer:
            found = explainer(inputs, [lambda embedding: cosine_similarity(embedding, own, dim=0)])
        return torch.from_numpy(found)[:, None]


class TorchCAMPeer(Peer):
    """Score-CAM of torch-cam."""

    def attribute(self, inputs: Tensor) -> Tensor:
        """Return the map of the embedding's largest component."""
        from torchcam.methods import ScoreCAM

        batch = images_per_forward(inputs)
        with ScoreCAM(self.model, self.layer, batch) as explainer, torch.no_grad():
            scores = self.model(inputs)
            (found,) = explainer(int(scores[0].argmax()), scores)
        map_: Tensor = found[:, None]
        return map_


PEERS = {"pytorch_grad_cam": GradCAMPeer, "torchcam": TorchCAMPeer}


@dataclass(frozen=True, kw_only=True)
class Speed(Task):
    """What explainers cost beside the forward passes that they cannot avoid.

    Args:
        images: number of images, each of which is a turn; one more warms up
        parts: methods that run unless they are named
        quality: also the AS Drop at equal areas, and tradeoff.png, what it costs against what it
            loses; embeds the gallery first
        against: folder of another version of the package, to compare with in as many turns
    """

    images: int = 3
    parts: tuple[Part, ...] = PARTS
    quality: bool = False
    against: Path | None = None

    name: ClassVar[str] = "speed"
    gives = ("seconds", "forwards", "bare_seconds", "in_passes", "extra_mib", "max_abs", "spearman")
    untrained: ClassVar[bool] = True

    def run(self, target: Target, *arguments: Any, **options: Any) -> pd.DataFrame:
        """Measure methods on a target, or this version against another one."""
        if self.against is None:
            return super().run(target, *arguments, **options)
        frame = compare_versions(self.against, self.images)
        print(frame.to_string(float_format="{:.4g}".format))
        return frame

    def known(self) -> dict[str, Method]:
        """Return the registered methods, faster settings of them, and peers."""
        bfloat16 = partial(ScoreFAM, autocast_dtype=torch.bfloat16)
        settings: dict[str, Callable[..., Any]] = {
            "ScoreFAM bfloat16": bfloat16,
            **{name: partial(bfloat16, **options) for name, options in SAMPLED.items()},
            **{f"{name} ScoreCAM": peer for name, peer in PEERS.items() if find_spec(name)},
        }
        return all_methods() | {name: Method(name, kind) for name, kind in settings.items()}

    def runs(self, method: Method) -> bool:
        """Tell whether a method is of the parts, and no control."""
        part = method.fact("part", BY_COST.get(method.fact("cost", "pass")))
        part = "sampled" if method.name in SAMPLED else part
        left_out = method.fact("is_control") or method.fact("on_request")
        return part in self.parts and not left_out

    def cases(self, bench: Bench) -> Sequence[Case]:
        """Return some queries that have a match."""
        check_at_least("images", self.images, 1)
        for part in self.parts:
            check_choice("parts", part, PARTS)
        numbers = shuffled(bench.matched(), self.seed)[: self.images + 1]
        records = ((n, bench.dataset.query[n]) for n in numbers)
        return [Case(bench.name(record), record.identity, n) for n, record in records]

    def columns(self, bench: Bench, method: str) -> list[str]:
        """Return the columns, with that of the quality if it is asked for."""
        return [*self.gives, *[QUALITY] * self.quality]

    def measure(self, bench: Bench, case: Case, method: str) -> dict[str, float]:
        """Return what a method costs on one image, and how far its map is from the exact one."""
        target, subject = bench.target, bench.subject(bench.dataset.query[case.data])
        turn = bench.current = bench.current or Turn(bench, case.data, self.seed)

        def run(explain: Explain) -> Tensor:
            map_: Tensor = explain(subject, interpolate_mode=None)
            return map_

        passed: list[int] = []
        explain, left_out = in_part(bench.methods[method], bench)
        hook = target.model.register_forward_pre_hook(lambda _, args: passed.append(len(args[0])))
        try:
            found, own = measured(partial(run, explain), target.device)
        finally:
            hook.remove()
        seen = max(sum(passed), 1)  # Parts of the model alone count as one.
        count, bare = measured(partial(bare_passes, target, subject.images, seen), target.device)
        forwards = seen + left_out
        distance = correlation = math.nan
        if method.startswith(EXACT) and EXACT in bench.explain:
            if turn.exact is None:
                turn.exact = found if method == EXACT else run(bench.explain[EXACT])
            distance, correlation = agreement(turn.exact, found)
        seconds, bare_seconds = own.seconds * forwards / seen, bare.seconds * forwards / count
        in_passes = own.processor / bare.processor * count * forwards / seen
        costs = (seconds, forwards, bare_seconds, in_passes, own.mib - bare.mib)
        values = dict(zip(self.gives, (*costs, distance, correlation), strict=True))
        if self.quality:
            whole = run(bench.explain[method]) if left_out else found
            values[QUALITY] = KEEPING(View(turn.query, whole, seconds))[KEEPING.name]
        return values

    def report(self, bench: Bench, cases: Sequence[Case], frame: pd.DataFrame) -> Report:
        """Return medians over the turns, and ratios within them."""
        tables = by_method(frame[frame["case"] != cases[0].name])
        methods: dict[str, dict[str, Any]] = {}
        for name, own in tables.items():
            own["to_bare"] = own["seconds"] / own["bare_seconds"]
            own["speed_up"] = (
                tables[EXACT]["seconds"] / own["seconds"] if EXACT in tables else math.nan
            )
            methods[name] = {
                column: {"median": values.median(), "least": values.min(), "most": values.max()}
                for column, values in own.items()
            }
        where = device_name(bench.target.device)
        lines = [[f"{bench.target.label}, {where}", *SHOWN]]
        for name, values in methods.items():
            cells = (f"{values[column][figure]:.4g}" for column, figure in SHOWN.values())
            lines.append([name, *cells])
        note = f"medians of {len(cases) - 1} images; largest max-abs, least Spearman"
        figures = {}
        if self.quality:
            losses = {name: own[QUALITY] for name, own in tables.items()}
            for name, line in zip(methods, lines[1:], strict=True):
                methods[name][QUALITY] = interval(losses[name])
                line.append(cell(methods[name][QUALITY]))
            lines[0].append("AS Drop")
            note += "; AS Drop: mean with its 95 % interval over identities"
            costs = {name: values["seconds"]["median"] for name, values in methods.items()}
            figures["tradeoff"] = tradeoff(costs, "seconds for a map", losses, bench.controls)
        text = f"{layout(lines)}\n{note}"
        return Report({"device": where, "methods": methods}, text, figures)


class Turn:
    """An image of the run: its exact map, once there is one, and how it is retrieved."""

    def __init__(self, bench: Bench, number: int, seed: int) -> None:
        self.exact: Tensor | None = None
        self._query = partial(Query, bench, number, seed)

    @cached_property
    def query(self) -> Query:
        """The query, made when the quality of a map is asked for."""
        return self._query()


def in_part(method: Method, bench: Bench) -> tuple[Explain, int]:
    """Return a method with at most ``TIMED`` random masks, and how many of its masks it lacks."""
    masks = inspect.signature(method.explainer).parameters.get("masks")
    left_out = masks.default - TIMED if masks else 0
    if left_out <= 0:
        return bench.explain[method.name], 0
    return method.on(bench.target, masks=TIMED), left_out


def device_name(device: torch.device) -> str:
    """Return what a table says of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def bare_passes(target: Target, image: Tensor, wanted: int) -> int:
    """Pass ``wanted`` images, or ``TIMED``, in Score-FAM's batches; return how many were passed."""
    size = min(images_per_forward(image), wanted)
    batch = image.to(target.device).expand(size, -1, -1, -1)
    batch = batch.contiguous(memory_format=torch.channels_last)
    count = max(1, min(wanted, TIMED) // size)
    with torch.no_grad():
        for _ in range(count):
            target.embedding(batch)
    return count * size


class Cost(NamedTuple):
    """What a run took: seconds, those of the processor, and MiB; a GPU counts as the processor."""

    seconds: float
    processor: float
    mib: float


def measured(run: Callable[[], Any], device: torch.device) -> tuple[Any, Cost]:
    """Return the result, and what it took: memory is the peak above what was taken before.

    On a GPU what torch allocates, elsewhere the resident memory of the process as Linux has it;
    NaN where neither is known.
    """
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = float(torch.cuda.memory_allocated(device))
    else:
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)  # Free memory goes back, or it would hide new needs.
            Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
    started, busy = time.perf_counter(), time.process_time()
    result = run()
    if is_gpu:
        torch.cuda.synchronize(device)
    seconds, processor = time.perf_counter() - started, time.process_time() - busy
    peak = float(torch.cuda.max_memory_allocated(device)) if is_gpu else _resident("VmHWM")
    return result, Cost(seconds, seconds if is_gpu else processor, (peak - before) / 2**20)


def _resident(field: str) -> float:
    """Return a field of /proc/self/status in bytes."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(field):
                return float(line.split()[1]) * 1024
    return math.nan


def agreement(exact: Tensor, map_: Tensor) -> tuple[float, float]:
    """Return the largest difference of two maps (1, 1, h, w) in [0, 1], and their Spearman."""
    largest = (unit_range(exact) - unit_range(map_)).abs().max().item()
    return largest, float(spearmanr(exact.flatten(), map_.flatten()).statistic)
