"""How far a face can be trusted: sharpness, and whether something covers it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_PX = 56
_NEIGHBOURHOOD_PX = 11

# Mesh points and their mirror images (right, left), spread evenly over the upper and the lower face.
_UPPER = (
    *((21, 251), (29, 259), (35, 265), (54, 284), (63, 293), (66, 296), (67, 297), (69, 299), (70, 300)),
    *((103, 332), (104, 333), (105, 334), (107, 336), (108, 337), (109, 338), (124, 353), (127, 356)),
    *((130, 359), (144, 373), (154, 381), (158, 385), (162, 389), (188, 412), (193, 417), (221, 441)),
    *((222, 442), (228, 448)),
)
_LOWER = (
    *((3, 248), (36, 266), (37, 267), (43, 273), (45, 275), (47, 277), (48, 278), (50, 280), (83, 313)),
    *((101, 330), (111, 340), (132, 361), (137, 366), (138, 367), (142, 371), (148, 377), (149, 378)),
    *((150, 379), (165, 391), (167, 393), (169, 394), (172, 397), (176, 400), (181, 405), (185, 409)),
    *((187, 411), (194, 418), (203, 423), (204, 424), (205, 425), (206, 426), (207, 427), (208, 428)),
    *((210, 430), (212, 432), (214, 434), (215, 435), (216, 436), (227, 447), (230, 450), (231, 451)),
    *((242, 370),),
)
_PAIRS = np.array(_UPPER + _LOWER)


def blur(aligned_bgr: NDArray[np.uint8]) -> float:
    """0 sharp … 1 blurred: the share of gradient energy that survives a Gaussian blur of the 112-px face.

    Args:
        aligned_bgr: 224×224×3 uint8, five-point aligned.
    """
    small = cv2.resize(aligned_bgr, (112, 112), interpolation=cv2.INTER_AREA)[20:100, 24:88]
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)

    def energy(picture: NDArray[np.float32]) -> float:
        return float(np.square(np.diff(picture, axis=0)).sum() + np.square(np.diff(picture, axis=1)).sum())

    return energy(cv2.GaussianBlur(grey, (0, 0), 1.0)) / max(energy(grey), 1.0)


def symmetry(aligned_bgr: NDArray[np.uint8], aligned_xy: NDArray[np.float64]) -> float:
    """How alike the two halves of a face are, −1 to 1: the lesser of the upper and the lower face.

    The grey values at mirrored mesh points, local mean and contrast taken out, are correlated; so a turned
    head or light from one side matters little, and a hand, a strand of hair or a microphone in front of the
    face much. (Unoccluded faces within 15° of yaw reach 0.55 and more, a hand at the mouth or an eye leaves
    less than 0.46: LOG.md, 2026-11-21.)

    Args:
        aligned_bgr: 224×224×3 uint8, five-point aligned. aligned_xy: 478×2 mesh points in it.
    """
    size = len(aligned_bgr)
    grey = cv2.cvtColor(cv2.resize(aligned_bgr, (_PX, _PX), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    values = grey.astype(np.float32)
    around = (_NEIGHBOURHOOD_PX, _NEIGHBOURHOOD_PX)
    centered = values - cv2.blur(values, around)
    relief = centered / (np.sqrt(cv2.blur(centered * centered, around)) + 4.0)
    xy = ((aligned_xy[_PAIRS] + 0.5) * (_PX / size) - 0.5).astype(np.float32)
    right, left = cv2.remap(
        relief, xy[..., 0], xy[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    ).T
    upper = len(_UPPER)
    return min(_correlation(right[:upper], left[:upper]), _correlation(right[upper:], left[upper:]))


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-6))
