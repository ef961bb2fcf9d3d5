"""The rows of a small sound data set, to be written or broken in one place."""

HEADER = "userID\titemID\trating\ttimestamp\tx_label"
# Four users, five items; every item and user is trained on, nobody took everything.
ROWS = [
    (0, 0, 5.0, 10, 0),
    (0, 1, 4.0, 11, 0),
    (0, 2, 3.0, 12, 1),
    (0, 3, 3.0, 13, 2),
    (1, 1, 5.0, 20, 0),
    (1, 2, 5.0, 21, 0),
    (1, 4, 5.0, 22, 2),
    (2, 3, 1.0, 30, 0),
    (2, 0, 1.0, 31, 1),
    (3, 4, 2.0, 40, 0),
    (3, 0, 2.0, 41, 0),
    (3, 1, 2.0, 42, 1),
    (3, 2, 2.0, 43, 2),
]
TRAIN = [[0, 0, 1, 1, 2, 3, 3], [0, 1, 1, 2, 3, 4, 0]]
VALID = [[0, 2, 3], [2, 0, 1]]
TEST = [[0, 1, 3], [3, 4, 2]]


def inter_text(rows=ROWS, header=HEADER, separator="\t") -> str:
    lines = [header, *(separator.join(map(str, row)) for row in rows)]
    return "\n".join(lines) + "\n"
