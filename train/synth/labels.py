"""Labels of a render: intensity 0–5 and occurrence of each action unit.

Most follow from what the face was asked to do. Parted lips (AU25) and closed eyes (AU43) follow from what is
to be seen, whatever brought it about: a dropped jaw parts the lips, and a half blink is neither open nor
closed. AU26 is how far the jaw hangs, a stretched mouth (AU27) included, which has its own label besides.
"""

import numpy as np
from numpy.typing import NDArray

from train.synth.figure import Acting, Truth
from train.synth.script import LABELLED

UNKNOWN = 9
ABSENT_BELOW, PRESENT_FROM = 0.5, 1.0
"""Intensities between the two are a trace that coders dispute: occurrence unknown."""
LIPS_CLOSED, LIPS_PARTED, LIPS_WIDE = 0.012, 0.024, 0.16
"""Lip gaps in face units: the widest of closed lips, the least of parted ones, intensity 5."""
LIDS_CLOSED, LIDS_OPEN, BLINKING = 0.2, 0.4, 0.3
"""Shares of the opening at rest; share of a closing below which narrow eyes are squinting, not closing."""
_SHOWN_BY = {
    "brows": ("AU01", "AU02", "AU04"),
    "eyes": ("AU05", "AU06", "AU07", "AU43"),
    "nose": ("AU09",),
    "mouth": tuple(au for au in LABELLED if "AU10" <= au <= "AU28"),
}


def labels(acting: Acting, truth: Truth) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """(A,) float32 intensities 0–5 and (A,) uint8 occurrence (1, 0, or 9 for unknown), as in LABELLED.

    What a hand hides is unknown: NaN and 9.
    """
    shares = {au: max(sides) for au, sides in acting.intensities.items()}
    intensity = np.array([5.0 * min(shares.get(au, 0.0), 1.0) for au in LABELLED], np.float32)
    occurrence = np.where(intensity >= PRESENT_FROM, 1, np.where(intensity < ABSENT_BELOW, 0, UNKNOWN))
    lips, lids = LABELLED.index("AU25"), LABELLED.index("AU43")
    intensity[lips] = 5 * np.clip((truth.lip_gap - LIPS_CLOSED) / (LIPS_WIDE - LIPS_CLOSED), 0, 1)
    occurrence[lips] = _between(truth.lip_gap, LIPS_CLOSED, LIPS_PARTED)
    closing = max(acting.intensities.get("AU43", (0.0, 0.0)))
    open_share = max(truth.lids_open)
    if open_share <= LIDS_CLOSED:
        intensity[lids], occurrence[lids] = 5.0, 1
    elif closing < BLINKING:
        intensity[lids], occurrence[lids] = 0.0, 0
    else:
        intensity[lids] = 5 * np.clip((0.8 - open_share) / 0.6, 0, 1)
        occurrence[lids] = 0 if open_share >= LIDS_OPEN else UNKNOWN
    for part in truth.hidden:
        for au in _SHOWN_BY[part]:
            intensity[LABELLED.index(au)], occurrence[LABELLED.index(au)] = np.nan, UNKNOWN
    return intensity, occurrence.astype(np.uint8)


def _between(value: float, absent: float, present: float) -> int:
    return 1 if value >= present else 0 if value <= absent else UNKNOWN
