"""The embedded text-to-video model: its clips, captions, three networks, training and scores."""
