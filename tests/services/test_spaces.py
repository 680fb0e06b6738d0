from src.core.config import Range
from src.services.spaces import highest


def test_the_highest_of_each_setting_that_is_a_number() -> None:
    space = {
        "rank": Range(low=1, high=16, scale="log2"),
        "lr": Range(low=0.001, high=0.1, scale="log"),
        "head_width": Range(choices=(512, 128)),
        "objective": Range(choices=("head", "words")),
    }
    assert highest(space) == {"rank": 16, "lr": 0.1, "head_width": 512}
