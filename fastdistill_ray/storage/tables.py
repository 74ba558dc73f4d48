"""Parquet files in their place, and digests of files."""

import hashlib
from collections.abc import Iterable, Iterator
from os import PathLike
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fastdistill_ray.storage.place import Place

DIGEST_BYTES = 8


def write_parquet(table: pa.Table, place: PathLike[str], **options: Any) -> tuple[int, str]:
    """With a checksum on each page, so that a reader sees what was altered; -> the file's bytes and
    their digest."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, write_page_checksum=True, **options)
    data = buffer.getvalue()
    Place(place).put(data)
    return data.size, hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def write_batches(batches: Iterable[pa.Table], schema: pa.Schema, place: PathLike[str]) -> None:
    """As `write_parquet`, of tables that come one after the other, each a row group."""
    with (
        Place(place).create() as file,
        pq.ParquetWriter(file, schema, write_page_checksum=True) as writer,
    ):
        for batch in batches:
            writer.write_table(batch)


def open_parquet(place: PathLike[str]) -> pq.ParquetFile:
    """To be closed; OSError from it or from its reads where the file is altered."""
    file = Place(place)
    return pq.ParquetFile(file.path, filesystem=file.file_system, page_checksum_verification=True)


def read_parquet(place: PathLike[str], columns: list[str] | None = None) -> pa.Table:
    with open_parquet(place) as file:
        return file.read(columns=columns)


def read_rows(
    place: PathLike[str], columns: list[str], batch_size: int = 512
) -> Iterator[dict[str, Any]]:
    """One after the other; a batch at a time is in memory."""
    with open_parquet(place) as file:
        for batch in file.iter_batches(columns=columns, batch_size=batch_size):
            yield from batch.to_pylist()


def digest(place: Place) -> str:
    """Of the bytes of a file."""
    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with place.file_system.open_input_stream(place.path) as file:
        while chunk := file.read(1 << 22):
            found.update(chunk)
    return found.hexdigest()
