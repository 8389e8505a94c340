"""Pictures in the range that the network was trained on: HDR (PQ, HLG) becomes SDR, the rest stays.

HDR code values become light (ITU-R BT.2100: PQ's EOTF; HLG's inverse OETF with the system gamma of a display
of 1,000 nits) and BT.2020 primaries those of BT.709. White is at 203 nits (ITU-R BT.2408). Light above a knee
is rolled off up to 1,000 nits by the curve of E. Reinhard et al. (2002) with a white point, on the brightest
channel, so that hues stay.
"""

from __future__ import annotations

from collections.abc import Callable

import av
import torch
from torch import Tensor

from models.media import BT709, Color, VideoFacts

_PQ, _HLG = 16, 18  # transfer characteristics of ITU-T H.273
_WHITE_NITS, _PEAK_NITS = 203.0, 1000.0
_BT2020_PRIMARIES = 9
_LUMA_2020 = (0.2627, 0.6780, 0.0593)
_TO_709 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))
_KNEE = 0.6  # of white
_DISPLAY_GAMMA = 2.4
_BITS = 8
_CODES = 1 << _BITS

_HDR_NOTE = "HDR input: its light was brought into the range of SDR (BT.709), with 8 bits a channel"
_DEEP_NOTE = "input of {bits} bits a channel: converted to 8"


class Tone:
    """Code values (..., 3) uint8 to 0..1 for the network, on one device."""

    def __init__(self, color: Color, device: torch.device) -> None:
        light_of = _LIGHT.get(color.transfer)
        codes = torch.arange(_CODES, dtype=torch.float64) / (_CODES - 1)
        self._is_hlg = color.transfer == _HLG
        self._light = None if light_of is None else light_of(codes).float().to(device)
        to_709 = torch.tensor(_TO_709) if color.primaries == _BT2020_PRIMARIES else torch.eye(3)
        self._to_709 = to_709.to(device)

    def __call__(self, frames: Tensor) -> Tensor:
        """(n, h, w, 3) uint8 to float32 of 0..1."""
        if self._light is None:
            return frames.float().div_(_CODES - 1)
        light = self._light[frames.int()]  # (n, h, w, 3); 1 is white
        if self._is_hlg:
            light = _displayed(light)
        return _rolled_off(light @ self._to_709.T).pow_(1 / _DISPLAY_GAMMA)


def is_hdr(color: Color) -> bool:
    """Whether the stream says that its code values are PQ or HLG."""
    return color.transfer in _LIGHT


def shown_color(color: Color) -> Color:
    """What colour the result says it has."""
    return BT709 if is_hdr(color) else color


def tone_notes(video: VideoFacts) -> list[str]:
    """What of the input's depth and light is not in the result, in words."""
    if is_hdr(video.color):
        return [_HDR_NOTE]
    bits = max(component.bits for component in av.VideoFormat(video.pixel_format).components)
    return [_DEEP_NOTE.format(bits=bits)] if bits > _BITS else []


def _pq_light(codes: Tensor) -> Tensor:
    """SMPTE ST 2084: 1 is white."""
    root = codes ** (1 / 78.84375)
    nits = 10_000 * ((root - 0.8359375).clamp(min=0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    return nits / _WHITE_NITS


def _hlg_light(codes: Tensor) -> Tensor:
    """ARIB STD-B67: the scene's light, 0..1."""
    curved = ((codes - 0.55991073) / 0.17883277).exp().add(0.28466892) / 12
    return torch.where(codes <= 0.5, codes**2 / 3, curved)


def _displayed(scene: Tensor) -> Tensor:
    """HLG's system gamma of 1.2; 1 is white."""
    luma = (scene * scene.new_tensor(_LUMA_2020)).sum(dim=-1, keepdim=True)
    return scene * luma.clamp(min=1e-6).pow(0.2) * (_PEAK_NITS / _WHITE_NITS)


_LIGHT: dict[int, Callable[[Tensor], Tensor]] = {_PQ: _pq_light, _HLG: _hlg_light}


def _rolled_off(light: Tensor) -> Tensor:
    """Light of which 1 is white to 0..1: the peak becomes 1, what is below the knee stays as it is."""
    light = light.clamp(min=0)
    brightest = light.amax(dim=-1, keepdim=True).clamp(min=_KNEE)
    above = (brightest - _KNEE) / (1 - _KNEE)
    peak = (_PEAK_NITS / _WHITE_NITS - _KNEE) / (1 - _KNEE)
    rolled = _KNEE + (1 - _KNEE) * above * (1 + above / peak**2) / (1 + above)
    return (light * (rolled / brightest)).clamp_(max=1)
