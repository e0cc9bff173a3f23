"""The face detector and the face mesh of MediaPipe, one face at a time, and the names of the mesh's points.

MediaPipe's own FaceMesh solution tracks faces inside its graph and hands them over without a score and
without saying which is which. Here its two networks are run bare: `FaceDetector` finds boxes, `FaceMesh`
turns one region into 478 points and a presence score. Who is who, and where to look next, is decided in
`pipeline.tracking`. Models are those in the wheel; nothing is downloaded.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# Left and right are the person's own.
EYE_OUTER_RIGHT, EYE_INNER_RIGHT, EYE_INNER_LEFT, EYE_OUTER_LEFT = 33, 133, 362, 263
LID_UPPER_RIGHT, LID_LOWER_RIGHT = (160, 159, 158), (144, 145, 153)
LID_UPPER_LEFT, LID_LOWER_LEFT = (387, 386, 385), (373, 374, 380)
NOSE_BASE = 2
NOSE_ROOT = 168
MOUTH_CORNER_RIGHT, MOUTH_CORNER_LEFT = 61, 291
LIP_INNER_UPPER, LIP_INNER_LOWER = 13, 14
CHIN = 152
BROW_RIGHT = (70, 63, 105, 66, 107)
"""Upper edge of the right brow from its tail to its inner end: dlib's points 18–22."""
BROW_LEFT = (336, 296, 334, 293, 300)
"""Upper edge of the left brow from its inner end to its tail: dlib's points 23–27."""
JAW = (127, 234, 132, 172, 136, 150, 176, 148, 152, 377, 400, 379, 365, 397, 361, 454, 356)
"""Contour from the right temple over the chin to the left temple: dlib's points 1–17."""

REGION_SCALE = 1.5
"""Side of the region that the mesh network sees over the longer side of the face's box."""

_MESH_INPUT_PX = 192
_DETECTOR_LONG_SIDE_PX = 640
_MOST_SQUARES = 4
_MODELS = "mediapipe/modules/face_landmark/face_landmark_with_attention.tflite"

_MESH_GRAPH = f"""
input_stream: "image"
output_stream: "points"
output_stream: "presence"
node {{
  calculator: "TfLiteCustomOpResolverCalculator"
  output_side_packet: "OP_RESOLVER:resolver"
}}
node {{
  calculator: "ImageToTensorCalculator"
  input_stream: "IMAGE:image"
  output_stream: "TENSORS:pixels"
  options {{ [mediapipe.ImageToTensorCalculatorOptions.ext] {{
    output_tensor_width: {_MESH_INPUT_PX} output_tensor_height: {_MESH_INPUT_PX}
    output_tensor_float_range {{ min: 0 max: 1 }}
  }} }}
}}
node {{
  calculator: "InferenceCalculator"
  input_stream: "TENSORS:pixels"
  output_stream: "TENSORS:outputs"
  input_side_packet: "OP_RESOLVER:resolver"
  options {{ [mediapipe.InferenceCalculatorOptions.ext] {{
    model_path: "{_MODELS}" delegate {{ xnnpack {{ num_threads: 1 }} }}
  }} }}
}}
node {{
  calculator: "SplitTensorVectorCalculator"
  input_stream: "outputs"
  output_stream: "mesh"
  output_stream: "flag"
  options {{ [mediapipe.SplitVectorCalculatorOptions.ext] {{
    ranges {{ begin: 0 end: 6 }} ranges {{ begin: 6 end: 7 }}
  }} }}
}}
node {{
  calculator: "TensorsToFloatsCalculator"
  input_stream: "TENSORS:flag"
  output_stream: "FLOAT:presence"
  options {{ [mediapipe.TensorsToFloatsCalculatorOptions.ext] {{ activation: SIGMOID }} }}
}}
node {{
  calculator: "TensorsToFaceLandmarksWithAttention"
  input_stream: "TENSORS:mesh"
  output_stream: "LANDMARKS:points"
}}
"""

_DETECTOR_GRAPH = """
input_stream: "image"
output_stream: "detections"
node {{ calculator: "{calculator}" input_stream: "IMAGE:image" output_stream: "DETECTIONS:detections" }}
"""


@dataclass(frozen=True, slots=True)
class Region:
    """A square of a picture in which a face is expected, turned with the head."""

    center_xy: tuple[float, float]
    side_px: float
    angle_rad: float
    """Of the line from the right to the left eye against the picture's rows, clockwise on the screen."""


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep MediaPipe's native start-up messages off stderr; they come back if it fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(stderr, said.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


