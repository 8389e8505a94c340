"""Input videos and sounds, made from the samples with ffmpeg."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg

from benchmarks.systems import ROOT

SAMPLE = ROOT / "samples/bigbuckbunny.mp4"
CONVERSATION = ROOT / "samples/conversation.wav"
SIZE_PX = (320, 180)


def looped_clip(folder: Path, duration_s: float, fps: int) -> Path:
    """The sample, repeated to `duration_s` seconds at `fps`, 320 x 180 pixels, without sound."""
    path = folder / f"clip-{duration_s:g}s.mp4"
    width_px, height_px = SIZE_PX
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-stream_loop", "-1", "-i", str(SAMPLE)]
    command += ["-t", f"{duration_s:g}", "-r", str(fps), "-vf", f"scale={width_px}:{height_px}", "-an"]
    subprocess.run([*command, "-pix_fmt", "yuv420p", str(path)], check=True)
    return path


def looped_sound(folder: Path, duration_s: float) -> Path:
    """The telephone conversation, repeated to `duration_s` seconds: 16 kHz, one channel."""
    path = folder / f"sound-{duration_s:g}s.wav"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-stream_loop", "-1"]
    subprocess.run([*command, "-i", str(CONVERSATION), "-t", f"{duration_s:g}", str(path)], check=True)
    return path
