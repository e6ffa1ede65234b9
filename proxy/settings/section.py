"""What every part of the configuration is made from."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the tree. An unknown key is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
