"""Text-to-video with diffusers pipelines: presets, memory, acceleration, the engine."""
