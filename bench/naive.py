"""What a user would write in an afternoon: one process, one loop, everything as the tutorials show it.

OpenCV reads, MediaPipe's FaceMesh solution finds the points, NumPy makes the difference map against the first
frame, PyTorch runs the networks eagerly, and SAT-Net's window is recomputed whole at every output. Same
weights, same crops, same hop as the pipeline; `python -m bench stream` runs it as its yardstick.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque

import cv2
import numpy as np
import torch
from mediapipe.python.solutions.face_mesh import FaceMesh
from numpy.typing import NDArray

from engines.bundle import resolve
from engines.export import ExportedEngine
from engines.weights import load_network
from pipeline import align
from pipeline.diffmap import level_map_numpy


def main(path: str, engines: list[str], hop: int, frames: int) -> None:
    """Process a file and print {"frames": …, "seconds": …} as JSON; loading the models does not count."""
    bundles = {name: resolve(name) for name in engines}
    networks = {name: ExportedEngine(bundle.spec, load_network(bundle)) for name, bundle in bundles.items()}
    mesh = FaceMesh(max_num_faces=1, refine_landmarks=True)
    capture = cv2.VideoCapture(path)
    neutral: NDArray[np.uint8] | None = None
    window: deque[NDArray[np.uint8]] = deque(maxlen=16)
    done, began = 0, time.perf_counter()
    while done < frames:
        ok, image = capture.read()
        if not ok:
            break
        done += 1
        found = mesh.process(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).multi_face_landmarks
        if not found:
            continue
        height, width = image.shape[:2]
        points = np.array([(p.x * width, p.y * height, p.z * width) for p in found[0].landmark], np.float32)
        transform = align.five_point_transform(points)
        aligned = cv2.warpAffine(image, transform, (224, 224), borderMode=cv2.BORDER_REPLICATE)
        neutral = aligned if neutral is None else neutral
        with torch.no_grad():
            if "cednn" in networks:
                mask = align.face_mask(align.transform_points(transform, points))
                levels = level_map_numpy(aligned, neutral, mask)
                networks["cednn"](torch.from_numpy(aligned)[None], torch.from_numpy(levels)[None])
            if "satnet" in networks:
                low, high = points[:, :2].min(0), points[:, :2].max(0)
                box = align.box_transform((low[0], low[1], high[0], high[1]), 224)
                window.append(cv2.warpAffine(image, box, (224, 224), borderMode=cv2.BORDER_REPLICATE))
                if len(window) == 16 and done % hop == 0:
                    networks["satnet"](torch.from_numpy(np.stack(list(window)))[None])
    print(json.dumps({"frames": done, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","), int(sys.argv[3]), int(sys.argv[4]))
