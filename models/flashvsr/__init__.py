"""FlashVSR in our own code: original weights, streaming networks, frames and sizes that are exact."""
