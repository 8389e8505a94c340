"""The client under the name that the `hallo2` API's documentation imports."""

from mediaray.hallo2_client import Hallo2Client

__all__ = ["Hallo2Client"]
