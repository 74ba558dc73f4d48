# pyarrow makes most of its names in compiled modules, which no checker sees.
from typing import Any

def __getattr__(name: str) -> Any: ...
