# pyarrow makes the functions of this module when it is imported; no checker sees them.
from typing import Any

def __getattr__(name: str) -> Any: ...
