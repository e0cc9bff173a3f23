import numpy as np

from train.synth.figure import View
from train.synth.hand import PARTS, Hand, draw_hand, hidden_parts, lay_hand
from train.synth.pose import Pose

VIEW = View(Pose(), (200.0, 150.0), 100.0, 10.0)


def test_a_hand_before_the_mouth_hides_the_mouth_alone() -> None:
    picture = np.full((400, 400, 3), 90, np.uint8)
    mask = lay_hand(picture, Hand((0.0, 0.45), 0.0, 4, 0.14, 1.0), VIEW, np.array([120.0, 150.0, 200.0]))
    points = np.tile((200.0, 100.0), (468, 1))  # on the forehead
    points[list(PARTS["mouth"])] = VIEW.project(np.array([[0.0, 0.6, 0.0]]))[0, :2]
    assert hidden_parts(mask, points) == {"mouth"}
    assert (picture[mask == 255] != 90).any(axis=1).mean() > 0.95
    assert (picture[cv_far(mask)] == 90).all()


def cv_far(mask: np.ndarray) -> np.ndarray:
    """Pixels above the hand, out of reach of its soft edge."""
    top = int(np.flatnonzero(mask.any(axis=1))[0])
    far = np.zeros(mask.shape, bool)
    far[: top - 3] = True
    return far


def test_hands_come_from_below_and_vary() -> None:
    rng = np.random.default_rng(1)
    hands = [draw_hand(rng) for _ in range(200)]
    assert all(abs(hand.angle_deg) < 90 for hand in hands)
    assert {hand.fingers for hand in hands} == {1, 2, 3, 4}
    assert np.std([hand.tip_xy[1] for hand in hands]) > 0.2
