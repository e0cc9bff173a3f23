"""The points of MediaPipe's face mesh that the renderer names; right is the subject's, the image's left."""

# Loops run from the subject's right to the left, so that reversing one mirrors it.
UPPER_LIP_INNER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LOWER_LIP_INNER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
UPPER_LIP_LOOPS = (
    (62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292),
    (76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306),
    (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291),
)
LOWER_LIP_LOOPS = (
    (62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292),
    (76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306),
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291),
)
LIPS = tuple(
    sorted(
        {i for loop in (UPPER_LIP_INNER, LOWER_LIP_INNER, *UPPER_LIP_LOOPS, *LOWER_LIP_LOOPS) for i in loop}
    )
)

# From the outer corner to the inner one.
RIGHT_LID_UPPER = (33, 246, 161, 160, 159, 158, 157, 173, 133)
RIGHT_LID_LOWER = (33, 7, 163, 144, 145, 153, 154, 155, 133)
LEFT_LID_UPPER = (263, 466, 388, 387, 386, 385, 384, 398, 362)
LEFT_LID_LOWER = (263, 249, 390, 373, 374, 380, 381, 382, 362)
RIGHT_LID_FOLD = (247, 30, 29, 27, 28, 56, 190)
LEFT_LID_FOLD = (467, 260, 259, 257, 258, 286, 414)
RIGHT_BAG = (25, 110, 24, 23, 22, 26, 112)
LEFT_BAG = (255, 339, 254, 253, 252, 256, 341)

RIGHT_EYE_OUTER, LEFT_EYE_OUTER = 33, 263
MOUTH_CORNERS = (61, 291)
NOSE_BASE, CHIN = 2, 152

# fmt: off
OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148,
        176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)

# (right, left): points off the midline that expressions and creases use, beside the loops above.
_PAIRS = (
    (70, 300), (63, 293), (105, 334), (66, 296), (107, 336), (46, 276), (53, 283), (52, 282), (65, 295),
    (55, 285),
    (103, 332), (104, 333), (69, 299), (108, 337), (67, 297), (109, 338), (68, 298), (54, 284), (21, 251),
    (225, 445), (224, 444), (223, 443), (222, 442), (221, 441), (113, 342), (124, 353), (156, 383),
    (193, 417), (189, 413), (122, 351), (188, 412), (245, 465), (174, 399), (196, 419), (114, 343),
    (244, 464),
    (50, 280), (101, 330), (36, 266), (205, 425), (206, 426), (203, 423), (207, 427), (187, 411), (100, 329),
    (117, 346), (118, 347), (119, 348), (120, 349), (121, 350), (116, 345), (111, 340), (31, 261), (35, 265),
    (228, 448), (229, 449), (230, 450), (231, 451), (232, 452), (226, 446), (143, 372), (34, 264), (130, 359),
    (216, 436), (212, 432), (214, 434), (202, 422), (210, 430), (204, 424), (43, 273), (57, 287), (186, 410),
    (92, 322), (165, 391), (167, 393), (106, 335), (182, 406), (83, 313), (201, 421), (208, 428), (194, 418),
    (211, 431), (32, 262), (171, 396), (140, 369), (170, 395), (169, 394), (135, 364), (138, 367), (192, 416),
    (48, 278), (49, 279), (64, 294), (98, 327), (129, 358), (102, 331), (209, 429), (126, 355), (115, 344),
    (131, 360), (219, 439), (240, 460), (97, 326), (142, 371), (217, 437), (198, 420), (7, 249), (128, 357),
    (148, 377), (176, 400), (149, 378), (150, 379), (136, 365), (172, 397), (58, 288), (132, 361), (93, 323),
)
# fmt: on


def _mirror() -> dict[int, int]:
    pairs = list(_PAIRS)
    for loop in (UPPER_LIP_INNER, LOWER_LIP_INNER, *UPPER_LIP_LOOPS, *LOWER_LIP_LOOPS):
        pairs += list(zip(loop, reversed(loop), strict=True))
    for right, left in (
        (RIGHT_LID_UPPER, LEFT_LID_UPPER),
        (RIGHT_LID_LOWER, LEFT_LID_LOWER),
        (RIGHT_LID_FOLD, LEFT_LID_FOLD),
        (RIGHT_BAG, LEFT_BAG),
    ):
        pairs += list(zip(right, left, strict=True))
    there = dict(pairs)
    return {**there, **{left: right for right, left in there.items()}}


MIRROR: dict[int, int] = _mirror()
"""The counterpart on the other half of the face; a point that is absent lies on the midline."""
