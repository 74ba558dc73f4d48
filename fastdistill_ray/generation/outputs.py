"""The column an engine adds to its requests."""

from typing import Any

import pyarrow as pa

RAW_COMPLETION = pa.struct(
    [
        ("text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
        ("num_tokens", pa.int32()),
        ("seed", pa.int64()),
    ]
)


def with_completions(batch: pa.Table, outputs: list[list[dict[str, Any]]]) -> pa.Table:
    """`outputs[i]` are the completions of row i."""
    assert len(outputs) == batch.num_rows
    return batch.append_column("completions", pa.array(outputs, type=pa.list_(RAW_COMPLETION)))