class _Graph:
    """One MediaPipe graph with one image input, run to completion for every image."""

    def __init__(self, config: str, outputs: tuple[str, ...]) -> None:
        # Options are extensions of the graph's message: importing their modules registers them.
        from google.protobuf import text_format
        from mediapipe.calculators.core import split_vector_calculator_pb2  # noqa: F401
        from mediapipe.calculators.tensor import (  # noqa: F401
            image_to_tensor_calculator_pb2,
            inference_calculator_pb2,
            tensors_to_floats_calculator_pb2,
        )
        from mediapipe.framework import calculator_pb2

        # The first picture of all is a black one: what loads late and talks while it loads does so here.
        with _without_chatter():
            self._start(text_format.Parse(config, calculator_pb2.CalculatorGraphConfig()), outputs)
            self(np.zeros((_MESH_INPUT_PX, _MESH_INPUT_PX, 3), np.uint8))

    def _start(self, config: Any, outputs: tuple[str, ...]) -> None:
        import mediapipe
        from mediapipe.python._framework_bindings import calculator_graph, image_frame, resource_util
        from mediapipe.python.packet_creator import create_image_frame

        resource_util.set_resource_dir(os.path.dirname(os.path.dirname(mediapipe.__file__)))
        self._create_packet = create_image_frame
        self._format = image_frame.ImageFormat.SRGB
        self._graph = calculator_graph.CalculatorGraph(graph_config=config)
        self._packets: dict[str, Any] = {}
        for name in outputs:
            self._graph.observe_output_stream(name, self._packets.__setitem__)
        self._timestamp = 0
        self._graph.start_run({})

    def __call__(self, image_rgb: NDArray[np.uint8]) -> dict[str, Any]:
        self._packets.clear()
        self._timestamp += 1
        packet = self._create_packet(image_format=self._format, data=image_rgb).at(self._timestamp)
        self._graph.add_packet_to_input_stream("image", packet)
        self._graph.wait_until_idle()
        return self._packets

    def close(self) -> None:
        self._graph.close_all_packet_sources()
        self._graph.wait_until_done()


Found = tuple[float, Region]
"""A detected face: its score, 0–1, and where it is."""


def by_score(found: Iterable[Found]) -> list[Region]:
    """Most certain first."""
    return [region for _, region in sorted(found, key=lambda item: -item[0])]


class FaceDetector:
    """Boxes of the faces in a picture: the short-range detector, and the full-range one for small faces.

    Both shrink what they see to less than 200 px, and lose the smaller faces of a wide picture: so a thorough
    search also goes through squares of the picture, which overlap.
    """

    def __init__(self) -> None:
        self._near = _Graph(_DETECTOR_GRAPH.format(calculator="FaceDetectionShortRangeCpu"), ("detections",))
        self._far = _Graph(_DETECTOR_GRAPH.format(calculator="FaceDetectionFullRangeCpu"), ("detections",))

    def __call__(self, image_bgr: NDArray[np.uint8], thorough: bool = False) -> list[Region]:
        """Regions of faces in an H×W×3 uint8 picture, most certain first; a face may appear twice."""
        return by_score(self.near(image_bgr) + self.far(image_bgr, thorough))

    def near(self, image_bgr: NDArray[np.uint8]) -> list[Found]:
        """What the short-range detector alone finds, in a third of the time."""
        return self._look(self._near, image_bgr, (0, 0, image_bgr.shape[1], image_bgr.shape[0]))

    def far(self, image_bgr: NDArray[np.uint8], thorough: bool) -> list[Found]:
        """What the full-range detector finds."""
        height, width = image_bgr.shape[:2]
        found = self._look(self._far, image_bgr, (0, 0, width, height))
        for square in _squares(width, height) if thorough else ():
            found += self._look(self._far, image_bgr, square)
        return found

    def _look(
        self, graph: _Graph, image_bgr: NDArray[np.uint8], box_xyxy: tuple[int, int, int, int]
    ) -> list[Found]:
        from mediapipe.python.packet_getter import get_proto_list

        x0, y0, x1, y1 = box_xyxy
        width, height = x1 - x0, y1 - y0
        part = image_bgr[y0:y1, x0:x1]
        scale = min(1.0, _DETECTOR_LONG_SIDE_PX / max(height, width))
        size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(part, size_wh, interpolation=cv2.INTER_AREA) if scale < 1 else part
        packet = graph(cv2.cvtColor(small, cv2.COLOR_BGR2RGB)).get("detections")
        if packet is None or packet.is_empty():
            return []
        return [(d.score[0], _detected_region(d, box_xyxy)) for d in get_proto_list(packet)]

    def close(self) -> None:
        self._near.close()
        self._far.close()


