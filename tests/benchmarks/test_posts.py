"""The posts that benchmarks train on."""

from benchmarks import posts


def test_train_and_val_are_as_asked_and_share_no_post() -> None:
    parts = posts.read(num_posts=40)
    assert len(parts.train) + len(parts.val) == 40
    assert len(parts.train) == 30
    everyone = [post.id for part in vars(parts).values() for post in part]
    assert len(everyone) == len(set(everyone))


def test_the_same_seed_draws_the_same_posts() -> None:
    assert posts.read(num_posts=40) == posts.read(num_posts=40)
    assert posts.read(num_posts=40) != posts.read(num_posts=40, seed=8)


def test_test_is_as_large_as_asked_where_the_folder_has_so_many() -> None:
    parts = posts.read(num_posts=40, num_test=30)
    assert len(parts.train) + len(parts.val) == 40
    assert len(parts.test) == 30


def test_a_small_folder_keeps_its_posts_of_train() -> None:
    few = posts.read(num_posts=60, num_test=600)
    assert len(few.train) + len(few.val) == 60
    assert len(few.train) >= 44
    assert few.test


def test_few_are_so_many_batches_and_no_test() -> None:
    few = posts.read().few(3, 8)
    assert (len(few.train), len(few.val), len(few.test)) == (24, 8, 0)
