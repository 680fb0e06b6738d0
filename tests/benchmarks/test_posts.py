"""Covers: the draw of posts for benchmarks, `benchmarks/lib/posts.py`."""

from benchmarks.lib import posts


def test_parts_are_disjoint_and_sized() -> None:
    parts = posts.read(num_posts=40)
    assert len(parts.train) + len(parts.val) == 40
    assert len(parts.train) == 30
    ids = [post.id for part in vars(parts).values() for post in part]
    assert len(ids) == len(set(ids))


def test_seed_decides_drawn_posts() -> None:
    assert posts.read(num_posts=40) == posts.read(num_posts=40)
    assert posts.read(num_posts=40) != posts.read(num_posts=40, seed=8)


def test_number_of_test_posts_applies() -> None:
    parts = posts.read(num_posts=40, num_test=30)
    assert len(parts.train) + len(parts.val) == 40
    assert len(parts.test) == 30


def test_small_folder_keeps_train_posts() -> None:
    few = posts.read(num_posts=60, num_test=600)
    assert len(few.train) + len(few.val) == 60
    assert len(few.train) >= 44
    assert few.test


def test_few_batches_hold_no_test() -> None:
    few = posts.read().few(3, 8)
    assert (len(few.train), len(few.val), len(few.test)) == (24, 8, 0)
