"""Where the joints of legs and arms are, from the moment of the walk."""

import math
from typing import NamedTuple

from reid_explain.datasets.synthetic.canvas import Point
from reid_explain.datasets.synthetic.person import Person

ANKLE, KNEE, HIP, SHOULDER = 0.045, 0.275, 0.505, 0.782
"""Heights of joints, in statures."""
HIP_JOINT, SHOULDER_JOINT = 0.05, 0.1
UPPER_ARM, FOREARM = 0.165, 0.15


class Leg(NamedTuple):
    """Joints of a leg in pixels; ``order`` places it from back (low) to front (high)."""

    order: float
    hip: Point
    knee: Point
    ankle: Point
    heel: Point
    toe: Point


class Arm(NamedTuple):
    """Joints of an arm in pixels; ``grip`` is the palm in body coordinates."""

    order: float
    shoulder: Point
    elbow: Point
    hand: Point
    finger: Point
    grip: tuple[float, float, float]


def leg(person: Person, side: int) -> Leg:
    """Return the left (-1) or right (1) leg."""
    view, pose = person.view, person.pose
    swing = side * pose.stride * math.sin(pose.phase)
    bend = 0.08 + 1.5 * pose.stride * max(side * math.cos(pose.phase + 0.5), 0)
    knee_z = (HIP - KNEE) * math.sin(swing)
    knee_y = HIP - (HIP - KNEE) * math.cos(swing)
    ankle_z = knee_z + (KNEE - ANKLE) * math.sin(swing - bend)
    ankle_y = knee_y - (KNEE - ANKLE) * math.cos(swing - bend)
    x = side * HIP_JOINT
    return Leg(
        order=-1 + 0.3 * view.depth(x, ankle_z / 2),
        hip=view.project(x, HIP, 0),
        knee=view.project(x, knee_y, knee_z),
        ankle=view.project(x * 0.9, ankle_y, ankle_z),
        heel=view.project(x * 0.9, ankle_y - 0.028, ankle_z - 0.015),
        toe=view.project(x, ankle_y - 0.03, ankle_z + 0.078),
    )


def arm(person: Person, side: int) -> Arm:
    """Return the left (-1) or right (1) arm; its place does not depend on gender."""
    view, pose = person.view, person.pose
    swing = -side * pose.arm_swing * math.sin(pose.phase)
    reach = swing + pose.elbow
    elbow_y, elbow_z = SHOULDER - UPPER_ARM * math.cos(swing), UPPER_ARM * math.sin(swing)
    hand_y, hand_z = elbow_y - FOREARM * math.cos(reach), elbow_z + FOREARM * math.sin(reach)
    x = side * SHOULDER_JOINT * person.look.build
    depth = view.depth(x, 0)
    return Arm(
        order=(2 if depth > -0.04 else -2) + 0.1 * depth,
        shoulder=view.project(x, SHOULDER, pose.lean),
        elbow=view.project(x * 1.2, elbow_y, elbow_z + pose.lean),
        hand=view.project(x * 1.24, hand_y, hand_z),
        finger=view.project(x * 1.2, hand_y - 0.045, hand_z + 0.012),
        grip=(x * 1.24, hand_y - 0.03, hand_z),
    )
