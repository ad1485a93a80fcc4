"""Measure the faithfulness benchmark at the size of Market-1501, all but the model's passes.

Embeddings, images and maps are made up. Some queries are scored with every method of a default
run; then rows, tables and the frame are made of as many as there are. Run it as
``OMP_NUM_THREADS=2 python benchmarks/gallery_scale.py``.
"""

import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import tyro
from PIL import Image

from reid_explain.benchmark.faithfulness import Faithfulness
from reid_explain.benchmark.run import Group, Row, Rows
from reid_explain.benchmark.task import Bench, Case
from reid_explain.datasets.records import Record
from reid_explain.inputs import InputSpec
from reid_explain.retrieval import Embedded, Gallery

MAP_SIZE = (16, 8)


def main(queries: int = 3368, gallery: int = 19_732, width: int = 512, scored: int = 50) -> None:
    """Print the time of all queries and the peak memory.

    Args:
        queries: number of queries, of 750 people.
        gallery: images.
        width: numbers in an embedding.
        scored: queries that are scored; the time of the others is extrapolated.
    """
    draw = torch.Generator().manual_seed(0)
    lap = time.perf_counter()

    def embed(images) -> torch.Tensor:
        return torch.randn(len(images), width, generator=draw)

    def records(count: int) -> list[Record]:
        people = torch.randint(750, (count,), generator=draw).tolist()
        return [Record(Path(f"{n}.png"), person, n % 6) for n, person in enumerate(people)]

    def explain(subject, interpolate_mode) -> torch.Tensor:
        return torch.rand(1, 1, *MAP_SIZE, generator=draw)

    noise = Image.effect_noise((64, 128), 50).convert("RGB")
    dataset = SimpleNamespace(
        name="made up", query=records(queries), gallery=records(gallery), load=lambda _: noise
    )
    target = SimpleNamespace(
        spec=InputSpec(), embed=embed, predicted=lambda _: None, label="made up", device="cpu"
    )
    task = Faithfulness()
    methods = {name: method for name, method in task.known().items() if task.runs(method)}
    bench = Bench(target, dataset, Group(), dict.fromkeys(methods, explain), methods)
    bench.explain["FullImage"] = lambda subject, interpolate_mode: None
    bench.gallery = Gallery(Embedded.of(embed(dataset.gallery), dataset.gallery))
    bench.queries = Embedded.of(embed(dataset.query), dataset.query)
    with tempfile.TemporaryDirectory() as folder:
        bench.rows = Rows(Path(folder))
        cases = [Case(str(n), record.identity, n) for n, record in enumerate(dataset.query)]
        seconds = {"gallery": time.perf_counter() - lap}
        lap = time.perf_counter()
        for case in cases[:scored]:
            bench.current = None
            for name in methods:
                values = task.measure(bench, case, name)
                bench.rows.add(Row(case.name, case.identity, name, values))
        seconds["queries"] = (time.perf_counter() - lap) * queries / scored
        rows = bench.rows.values
        for case in cases[scored:]:
            for name in methods:
                values = rows[cases[case.data % scored].name, name]
                bench.rows.add(Row(case.name, case.identity, name, values))
    lap = time.perf_counter()
    frame = bench.rows.frame(task.name, [case.name for case in cases], list(methods))
    print(task.report(bench, cases, frame).tables)
    seconds["frame and tables"] = time.perf_counter() - lap
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    parts = ", ".join(f"{name} {value / 60:.1f} min" for name, value in seconds.items())
    print(
        f"\n{queries} queries, {gallery} x {width} gallery, {len(methods)} methods: "
        f"{sum(seconds.values()) / 60:.1f} min ({parts}; queries extrapolated from {scored}), "
        f"{peak:.1f} GiB at the peak"
    )


if __name__ == "__main__":
    tyro.cli(main)