class FaceMesh:
    """478 points of the face in a region."""

    def __init__(self) -> None:
        self._graph = _Graph(_MESH_GRAPH, ("points", "presence"))

    def __call__(self, image_bgr: NDArray[np.uint8], region: Region) -> tuple[NDArray[np.float32], float]:
        """Points (478×3 float32: x, y in pixels of the picture, z in the same scale) and presence, 0–1."""
        from mediapipe.python.packet_getter import get_float, get_proto

        to_input = _region_transform(region)
        patch = warp(image_bgr, to_input, _MESH_INPUT_PX)
        packets = self._graph(cv2.cvtColor(patch, cv2.COLOR_BGR2RGB))
        landmarks = get_proto(packets["points"]).landmark
        normalized = np.array([(p.x, p.y, p.z) for p in landmarks], np.float64)
        back = cv2.invertAffineTransform(to_input)
        points = np.empty((len(landmarks), 3), np.float32)
        points[:, :2] = normalized[:, :2] * _MESH_INPUT_PX @ back[:, :2].T + back[:, 2]
        points[:, 2] = normalized[:, 2] * region.side_px
        return points, float(get_float(packets["presence"]))

    def close(self) -> None:
        self._graph.close()


def region_of(points: NDArray[np.float32]) -> Region:
    """Where to look for the face whose points (478×3, pixels) these are."""
    dx, dy = points[EYE_OUTER_LEFT, :2] - points[EYE_OUTER_RIGHT, :2]
    angle = float(np.arctan2(dy, dx))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    upright = points[:, :2] @ turn.T
    low, high = upright.min(0), upright.max(0)
    center = (low + high) / 2 @ turn
    return Region((float(center[0]), float(center[1])), REGION_SCALE * float((high - low).max()), angle)


def warp(
    image_bgr: NDArray[np.uint8],
    transform: NDArray[np.float64],
    size_px: int,
    border: int = cv2.BORDER_REPLICATE,
) -> NDArray[np.uint8]:
    """The square of `size_px` that a similarity (2×3, picture → square) cuts out, without aliasing.

    Bilinear sampling reads four pixels of the source however much the picture shrinks; below one half the
    source is first reduced by area averaging, else fine texture flickers from frame to frame.
    """
    shrink = float(np.hypot(transform[0, 0], transform[1, 0]))
    if shrink < 0.5:
        back = cv2.invertAffineTransform(transform)
        corners = (
            np.array([[0, 0], [size_px, 0], [0, size_px], [size_px, size_px]]) @ back[:, :2].T + back[:, 2]
        )
        height, width = image_bgr.shape[:2]
        x0, y0 = np.clip(np.floor(corners.min(0)).astype(int) - 2, 0, (width - 1, height - 1))
        x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int) + 2, (x0 + 1, y0 + 1), (width, height))
        factor = int(1 / shrink)
        cut = image_bgr[y0:y1, x0:x1]
        size_wh = (max(1, cut.shape[1] // factor), max(1, cut.shape[0] // factor))
        scale_xy = np.array([cut.shape[1] / size_wh[0], cut.shape[0] / size_wh[1]])
        image_bgr = cv2.resize(cut, size_wh, interpolation=cv2.INTER_AREA)
        # Pixel centres: reduced pixel i covers the source around scale·(i + ½) − ½.
        shift = scale_xy * 0.5 - 0.5 + np.array([x0, y0])
        transform = np.column_stack([transform[:, :2] * scale_xy, transform[:, :2] @ shift + transform[:, 2]])
    return cv2.warpAffine(image_bgr, transform, (size_px, size_px), flags=cv2.INTER_LINEAR, borderMode=border)


def _region_transform(region: Region) -> NDArray[np.float64]:
    scale = _MESH_INPUT_PX / region.side_px
    cos, sin = scale * np.cos(region.angle_rad), scale * np.sin(region.angle_rad)
    rotation = np.array([[cos, sin], [-sin, cos]])
    center = np.array(region.center_xy)
    return np.column_stack([rotation, _MESH_INPUT_PX / 2 - rotation @ center])


def _squares(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Boxes of overlapping squares that cover a picture of up to 4:1; none if it is a square itself."""
    side, long = min(width, height), max(width, height)
    count = min(1 + math.ceil(1.5 * (long / side - 1)), _MOST_SQUARES)
    if count == 1:
        return []
    starts = [round(k * (long - side) / (count - 1)) for k in range(count)]
    if width >= height:
        return [(start, 0, start + side, side) for start in starts]
    return [(0, start, side, start + side) for start in starts]


def _detected_region(detection: Any, box_xyxy: tuple[int, int, int, int]) -> Region:
    x0, y0, x1, y1 = box_xyxy
    width, height = x1 - x0, y1 - y0
    box = detection.location_data.relative_bounding_box
    right_eye, left_eye = detection.location_data.relative_keypoints[:2]
    angle = float(np.arctan2((left_eye.y - right_eye.y) * height, (left_eye.x - right_eye.x) * width))
    center = (x0 + (box.xmin + box.width / 2) * width, y0 + (box.ymin + box.height / 2) * height)
    return Region(center, REGION_SCALE * max(box.width * width, box.height * height), angle)
