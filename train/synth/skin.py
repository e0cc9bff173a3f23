"""Skin as an elastic sheet: a few points are pulled, the others follow, but not across lids or lips."""

import numpy as np
from numpy.typing import NDArray

_REACH = 0.34  # how far a pull is felt, in face units
_HOLD = 60.0  # stiffness of a handle against the sheet's own


class Skin:
    """The sheet over a mesh: membrane plus thin plate, held weakly to its place."""

    def __init__(
        self, points: NDArray[np.float64], triangles: NDArray[np.int64], follows: NDArray[np.float64]
    ) -> None:
        """points: (V, ≥2) in face units; triangles: (T, 3); follows: (V,) 1 where free, 0 where held fast."""
        laplacian = _laplacian(triangles, points[:, :2], len(points))
        pinned = 1e3 * (follows < 0.02) + 3.0 * (1 - follows)
        self._sheet = laplacian.T @ laplacian + np.diag((0.08 / _REACH) ** 4 + pinned)

    def spread(self, pulls: dict[int, NDArray[np.float64]]) -> NDArray[np.float64]:
        """{point: (D,) displacement} → (V, D) displacement of every point, in the same units."""
        system = self._sheet.copy()
        right = np.zeros((len(system), len(next(iter(pulls.values())))))
        for point, displacement in pulls.items():
            system[point, point] += _HOLD
            right[point] = _HOLD * displacement
        return np.linalg.solve(system, right)


def _laplacian(triangles: NDArray[np.int64], points: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(V, V): a point less the mean of its neighbours, near ones counting more."""
    weights = np.zeros((count, count))
    for a, b in ((0, 1), (1, 2), (2, 0)):
        i, j = triangles[:, a], triangles[:, b]
        weights[i, j] = weights[j, i] = 1 / np.maximum(np.linalg.norm(points[i] - points[j], axis=1), 0.01)
    total = weights.sum(axis=1, keepdims=True)
    return np.eye(count) - weights / np.where(total > 0, total, 1)
