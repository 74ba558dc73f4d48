"""Many texts as one Arrow array, few of them as Python objects at a time."""

import pyarrow as pa

STRINGS_AT_ONCE = 65_536


class Strings:
    def __init__(self) -> None:
        self.chunks: list[pa.Array] = []
        self.last: list[str] = []

    def append(self, text: str) -> None:
        self.last.append(text)
        if len(self.last) == STRINGS_AT_ONCE:
            self._flush()

    def array(self) -> pa.Array:
        self._flush()
        return pa.concat_arrays(self.chunks)

    def _flush(self) -> None:
        self.chunks.append(pa.array(self.last, pa.string()))
        self.last = []
