"""What stands at the positions of speech: connectors from a speech encoder's frames to the LLM's embeddings.

A new kind is a file with a `Connector` and a line in `CONNECTORS`.
"""

from depthup.model.connectors.connector import Connector, Sizes, Speech
from depthup.model.connectors.draft import DraftConnector
from depthup.model.connectors.frames import FramesConnector
from depthup.model.connectors.tokens import TokensConnector

CONNECTORS: dict[str, type[Connector]] = {
    "frames": FramesConnector,
    "draft": DraftConnector,
    "tokens": TokensConnector,
}
"""Name in a recipe's `connector.name` -> kind of connector."""

__all__ = ["CONNECTORS", "Connector", "DraftConnector", "FramesConnector", "TokensConnector", "Sizes", "Speech"]
