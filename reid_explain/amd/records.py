"""What an interpreter makes of the records of a data set, block by block."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from reid_explain.amd.evaluation import DecomposedRecords
from reid_explain.amd.interpreter import AMDInterpreter
from reid_explain.datasets.attributes import record_labels
from reid_explain.datasets.records import Record, RecordDataset, ReIDDataset
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.metrics.embedding import Embedded


def decompose_records(
    interpreter: AMDInterpreter,
    dataset: ReIDDataset,
    records: Sequence[Record],
    *,
    batch_size: int = 64,
    workers: int = 0,
    description: str = "decompose",
) -> Iterator[DecomposedRecords]:
    """Yield ``records`` as the interpreter sees them, with a progress bar.

    Args:
        interpreter: A trained one; it runs in eval mode where its weights are.
        dataset: Loads the images and knows the attributes, which are matched by name: those
            that it does not label are unknown.
        records: Which images, in this order.
        batch_size: Images per block.
        workers: Processes that load images; 0 loads in this one.
        description: Of the bar.

    Yields:
        Blocks of at most ``batch_size`` records, on the CPU.

    Raises:
        InputError: No record, an image that cannot be read, or an identity without labels.
    """
    if not records:
        raise InputError("records", "none", "at least one record")
    labels = record_labels(dataset, records, interpreter.attributes)
    identities = torch.tensor([record.identity for record in records])
    cameras = torch.tensor([record.camera for record in records])
    images_of = RecordDataset(dataset, records, InputSpec(interpreter.image_size))
    loader = DataLoader(images_of, batch_size, num_workers=workers)
    for number, (images, _, _) in enumerate(tqdm(loader, desc=description, unit="batch")):
        rows = slice(number * batch_size, (number + 1) * batch_size)
        embeddings, parts, _ = interpreter.decompose(images)
        predicted = interpreter.predict(parts)
        embedded = Embedded(embeddings.cpu(), identities[rows], cameras[rows])
        yield DecomposedRecords(embedded, parts.cpu(), labels[rows], predicted.cpu())
