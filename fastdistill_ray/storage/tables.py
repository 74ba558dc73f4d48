"""Parquet files in their place, and digests of files."""

import hashlib
from os import PathLike
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fastdistill_ray.storage.place import Place


def write_parquet(table: pa.Table, place: PathLike[str], **options: Any) -> None:
    """With a checksum on each page, so that a reader sees what was altered."""
    with Place(place).create() as file:
        pq.write_table(table, file, write_page_checksum=True, **options)


def open_parquet(place: PathLike[str]) -> pq.ParquetFile:
    """To be closed; OSError from it or from its reads where the file is altered."""
    file = Place(place)
    return pq.ParquetFile(file.path, filesystem=file.file_system, page_checksum_verification=True)


def read_parquet(place: PathLike[str], columns: list[str] | None = None) -> pa.Table:
    with open_parquet(place) as file:
        return file.read(columns=columns)


def digest(place: Place) -> str:
    """Of the bytes of a file."""
    found = hashlib.blake2b(digest_size=8)
    with place.file_system.open_input_stream(place.path) as file:
        while chunk := file.read(1 << 22):
            found.update(chunk)
    return found.hexdigest()
