"""The one base of every recipe section: frozen, unknown keys refused."""

from pydantic import BaseModel, ConfigDict


class Knobs(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
